//! Clients of brokers: their properties, and what their errors mean.
//!
//! What goes wrong on a connection comes to a client's [`Listener`] in the broker's or the TLS library's own words, much earlier than
//! the call that waits for it times out with words that say nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::statistics::Statistics;
use tracing::debug;

use crate::engine::connectors::Result;
use crate::engine::connectors::kafka::health::Health;
use crate::engine::connectors::kafka::options::invalid;
use crate::engine::connectors::options::OptionReader;
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};

/// One question to a broker may take this long.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A check waits this long in all.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one wait of a check lasts before it looks whether something was said.
const CHECK_STEP: Duration = Duration::from_millis(250);
/// Long enough to hand out everything that was said.
pub const HEARING: Duration = Duration::from_millis(20);
/// That all brokers are down counts after this time: a name may have further addresses, which are tried in turn.
const ADDRESSES_TRIED: Duration = Duration::from_secs(1);
/// For this long what was heard of a connection counts more than that another address, or the next attempt, found nobody.
const TELLING: Duration = Duration::from_secs(10);
/// How the library says that the other side ended a connection, or speaks another protocol: which of them depends on who was in the
/// middle of what.
const ENDED_BY_BROKER: [&str; 4] = [
    "isconnected",
    "Broken pipe",
    "Connection reset",
    "Invalid response size",
];

/// The properties of a connection, of which clients are made.
#[derive(Clone)]
pub struct Connection {
    properties: Vec<(String, String)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    pub fn read(options: &OptionReader<'_>) -> Result<Connection> {
        let mut properties = Vec::new();
        let mut set = |name: &str, value: &str| properties.push((name.to_owned(), value.to_owned()));
        let Some(servers) = options.text("bootstrap_servers") else {
            return Err(invalid(
                "connector \"kafka\" needs option \"bootstrap_servers\"",
                "It is host:port, several with commas.",
            ));
        };
        set("bootstrap.servers", servers);
        let tls = tls_options(options);
        let sasl = ["sasl_username", "sasl_password", "sasl_mechanism"]
            .iter()
            .any(|name| options.text(name).is_some());
        let protocol = options
            .choice("security_protocol")?
            .unwrap_or(match (sasl, !tls.is_empty()) {
                (true, true) => "sasl_ssl",
                (true, false) => "sasl_plaintext",
                (false, true) => "ssl",
                (false, false) => "plaintext",
            });
        set("security.protocol", protocol);
        if protocol.starts_with("sasl") {
            let (Some(user), Some(password)) = (options.text("sasl_username"), options.text("sasl_password")) else {
                return Err(invalid(
                    "SASL needs options \"sasl_username\" and \"sasl_password\"",
                    "Give the password as a SECRET.",
                ));
            };
            let mechanism = options.choice("sasl_mechanism")?.unwrap_or("plain");
            set("sasl.mechanism", &mechanism.to_ascii_uppercase());
            set("sasl.username", user);
            set("sasl.password", password);
        } else if sasl {
            return Err(invalid(
                &format!("security_protocol = '{protocol}' knows no users"),
                "Use sasl_plaintext or sasl_ssl, or leave the user out.",
            ));
        }
        check_tls(options, protocol, &tls)?;
        for (_, property, value) in tls {
            let form = match value.contains("-----BEGIN") {
                true => "pem",
                false => "location",
            };
            set(&format!("{property}.{form}"), value);
        }
        if let Some(password) = options.text("ssl_key_password") {
            set("ssl.key.password", password);
        }
        if options.flag("ssl_verify_hostname")? == Some(false) {
            set("ssl.endpoint.identification.algorithm", "none");
        }
        if let Some(list) = options.text("client_configs") {
            properties.extend(client_configs(list)?);
        }
        let connection = Connection { properties };
        connection.check_mechanism()?;
        Ok(connection)
    }

