//! The options of connections and tables, described and typed.

use std::time::Duration;

use crate::engine::connectors::options::{
    OptionReader, choice_option, common_descriptions, duration_option, flag_option, integer_option, text_option,
    wrong_value,
};
use crate::engine::connectors::{Direction, OptionDescription, OptionKind, OptionScope, Result, impulse};
use crate::engine::error::Error;
use crate::engine::formats::{Format, FormatOptions};
use crate::engine::schema_registry;
use crate::error::{ErrorReport, SqlState};

pub const FORMATS: &[&str] = &[
    "json",
    "debezium_json",
    "csv",
    "raw_string",
    "raw_bytes",
    "protobuf",
    "avro",
    "debezium_avro",
];

const DISCOVERY_DEFAULT: Duration = Duration::from_secs(30);
const TRANSACTION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

pub fn descriptions() -> Vec<OptionDescription> {
    let mut options = connection_options();
    options.extend(schema_registry::options::descriptions());
    options.extend(topic_options());
    options.extend(source_options().map(|option| OptionDescription {
        direction: Direction::Source,
        ..option
    }));
    options.extend(sink_options().map(|option| OptionDescription {
        direction: Direction::Sink,
        ..option
    }));
    options.extend(common_descriptions(FORMATS));
    options
}

fn secret(option: OptionDescription) -> OptionDescription {
    OptionDescription {
        kind: OptionKind::Secret,
        ..option
    }
}

fn connection_options() -> Vec<OptionDescription> {
    let mut options = vec![
        OptionDescription {
            required: true,
            ..text_option(
                "bootstrap_servers",
                &["bootstrap.servers", "brokers", "broker"],
                None,
                "Where brokers are: host:port, several with commas.",
            )
        },
        choice_option(
            "security_protocol",
            &["security.protocol", "auth.protocol"],
            &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"],
            "How brokers are spoken to; by default what the other options call for.",
        ),
        choice_option(
            "sasl_mechanism",
            &["sasl.mechanism", "auth.mechanism"],
            &["plain", "scram-sha-256", "scram-sha-512"],
            "How the user is proved; plain by default.",
        ),
        text_option(
            "sasl_username",
            &["sasl.username", "auth.username", "username"],
            None,
            "Who asks.",
        ),
        secret(text_option(
            "sasl_password",
            &["sasl.password", "auth.password", "password"],
            None,
            "The user's password: give a SECRET.",
        )),
    ];
    options.extend(tls_options());
    for option in &mut options {
        option.scope = OptionScope::Both;
    }
    options
}

fn tls_options() -> Vec<OptionDescription> {
    vec![
        text_option(
            "ssl_ca",
            &["ssl.ca.location", "ssl.ca.pem"],
            None,
            "The certificates that the brokers' must be signed by: a file, or PEM text.",
        ),
        text_option(
            "ssl_certificate",
            &["ssl.certificate.location", "ssl.certificate.pem"],
            None,
            "The client's certificate for mutual TLS: a file, or PEM text.",
        ),
        secret(text_option(
            "ssl_key",
            &["ssl.key.location", "ssl.key.pem"],
            None,
            "The certificate's private key: a file, or PEM text in a SECRET.",
        )),
        secret(text_option(
            "ssl_key_password",
            &["ssl.key.password"],
            None,
            "The private key's password: give a SECRET.",
        )),
        flag_option(
            "ssl_verify_hostname",
            &[],
            Some("true"),
            "Whether a broker's certificate must be for the name that it is reached by.",
        ),
        secret(text_option(
            "client_configs",
            &["client_config", "properties"],
            None,
            "Further properties of librdkafka, 'name=value, name=value'; they win over everything else.",
        )),
    ]
}

fn topic_options() -> Vec<OptionDescription> {
    vec![
        text_option(
            "topic",
            &["topics"],
            None,
            "The topic; a source takes several, with commas.",
        ),
        OptionDescription {
            direction: Direction::Source,
            ..text_option(
                "topic_pattern",
                &["source.topic_pattern"],
                None,
                "A regular expression that whole names of topics match, instead of topic.",
            )
        },
    ]
}

