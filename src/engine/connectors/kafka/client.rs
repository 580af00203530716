//! Clients of brokers, made of the properties of a connection.

use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;

use crate::engine::connectors::Result;
use crate::engine::connectors::kafka::listener::{HEARING, Listener};
use crate::engine::connectors::kafka::options::invalid;
use crate::engine::connectors::options::OptionReader;
use crate::engine::error::Error;

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