    /// What the library was not built for, or cannot do without us, would only fail to connect.
    fn check_mechanism(&self) -> Result<()> {
        let is_mechanism = |(name, _): &&(String, String)| name == "sasl.mechanism" || name == "sasl.mechanisms";
        let Some((_, mechanism)) = self.properties.iter().rev().find(is_mechanism) else {
            return Ok(());
        };
        match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => Ok(()),
            other => Err(Error::NotSupported {
                what: format!("SASL mechanism {other}"),
                hint: Some("Use sasl_mechanism = 'plain', 'scram-sha-256' or 'scram-sha-512', or mutual TLS.".into()),
            }),
        }
    }

    /// A client's configuration: the connection's properties win over `own`.
    pub fn configuration(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut configuration = ClientConfig::new();
        configuration.set("client.id", "laminar");
        configuration.set_log_level(RDKafkaLogLevel::Warning);
        for (name, value) in own {
            configuration.set(*name, *value);
        }
        for (name, value) in &self.properties {
            configuration.set(name, value);
        }
        configuration
    }

    /// A client. Nothing is sent yet.
    pub fn client<C: FromClientConfigAndContext<Listener>>(
        &self,
        own: &[(&str, &str)],
        listener: Listener,
    ) -> Result<C> {
        C::from_config_and_context(&self.configuration(own), listener).map_err(|error| unusable(&error))
    }

    /// A consumer that is only asked questions.
    pub fn asker(&self) -> Result<BaseConsumer<Listener>> {
        let mut configuration = self.configuration(&[("group.id", "laminar")]);
        // Why the first connection was ended is said at this level: see [`Listener`].
        configuration.set_log_level(RDKafkaLogLevel::Info);
        BaseConsumer::from_config_and_context(&configuration, Listener::default()).map_err(|error| unusable(&error))
    }

    /// Whether a broker answers; what it knows of `topic`, or of all topics.
    pub fn check(&self, topic: Option<&str>) -> Result<Metadata> {
        let asker = self.asker()?;
        let started = Instant::now();
        loop {
            let answer = asker.fetch_metadata(topic, CHECK_STEP);
            let failure = match answer {
                Ok(metadata) => return Ok(metadata),
                Err(failure) => failure,
            };
            // Hands out what was said on the connections. A poll without time hands out one thing.
            while asker.poll(HEARING).is_some() {}
            let hopeless = asker.context().is_hopeless(started.elapsed());
            if hopeless || started.elapsed() >= CHECK_TIMEOUT {
                return Err(asker
                    .context()
                    .failed("could not connect to the Kafka server", &failure));
            }
        }
    }
}

/// The options that mean TLS: option, librdkafka's property without its last part, value.
fn tls_options<'a>(options: &'a OptionReader<'_>) -> Vec<(&'static str, &'static str, &'a str)> {
    let all = [
        ("ssl_ca", "ssl.ca"),
        ("ssl_certificate", "ssl.certificate"),
        ("ssl_key", "ssl.key"),
    ];
    let given = all
        .into_iter()
        .filter_map(|(option, property)| Some((option, property, options.text(option)?)));
    given.collect()
}

/// What would be left out of account otherwise: a connection less safe than it looks, or one that no broker lets in.
fn check_tls(options: &OptionReader<'_>, protocol: &str, tls: &[(&str, &str, &str)]) -> Result<()> {
    if let (false, Some((option, ..))) = (protocol.ends_with("ssl"), tls.first()) {
        return Err(invalid(
            &format!("security_protocol = '{protocol}' has no TLS, for which option \"{option}\" is"),
            "Use ssl or sasl_ssl, or leave the option out.",
        ));
    }
    let has = |wanted: &str| tls.iter().any(|(option, ..)| *option == wanted);
    let by_properties = options.text("client_configs").is_some_and(|list| list.contains("ssl."));
    if has("ssl_certificate") != has("ssl_key") && !by_properties {
        return Err(invalid(
            "options \"ssl_certificate\" and \"ssl_key\" need each other",
            "The certificate says who the client is, the key proves it.",
        ));
    }
    Ok(())
}

/// `name=value, name=value`; a piece without `=` belongs to the value before it.
fn client_configs(list: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for piece in list.split([',', '\n']).filter(|piece| !piece.trim().is_empty()) {
        match (piece.split_once('='), found.last_mut()) {
            (Some((name, value)), _) => found.push((name.trim().to_owned(), value.trim().to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(piece.trim());
            }
            (None, None) => {
                return Err(invalid(
                    "invalid value for option \"client_configs\"",
                    "It is 'name=value, name=value' with properties of librdkafka.",
                ));
            }
        }
    }
    Ok(found)
}

/// A client could not be made: its properties are wrong. Values are not repeated, they may be secret.
fn unusable(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, description, name, value) => {
            let reason = if value.is_empty() || !description.contains(value.as_str()) {
                description.clone()
            } else {
                "its value is not allowed".to_owned()
            };
            invalid(
                &format!("invalid Kafka client property \"{name}\": {reason}"),
                "The manual of librdkafka lists the properties of its clients.",
            )
        }
        other => invalid(
            &format!("could not make a Kafka client: {other}"),
            "Look at the TLS and SASL options and at client_configs.",
        ),
    }
}

/// Hears what happens on the connections of a client.
#[derive(Default)]
pub struct Listener {
    said: Mutex<Said>,
    /// Told of each record that arrived or did not.
    delivery: Option<Arc<dyn Delivery>>,
    /// Told how the brokers are.
    health: Option<Arc<Health>>,
}

#[derive(Default)]
struct Said {
    last: Option<Heard>,
    /// The next attempt will fare no better.
    hopeless: bool,
    all_down: bool,
}

struct Heard {
    code: RDKafkaErrorCode,
    reason: String,
    at: Instant,
}