fn source_options() -> impl Iterator<Item = OptionDescription> {
    [
        OptionDescription {
            default: Some("earliest"),
            ..choice_option(
                "source.offset",
                &["offset"],
                &["earliest", "latest", "group", "timestamp", "explicit"],
                "Where a fresh start begins.",
            )
        },
        text_option(
            "source.offset_timestamp",
            &["offset_timestamp"],
            None,
            "With offset = 'timestamp': the time from which on records are read.",
        ),
        text_option(
            "source.offsets",
            &["offsets"],
            None,
            "With offset = 'explicit': 'partition:offset, ..', or 'topic/partition:offset, ..' for several topics.",
        ),
        OptionDescription {
            default: Some("read_committed"),
            ..choice_option(
                "source.read_mode",
                &["read_mode", "isolation_level", "isolation.level"],
                &["read_committed", "read_uncommitted"],
                "Whether records of transactions that are open or were aborted are left out.",
            )
        },
        text_option(
            "source.group_id",
            &["group_id", "group.id"],
            None,
            "The consumer group that is told how far checkpoints are, for monitoring.",
        ),
        duration_option(
            "source.discovery_interval",
            &["discovery_interval"],
            Some("30 s"),
            "How often new partitions and topics are looked for.",
        ),
        OptionDescription {
            default: Some("fail"),
            ..choice_option(
                "source.on_lost_offsets",
                &["on_lost_offsets", "on_offset_out_of_range"],
                &["fail", "earliest"],
                "What happens when retention has removed records that were still to be read.",
            )
        },
        OptionDescription {
            default: Some("false"),
            ..flag_option(
                "source.bounded",
                &["bounded"],
                None,
                "Whether the input ends where the topic ended when reading began.",
            )
        },
    ]
    .into_iter()
}

fn sink_options() -> impl Iterator<Item = OptionDescription> {
    [
        OptionDescription {
            default: Some("exactly_once"),
            ..choice_option(
                "sink.commit_mode",
                &["commit_mode"],
                &["exactly_once", "at_least_once"],
                "Records in transactions, one a checkpoint, or at once and perhaps twice after a crash.",
            )
        },
        text_option(
            "sink.key_field",
            &["key_field"],
            None,
            "The columns that are the record's key; by default those of the PRIMARY KEY of an upsert.",
        ),
        text_option(
            "sink.timestamp_field",
            &["timestamp_field"],
            None,
            "The column that is the record's timestamp; by default the time of writing.",
        ),
        text_option(
            "sink.partition_field",
            &["partition_field"],
            None,
            "The integer column that is the number of the record's partition; by default the key decides.",
        ),
        text_option(
            "sink.headers_field",
            &["headers_field"],
            None,
            "The column with the record's headers, a JSON object; it is no part of the value.",
        ),
    ]
    .into_iter()
    .chain(writing_options())
}

fn writing_options() -> impl Iterator<Item = OptionDescription> {
    [
        OptionDescription {
            default: Some("murmur2_random"),
            ..choice_option(
                "sink.partitioner",
                &["partitioner"],
                &[
                    "murmur2_random",
                    "murmur2",
                    "consistent_random",
                    "consistent",
                    "fnv1a_random",
                    "random",
                ],
                "How the key decides; murmur2_random is what Java clients do.",
            )
        },
        OptionDescription {
            default: Some("none"),
            ..choice_option(
                "sink.compression",
                &["compression"],
                &["none", "gzip", "snappy", "lz4", "zstd"],
                "How records are compressed on the way and at the broker.",
            )
        },
        OptionDescription {
            default: Some("false"),
            ..flag_option(
                "sink.create_topic",
                &["create_topic"],
                None,
                "Whether the topic is created when it is not there.",
            )
        },
        integer_option(
            "sink.partitions",
            &["partitions"],
            None,
            "Partitions of a created topic; by default the broker decides.",
        ),
        integer_option(
            "sink.replication_factor",
            &["replication_factor"],
            None,
            "Replicas of a created topic; by default the broker decides.",
        ),
        OptionDescription {
            default: Some("laminar"),
            ..text_option(
                "sink.transactional_id_prefix",
                &["transactional_id_prefix"],
                None,
                "What transactional ids, and the groups that keep progress, begin with.",
            )
        },
        duration_option(
            "sink.transaction_timeout",
            &["transaction_timeout"],
            Some("60 s"),
            "The broker aborts a transaction that takes longer; at most its transaction.max.timeout.ms.",
        ),
    ]
    .into_iter()
}

