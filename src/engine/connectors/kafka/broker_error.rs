//! What errors of brokers, and of the way to them, mean: SQLSTATE, hint, and whether to try again.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::engine::error::Error;
use crate::error::{Retry, SqlState};

/// How the library says that the other side ended a connection, or speaks another protocol: which of them depends on who was in the
/// middle of what.
const ENDED_BY_BROKER: [&str; 4] = [
    "isconnected",
    "Broken pipe",
    "Connection reset",
    "Invalid response size",
];

pub fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

pub fn words_of(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        other => match code_of(other) {
            Some(code) => words_of_code(code),
            None => other.to_string(),
        },
    }
}

/// `Broker: Unknown topic or partition`, without the name that the library has for it.
pub fn words_of_code(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    let words = text.split_once(" (").and_then(|(_, words)| words.strip_suffix(')'));
    words.map_or(text.clone(), str::to_owned)
}

/// What a broker or the way to it said of `what`.
pub fn external(what: &str, code: Option<RDKafkaErrorCode>, words: &str) -> Error {
    use RDKafkaErrorCode as Code;
    let (state, retry, hint) = match code {
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => (
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Retry::Never,
            Some("Look at sasl_mechanism, sasl_username and sasl_password."),
        ),
        Some(Code::SSL) => (
            SqlState::CONNECTION_FAILURE,
            Retry::Backoff,
            Some(match words.contains("certificate verify failed") {
                true => {
                    "Give ssl_ca the authority that signed the brokers' certificates. They must be for the name of the host in \
                     bootstrap_servers, unless ssl_verify_hostname = false."
                }
                false => "Look at security_protocol, ssl_ca, ssl_certificate and ssl_key.",
            }),
        ),
        Some(Code::BrokerTransportFailure | Code::BadMessage)
            if ENDED_BY_BROKER.iter().any(|end| words.contains(end)) =>
        {
            (
                SqlState::CONNECTION_FAILURE,
                Retry::Backoff,
                Some(
                    "Look at security_protocol: a broker that wants TLS, a client certificate or a user ends connections without.",
                ),
            )
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed,
        ) => (
            SqlState::INSUFFICIENT_PRIVILEGE,
            Retry::Never,
            Some("Ask for the right on the Kafka server."),
        ),
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => (
            SqlState::UNDEFINED_TABLE,
            Retry::Never,
            Some("Create it on the Kafka server; a sink does with sink.create_topic = true."),
        ),
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => (
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            Retry::Never,
            Some("Raise max.message.bytes of the topic, and message.max.bytes in client_configs."),
        ),
        Some(Code::InvalidTransactionTimeout) => (
            SqlState::INVALID_PARAMETER_VALUE,
            Retry::Never,
            Some("Lower sink.transaction_timeout, or raise transaction.max.timeout.ms of the broker."),
        ),
        Some(Code::UnknownPartition) => (
            SqlState::INVALID_PARAMETER_VALUE,
            Retry::Never,
            Some("The topic has no partition of the number in sink.partition_field."),
        ),
        _ => (SqlState::CONNECTION_FAILURE, Retry::Backoff, None),
    };
    Error::External {
        code: state,
        message: format!("{what}: {words}"),
        hint: hint.map(str::to_owned),
        retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_be_sent_away_has_the_same_hint() {
        for words in [
            "Disconnected",
            "Send failed: Broken pipe",
            "Receive failed: Connection reset by peer",
        ] {
            let error = external("x", Some(RDKafkaErrorCode::BrokerTransportFailure), words);
            assert!(format!("{error:?}").contains("security_protocol"), "{error:?}");
        }
    }
}