impl Heard {
    fn now(code: RDKafkaErrorCode, reason: &str) -> Heard {
        Heard {
            code,
            reason: reason.to_owned(),
            at: Instant::now(),
        }
    }

    /// That all are down says less than why one could not be reached, and that less than what became of a connection; most says what
    /// was wrong with who came. The library tells that twice, once without saying what kind of error it is.
    fn telling(&self) -> u8 {
        match self.code {
            RDKafkaErrorCode::AllBrokersDown => 0,
            RDKafkaErrorCode::Resolve => 1,
            RDKafkaErrorCode::SSL | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => 3,
            _ if self.reason.contains("Connect to ") => 1,
            _ => 2,
        }
    }
}

impl Said {
    fn hear(&mut self, heard: Heard) {
        let says_less = |last: &Heard| match heard.telling() {
            0 => last.telling() > 0,
            telling => last.telling() > telling && heard.at - last.at < TELLING,
        };
        if !self.last.as_ref().is_some_and(says_less) {
            self.last = Some(heard);
        }
    }
}

/// What a producer's records come to.
pub trait Delivery: Send + Sync {
    fn delivered(&self, outcome: std::result::Result<(), KafkaError>);
}

impl Listener {
    pub fn of_deliveries(delivery: Arc<dyn Delivery>) -> Listener {
        Listener {
            said: Mutex::default(),
            delivery: Some(delivery),
            health: None,
        }
    }

    pub fn of_health(health: Arc<Health>) -> Listener {
        Listener {
            health: Some(health),
            ..Listener::default()
        }
    }

    /// Further waiting will not be answered either.
    fn is_hopeless(&self, waited: Duration) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.hopeless || said.all_down && waited >= ADDRESSES_TRIED
    }

    /// An error with the words of the connection, where it said something that explains it.
    pub fn failed(&self, what: &str, error: &KafkaError) -> Error {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let code = code_of(error);
        let says_nothing = matches!(
            code,
            None | Some(
                RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::MessageTimedOut
            )
        );
        match &said.last {
            Some(heard) if says_nothing => external(what, Some(heard.code), &heard.reason),
            _ => external(what, code, &words_of(error)),
        }
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(facility, message, "librdkafka");
        // A connection that the broker ends is no error to the library; what is one comes to `error` as well.
        let no_error = (RDKafkaLogLevel::Warning as i32)..=(RDKafkaLogLevel::Info as i32);
        if facility == "FAIL" && no_error.contains(&(level as i32)) {
            let words = message.split_once("]: ").map_or(message, |(_thread, words)| words);
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.hear(Heard::now(RDKafkaErrorCode::BrokerTransportFailure, words));
        }
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(health) = &self.health {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            health.take(&statistics, said.last.as_ref().map(|heard| heard.reason.clone()));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
        let code = match code_of(&error) {
            None | Some(RDKafkaErrorCode::PartitionEOF) => return,
            Some(code) => code,
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.hopeless |= matches!(
            code,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed
        );
        said.all_down |= code == RDKafkaErrorCode::AllBrokersDown;
        said.hear(Heard::now(code, reason));
    }
}

impl ConsumerContext for Listener {}

impl rdkafka::producer::ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, _opaque: ()) {
        if let Some(delivery) = &self.delivery {
            delivery.delivered(match result {
                Ok(_) => Ok(()),
                Err((error, _)) => Err(error.clone()),
            });
        }
    }
}

pub fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

fn words_of(error: &KafkaError) -> String {
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

    fn last_of(all: Vec<Heard>) -> String {
        let mut said = Said::default();
        all.into_iter().for_each(|heard| said.hear(heard));
        said.last.map(|heard| heard.reason).unwrap_or_default()
    }

    fn ended() -> Heard {
        Heard::now(RDKafkaErrorCode::BrokerTransportFailure, "b:9092: Disconnected")
    }

    fn refused() -> Heard {
        let words = "b:9092: Connect to ipv6#[::1]:9092 failed: Connection refused";
        Heard::now(RDKafkaErrorCode::BrokerTransportFailure, words)
    }

    fn all_down() -> Heard {
        Heard::now(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down")
    }

    #[test]
    fn what_says_most_is_kept_for_a_while() {
        assert_eq!(last_of(vec![ended(), refused(), all_down()]), ended().reason);
        assert_eq!(last_of(vec![refused(), ended()]), ended().reason);
        let untrusted = || Heard::now(RDKafkaErrorCode::SSL, "b:9092: certificate verify failed");
        assert_eq!(last_of(vec![ended(), untrusted(), ended()]), untrusted().reason);
        assert_eq!(last_of(vec![all_down(), refused(), all_down()]), refused().reason);
        let mut long_ago = ended();
        long_ago.at = Instant::now().checked_sub(TELLING).unwrap_or(long_ago.at);
        assert_eq!(last_of(vec![long_ago, refused()]), refused().reason);
    }

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
