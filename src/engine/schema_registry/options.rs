//! The options that name a registry and a table's subject.

use url::Url;

use crate::engine::connectors::options::{OptionReader, choice_option, flag_option, text_option, wrong_value};
use crate::engine::connectors::{Direction, OptionDescription, OptionKind, OptionScope};
use crate::engine::error::Error;
use crate::error::{ErrorReport, SqlState};

/// Where a registry is and who asks.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Tried in this order; without user and password.
    pub urls: Vec<Url>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// What its certificate may be signed by besides: PEM text, or the name of a file with it.
    pub certificate_authority: Option<String>,
}

/// How the subject of a table's values is called when it is not named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubjectStrategy {
    /// `<topic>-value`.
    #[default]
    Topic,
    /// The record's full name.
    Record,
    /// `<topic>-<the record's full name>`.
    TopicRecord,
}

/// What a table says about its subject.
#[derive(Clone, Debug, Default)]
pub struct TableSubject {
    pub named: Option<String>,
    pub strategy: SubjectStrategy,
    /// A sink registers its schema; otherwise it writes by the latest that is there.
    pub registers: bool,
}

pub fn descriptions() -> Vec<OptionDescription> {
    let mut options = vec![
        text_option(
            "schema_registry.url",
            &["schema_registry.endpoint", "schema_registry"],
            None,
            "Where the schema registry is: https://host:port, several with commas.",
        ),
        text_option(
            "schema_registry.username",
            &["schema_registry.api_key"],
            None,
            "Who asks the registry.",
        ),
        OptionDescription {
            kind: OptionKind::Secret,
            ..text_option(
                "schema_registry.password",
                &["schema_registry.api_secret"],
                None,
                "The password for the registry: give a SECRET.",
            )
        },
        text_option(
            "schema_registry.ssl_ca",
            &[],
            None,
            "The certificates that the registry's must be signed by, besides the system's: a file, or PEM text.",
        ),
    ];
    for option in &mut options {
        option.scope = OptionScope::Both;
    }
    options.extend([
        text_option(
            "schema_registry.subject",
            &["value.subject"],
            None,
            "The subject of the table's schema; by default what the strategy says.",
        ),
        OptionDescription {
            default: Some("topic"),
            ..choice_option(
                "schema_registry.subject_strategy",
                &["value.subject_strategy"],
                &["topic", "record", "topic_record"],
                "How the subject is called: topic-value, the record's name, or topic-name.",
            )
        },
        OptionDescription {
            direction: Direction::Sink,
            ..flag_option(
                "schema_registry.register",
                &["auto_register_schemas"],
                Some("true"),
                "Whether a sink registers the schema of its columns, or writes by the subject's latest.",
            )
        },
    ]);
    options
}

impl RegistryOptions {
    /// `None`: no registry is named.
    pub fn read(options: &OptionReader<'_>) -> Result<Option<RegistryOptions>, Error> {
        const URL: &str = "schema_registry.url";
        let (user, password) = (
            options.text("schema_registry.username"),
            options.text("schema_registry.password"),
        );
        let Some(list) = options.text(URL) else {
            return match user.or(password) {
                None => Ok(None),
                Some(_) => Err(needs_url()),
            };
        };
        let (mut user, mut password) = (user.map(str::to_owned), password.map(str::to_owned));
        let mut urls = Vec::new();
        for text in list.split(',').map(str::trim) {
            let mut url = Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                // The text may hold a password.
                .ok_or_else(|| wrong_value(URL, "..", "It is http://host:port or https://host:port."))?;
            if !url.username().is_empty() {
                user.get_or_insert_with(|| percent_decoded(url.username()));
                if let Some(given) = url.password() {
                    password.get_or_insert_with(|| percent_decoded(given));
                }
            }
            let cleared = url.set_username("").and_then(|()| url.set_password(None));
            if cleared.is_err() {
                return Err(wrong_value(URL, "..", "It is http://host:port or https://host:port."));
            }
            urls.push(url);
        }
        Ok(Some(RegistryOptions {
            urls,
            user,
            password,
            certificate_authority: options.text("schema_registry.ssl_ca").map(str::to_owned),
        }))
    }
}

fn needs_url() -> Error {
    let message = "a user of a schema registry needs option \"schema_registry.url\"";
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint("It is https://host:port."))
}

fn percent_decoded(text: &str) -> String {
    let pair = format!("k={}", text.replace('+', "%2B"));
    let decoded = url::form_urlencoded::parse(pair.as_bytes()).next();
    decoded.map_or_else(|| text.to_owned(), |(_, value)| value.into_owned())
}

impl TableSubject {
    pub fn read(options: &OptionReader<'_>) -> Result<TableSubject, Error> {
        Ok(TableSubject {
            named: options
                .text("schema_registry.subject")
                .map(|name| name.trim().to_owned()),
            strategy: match options.choice("schema_registry.subject_strategy")? {
                Some("record") => SubjectStrategy::Record,
                Some("topic_record") => SubjectStrategy::TopicRecord,
                _ => SubjectStrategy::Topic,
            },
            registers: options.flag("schema_registry.register")?.unwrap_or(true),
        })
    }

    /// The subject of values in `topic` that are records called `record`; `None` when it takes a name that nobody knows.
    pub fn of(&self, topic: Option<&str>, record: Option<&str>) -> Option<String> {
        match (&self.named, self.strategy) {
            (Some(named), _) => Some(named.clone()),
            (None, SubjectStrategy::Topic) => topic.map(|topic| format!("{topic}-value")),
            (None, SubjectStrategy::Record) => record.map(str::to_owned),
            (None, SubjectStrategy::TopicRecord) => Some(format!("{}-{}", topic?, record?)),
        }
    }

    /// The same; that nobody knows its name is an error.
    pub fn required(&self, topic: Option<&str>, record: Option<&str>) -> Result<String, Error> {
        self.of(topic, record).ok_or_else(|| {
            let message = "the subject of the table's schema is not known";
            Error::Option(
                ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message)
                    .with_hint("Name it: schema_registry.subject = '..'."),
            )
        })
    }
}