/// Which topics a table is about.
#[derive(Clone, Debug)]
pub enum Topics {
    Named(Vec<String>),
    /// As librdkafka's own patterns: whole names.
    Matching(regex::Regex),
}

impl Topics {
    pub fn read(options: &OptionReader<'_>) -> Result<Topics> {
        match (options.text("topic"), options.text("topic_pattern")) {
            (Some(_), Some(_)) => Err(invalid(
                "options \"topic\" and \"topic_pattern\" exclude each other",
                "Give one of them.",
            )),
            (None, None) => Err(invalid(
                "connector \"kafka\" needs option \"topic\"",
                "topic = 'orders', topic = 'orders, returns', or topic_pattern = 'orders-.*'.",
            )),
            (None, Some(pattern)) => regex::Regex::new(&format!("^(?:{pattern})$"))
                .map(Topics::Matching)
                .map_err(|error| {
                    wrong_value(
                        "topic_pattern",
                        pattern,
                        &format!("It is a regular expression: {error}."),
                    )
                }),
            (Some(list), None) => {
                let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
                match names.iter().find(|name| !is_topic_name(name)) {
                    Some(_) => Err(wrong_value(
                        "topic",
                        list,
                        "Names of topics have letters, digits, '.', '_' and '-'; for a pattern use topic_pattern.",
                    )),
                    None => Ok(Topics::Named(names)),
                }
            }
        }
    }

    /// The one topic that a sink writes to.
    pub fn only(&self) -> Option<&str> {
        match self {
            Topics::Named(names) if names.len() == 1 => names.first().map(String::as_str),
            _ => None,
        }
    }
}

fn is_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name.chars().all(legal) && name != "." && name != ".."
}

/// Where a fresh start begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartOffset {
    Earliest,
    Latest,
    /// Where the group has committed; from the start where it has not.
    Group,
    /// Milliseconds since the epoch.
    Timestamp(i64),
    /// Topic (any when `None`), partition, offset; others from the start.
    Explicit(Vec<(Option<String>, i32, i64)>),
}

#[derive(Clone, Debug)]
pub struct SourceOptions {
    pub topics: Topics,
    pub start: StartOffset,
    pub read_committed: bool,
    pub group: Option<String>,
    pub discovery: Duration,
    pub skip_lost: bool,
    pub bounded: bool,
}

impl SourceOptions {
    pub fn read(options: &OptionReader<'_>, topics: Topics) -> Result<SourceOptions> {
        let group = options.text("source.group_id").map(str::to_owned);
        let start = start_offset(options)?;
        if start == StartOffset::Group && group.is_none() {
            return Err(invalid(
                "source.offset = 'group' needs option \"source.group_id\"",
                "Name the group whose committed offsets are meant.",
            ));
        }
        Ok(SourceOptions {
            topics,
            start,
            group,
            read_committed: options.choice("source.read_mode")? != Some("read_uncommitted"),
            discovery: options
                .duration("source.discovery_interval")?
                .unwrap_or(DISCOVERY_DEFAULT)
                .max(Duration::from_millis(100)),
            skip_lost: options.choice("source.on_lost_offsets")? == Some("earliest"),
            bounded: options.flag("source.bounded")?.unwrap_or(false),
        })
    }
}

fn start_offset(options: &OptionReader<'_>) -> Result<StartOffset> {
    let timestamp = options.text("source.offset_timestamp");
    let explicit = options.text("source.offsets");
    match (options.choice("source.offset")?, timestamp, explicit) {
        (Some("timestamp"), Some(text), None) => {
            let micros = impulse::time_option("source.offset_timestamp", text)?;
            Ok(StartOffset::Timestamp(micros.div_euclid(1000)))
        }
        (Some("explicit"), None, Some(text)) => Ok(StartOffset::Explicit(explicit_offsets(text)?)),
        (Some("timestamp"), None, _) => Err(invalid(
            "source.offset = 'timestamp' needs option \"source.offset_timestamp\"",
            "It is a timestamp such as '2026-01-01 00:00:00'.",
        )),
        (Some("explicit"), _, None) => Err(invalid(
            "source.offset = 'explicit' needs option \"source.offsets\"",
            "It is 'partition:offset, ..', such as '0:42, 1:17'.",
        )),
        (_, Some(_), _) => Err(invalid(
            "option \"source.offset_timestamp\" is for source.offset = 'timestamp'",
            "Say source.offset = 'timestamp', or leave it out.",
        )),
        (_, _, Some(_)) => Err(invalid(
            "option \"source.offsets\" is for source.offset = 'explicit'",
            "Say source.offset = 'explicit', or leave it out.",
        )),
        (Some("latest"), None, None) => Ok(StartOffset::Latest),
        (Some("group"), None, None) => Ok(StartOffset::Group),
        _ => Ok(StartOffset::Earliest),
    }
}

