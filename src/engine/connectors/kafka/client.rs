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
        let sasl = options.text("sasl_username").is_some() || options.text("sasl_mechanism").is_some();
        let tls = ["ssl_ca", "ssl_certificate", "ssl_key"]
            .iter()
            .any(|name| options.text(name).is_some());
        let protocol = options.choice("security_protocol")?.unwrap_or(match (sasl, tls) {
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
        for (option, property) in [
            ("ssl_ca", "ssl.ca"),
            ("ssl_certificate", "ssl.certificate"),
            ("ssl_key", "ssl.key"),
        ] {
            if let Some(value) = options.text(option) {
                let form = if value.contains("-----BEGIN") {
                    "pem"
                } else {
                    "location"
                };
                set(&format!("{property}.{form}"), value);
            }
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
        Ok(Connection { properties })
    }

    /// A client's configuration: the connection's properties win over `own`.
    pub fn configuration(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut configuration = ClientConfig::new();
        configuration.set("client.id", "laminar").set("log_level", "4");
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
        self.client(&[("group.id", "laminar")], Listener::default())
    }

    /// Whether a broker answers; what it knows of `topic`, or of all topics.
    pub fn check(&self, topic: Option<&str>) -> Result<Metadata> {
        let asker = self.asker()?;
        let deadline = Instant::now() + CHECK_TIMEOUT;
        loop {
            let answer = asker.fetch_metadata(topic, CHECK_STEP);
            let failure = match answer {
                Ok(metadata) => return Ok(metadata),
                Err(failure) => failure,
            };
            // Hands out what was said on the connections.
            while asker.poll(Duration::ZERO).is_some() {}
            let hopeless = asker.context().is_hopeless();
            if hopeless || Instant::now() >= deadline {
                return Err(asker
                    .context()
                    .failed("could not connect to the Kafka server", &failure));
            }
        }
    }
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
    last: Option<(RDKafkaErrorCode, String)>,
    hopeless: bool,
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

    /// The next wait will not be answered either.
    fn is_hopeless(&self) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).hopeless
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
            Some((code, reason)) if says_nothing => external(what, Some(*code), reason),
            _ => external(what, code, &words_of(error)),
        }
    }
}

impl ClientContext for Listener {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(facility, message, "librdkafka");
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(health) = &self.health {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            health.take(&statistics, said.last.as_ref().map(|(_, reason)| reason.clone()));
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
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::SaslAuthenticationFailed
        );
        // That all are down says less than what was heard of one.
        if code != RDKafkaErrorCode::AllBrokersDown || said.last.is_none() {
            said.last = Some((code, reason.to_owned()));
        }
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
            Some("Look at ssl_ca, ssl_certificate and ssl_key."),
        ),
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