/// `0:42, orders/1:17`.
fn explicit_offsets(text: &str) -> Result<Vec<(Option<String>, i32, i64)>> {
    let one = |part: &str| {
        let (place, offset) = part.trim().rsplit_once(':')?;
        let (topic, partition) = match place.rsplit_once('/') {
            Some((topic, partition)) => (Some(topic.trim().to_owned()), partition),
            None => (None, place),
        };
        let partition = partition.trim().parse().ok().filter(|number| *number >= 0)?;
        let offset = offset.trim().parse().ok().filter(|number| *number >= 0)?;
        Some((topic, partition, offset))
    };
    text.split(',').map(one).collect::<Option<Vec<_>>>().ok_or_else(|| {
        wrong_value(
            "source.offsets",
            text,
            "It is 'partition:offset, ..' or 'topic/partition:offset, ..', such as '0:42, 1:17'.",
        )
    })
}

#[derive(Clone, Debug)]
pub struct SinkOptions {
    pub exactly_once: bool,
    pub key: Vec<String>,
    pub timestamp: Option<String>,
    pub partition: Option<String>,
    pub headers: Option<String>,
    pub partitioner: &'static str,
    pub compression: &'static str,
    pub create_topic: Option<CreateTopic>,
    pub transactional_id_prefix: String,
    pub transaction_timeout: Duration,
}

/// With what a topic is created; -1: what the broker does by default.
#[derive(Clone, Copy, Debug)]
pub struct CreateTopic {
    pub partitions: i32,
    pub replicas: i32,
}

impl SinkOptions {
    pub fn read(options: &OptionReader<'_>) -> Result<SinkOptions> {
        let text = |name: &str| options.text(name).map(|text| text.trim().to_owned());
        let small = |name: &str| {
            let number = options.integer(name, 1)?;
            Ok::<_, Error>(number.map_or(-1, |number| i32::try_from(number).unwrap_or(i32::MAX)))
        };
        let create_topic = match options.flag("sink.create_topic")? {
            Some(true) => Some(CreateTopic {
                partitions: small("sink.partitions")?,
                replicas: small("sink.replication_factor")?,
            }),
            _ => None,
        };
        Ok(SinkOptions {
            exactly_once: options.choice("sink.commit_mode")? != Some("at_least_once"),
            key: text("sink.key_field").map_or_else(Vec::new, |list| {
                list.split(',').map(|name| name.trim().to_owned()).collect()
            }),
            timestamp: text("sink.timestamp_field"),
            partition: text("sink.partition_field"),
            headers: text("sink.headers_field"),
            partitioner: options.choice("sink.partitioner")?.unwrap_or("murmur2_random"),
            compression: options.choice("sink.compression")?.unwrap_or("none"),
            create_topic,
            transactional_id_prefix: options
                .text("sink.transactional_id_prefix")
                .unwrap_or("laminar")
                .to_owned(),
            transaction_timeout: options
                .duration("sink.transaction_timeout")?
                .unwrap_or(TRANSACTION_TIMEOUT_DEFAULT),
        })
    }
}

/// The key of a record without a value, which says which row goes, has names as the record has.
pub fn check_format(format: &FormatOptions) -> Result<()> {
    if format.upsert_marker.is_some() && !matches!(format.format, Format::Json | Format::Avro) {
        return Err(Error::NotSupported {
            what: format!(
                "envelope = 'upsert' with format \"{}\" in connector \"kafka\"",
                format.format.name()
            ),
            hint: Some("Use format = 'json' or 'avro'.".into()),
        });
    }
    Ok(())
}

pub fn invalid(message: &str, hint: &str) -> Error {
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}
