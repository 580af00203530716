//! Reads `WITH (..)` options by a connector's description: names, spellings, types, defaults, what is required.
//!
//! Everything is checked when the reader is made, so that the first mistake is reported whichever option a connector looks
//! at first. An unknown name or a wrong value is 22023 with what was meant in HINT. Values that came from a secret are not
//! repeated in messages.

use std::time::Duration;

use crate::engine::connectors::{ConnectorDescription, Direction, OptionDescription, OptionKind, OptionScope, Result};
use crate::engine::error::Error;
use crate::error::{ErrorReport, SqlState, nearest};
use crate::options::{ResolvedOptions, ResolvedValue, normalize_name};

/// Names that every table may carry, whatever its connector; the catalog and the planner read them.
const STRUCTURAL: &[&str] = &[
    "connector",
    "connection",
    "connection_profile",
    "connection_profile_id",
    "type",
    "validate",
    "description",
];

pub struct OptionReader<'a> {
    options: Vec<OptionDescription>,
    given: &'a ResolvedOptions,
}

impl<'a> OptionReader<'a> {
    /// Checks the options of a table.
    pub fn for_table(description: &ConnectorDescription, given: &'a ResolvedOptions) -> Result<OptionReader<'a>> {
        OptionReader::new(description, given, OptionScope::Table)
    }

    /// Checks the options of a connection: what only tables need may be missing.
    pub fn for_connection(description: &ConnectorDescription, given: &'a ResolvedOptions) -> Result<OptionReader<'a>> {
        OptionReader::new(description, given, OptionScope::Connection)
    }

    fn new(
        description: &ConnectorDescription,
        given: &'a ResolvedOptions,
        scope: OptionScope,
    ) -> Result<OptionReader<'a>> {
        let reader = OptionReader {
            options: description.options.clone(),
            given,
        };
        for (name, value) in &given.0 {
            reader.check(description, name, value)?;
        }
        for option in reader.options.iter().filter(|option| option.required) {
            let wanted = scope == OptionScope::Table || option.scope == OptionScope::Connection;
            if wanted && reader.value(option).is_none() {
                return Err(Error::Option(
                    ErrorReport::new(
                        SqlState::INVALID_PARAMETER_VALUE,
                        format!("connector \"{}\" needs option \"{}\"", description.name, option.name),
                    )
                    .with_hint(option.summary),
                ));
            }
        }
        Ok(reader)
    }

    fn check(&self, description: &ConnectorDescription, name: &str, value: &ResolvedValue) -> Result<()> {
        let name = normalize_name(name);
        if STRUCTURAL.contains(&name.as_str()) {
            return Ok(());
        }
        let Some(option) = self.options.iter().find(|option| answers_to(option, &name)) else {
            return Err(self.unknown(description, &name));
        };
        check_kind(option, value)
    }

    fn unknown(&self, description: &ConnectorDescription, name: &str) -> Error {
        let spellings = self
            .options
            .iter()
            .flat_map(|o| std::iter::once(o.name).chain(o.aliases.iter().copied()));
        let hint = match nearest(name, spellings) {
            Some(nearest) => format!("Perhaps you meant \"{nearest}\"."),
            None => {
                let names: Vec<_> = self.options.iter().map(|option| option.name).collect();
                format!("Its options are: {}.", names.join(", "))
            }
        };
        let message = format!("connector \"{}\" has no option \"{name}\"", description.name);
        Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
    }

    fn option(&self, name: &str) -> Option<&OptionDescription> {
        self.options.iter().find(|option| option.name == name)
    }

    /// The value given last under any spelling.
    fn value(&self, option: &OptionDescription) -> Option<&'a ResolvedValue> {
        let given = self.given.0.iter().rev();
        given
            .filter(|(name, _)| answers_to(option, &normalize_name(name)))
            .map(|(_, value)| value)
            .next()
    }

    /// The value given for option `name`, without its default.
    fn given(&self, name: &str) -> Option<&'a ResolvedValue> {
        self.option(name).and_then(|option| self.value(option))
    }

    /// Given or default; `None` when neither, or when the connector has no such option.
    pub fn text(&self, name: &str) -> Option<&str> {
        let option = self.option(name)?;
        self.value(option).map(|value| value.text.as_str()).or(option.default)
    }

    pub fn required(&self, name: &str) -> Result<&str> {
        self.text(name)
            .ok_or_else(|| wrong_value(name, "", "The option is required."))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.text(name).map(|text| parse_flag(name, text)).transpose()
    }

    /// One of the option's allowed values, in its canonical spelling.
    pub fn choice(&self, name: &str) -> Result<Option<&'static str>> {
        let Some(option) = self.option(name) else {
            return Ok(None);
        };
        let OptionKind::Enum(allowed) = option.kind else {
            return Ok(None);
        };
        self.text(name)
            .map(|text| parse_choice(name, allowed, text))
            .transpose()
    }

    /// A whole number of at least `minimum`.
    pub fn integer(&self, name: &str, minimum: i64) -> Result<Option<i64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let value = parse_integer(name, text)?;
        if value < minimum {
            return Err(wrong_value(name, text, &format!("It must be at least {minimum}.")));
        }
        Ok(Some(value))
    }

    /// A number above zero.
    pub fn positive_number(&self, name: &str) -> Result<Option<f64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let value = parse_number(name, text)?;
        if value <= 0.0 {
            return Err(wrong_value(name, text, "It must be greater than 0."));
        }
        Ok(Some(value))
    }

    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.text(name).map(|text| parse_duration(name, text)).transpose()
    }

    /// Every option given, in canonical spelling, whose name `keep` accepts: what goes to a client library as it is.
    pub fn given_texts(&self, keep: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
        let kept = self.options.iter().filter(|option| keep(option.name));
        kept.filter_map(|option| Some((option.name, self.value(option)?.text.clone())))
            .collect()
    }

    /// What all tables have in common.
    pub fn common(&self) -> Result<CommonOptions> {
        let drops_values = self.flag("json.ignore_parse_errors")?.unwrap_or(false);
        Ok(CommonOptions {
            bad_data: match self.choice("bad_data")? {
                Some("fail") => BadData::Fail,
                Some("drop") => BadData::Drop,
                Some(_) => BadData::DeadLetter,
                None if drops_values => BadData::Drop,
                None => BadData::DeadLetter,
            },
            event_time_field: self.given("event_time_field").map(|value| value.text.clone()),
            watermark_delay: self.duration("watermark_delay")?,
            late_rows_dead_letter: self.choice("late_rows")? == Some("dead_letter"),
            idle_timeout: self.duration("idle_timeout")?,
            max_future_skew: self.duration("max_future_skew")?,
            processing_time: self.choice("event_time")? == Some("processing"),
        })
    }
}

/// What becomes of a row that cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadData {
    Fail,
    Drop,
    #[default]
    DeadLetter,
}

/// Options of every table, typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommonOptions {
    pub bad_data: BadData,
    pub event_time_field: Option<String>,
    pub watermark_delay: Option<Duration>,
    pub late_rows_dead_letter: bool,
    pub idle_timeout: Option<Duration>,
    pub max_future_skew: Option<Duration>,
    pub processing_time: bool,
}

/// Descriptions of the options of every table.
pub fn common_descriptions(formats: &'static [&'static str]) -> Vec<OptionDescription> {
    let mut options = vec![
        choice_option(
            "bad_data",
            &[],
            &["fail", "drop", "dead_letter"],
            "What becomes of rows that cannot be decoded; kept in laminar.dead_letters by default.",
        ),
        text_option(
            "event_time_field",
            &[],
            None,
            "The column that says when a row happened.",
        ),
        duration_option(
            "watermark_delay",
            &[],
            None,
            "How much later than its time a row may come.",
        ),
        choice_option(
            "late_rows",
            &[],
            &["drop", "dead_letter"],
            "What becomes of rows older than the watermark; dropped and counted by default.",
        ),
        duration_option(
            "idle_timeout",
            &[],
            None,
            "A split without rows for this long no longer holds back the watermark.",
        ),
        duration_option(
            "max_future_skew",
            &[],
            None,
            "Rows further in the future than this do not move the watermark.",
        ),
        choice_option(
            "event_time",
            &[],
            &["event", "processing"],
            "Whether time is that of the rows or that of their arrival.",
        ),
    ];
    if let Some(default) = formats.first().copied() {
        options.push(OptionDescription {
            default: Some(default),
            ..choice_option("format", &[], formats, "How records are written.")
        });
        options.extend(crate::engine::formats::option_descriptions());
    }
    options
}

fn answers_to(option: &OptionDescription, name: &str) -> bool {
    option.name == name || option.aliases.contains(&name)
}

fn check_kind(option: &OptionDescription, value: &ResolvedValue) -> Result<()> {
    let text = value.text.as_str();
    let outcome = match option.kind {
        OptionKind::Text | OptionKind::Secret => Ok(()),
        OptionKind::Boolean => parse_flag(option.name, text).map(|_| ()),
        OptionKind::Integer => parse_integer(option.name, text).map(|_| ()),
        OptionKind::Number => parse_number(option.name, text).map(|_| ()),
        OptionKind::Duration => parse_duration(option.name, text).map(|_| ()),
        OptionKind::Enum(allowed) => parse_choice(option.name, allowed, text).map(|_| ()),
    };
    match outcome {
        Err(Error::Option(report)) if value.sensitive => Err(Error::Option(ErrorReport {
            message: format!("invalid value for option \"{}\"", option.name),
            ..report
        })),
        outcome => outcome,
    }
}

/// `invalid value for option "x": "y"`, as Postgres words it.
pub fn wrong_value(name: &str, text: &str, hint: &str) -> Error {
    let message = format!("invalid value for option \"{name}\": \"{text}\"");
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}

fn parse_flag(name: &str, text: &str) -> Result<bool> {
    crate::engine::formats::text_values::boolean(text.trim().as_bytes())
        .map_err(|_| wrong_value(name, text, "It is true or false."))
}

fn parse_integer(name: &str, text: &str) -> Result<i64> {
    let digits = text.trim().replace('_', "");
    digits
        .parse()
        .map_err(|_| wrong_value(name, text, "It is a whole number."))
}

fn parse_number(name: &str, text: &str) -> Result<f64> {
    let digits = text.trim().replace('_', "");
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(wrong_value(name, text, "It is a number.")),
    }
}

fn parse_choice(name: &str, allowed: &'static [&'static str], text: &str) -> Result<&'static str> {
    let wanted = text.trim().to_ascii_lowercase();
    if let Some(found) = allowed.iter().find(|candidate| **candidate == wanted) {
        return Ok(found);
    }
    let list = format!("It is one of: {}.", allowed.join(", "));
    let hint = match nearest(&wanted, allowed.iter().copied()) {
        Some(nearest) => format!("Perhaps you meant \"{nearest}\". {list}"),
        None => list,
    };
    Err(wrong_value(name, text, &hint))
}

const DURATION_HINT: &str = "It is a number and a unit, such as '5 s', '100 milliseconds' or '1 minute 30 seconds'.";

/// `5 s`, `100ms`, `1 minute 30 seconds`, `INTERVAL '5' SECOND`, `00:00:05`.
pub fn parse_duration(name: &str, text: &str) -> Result<Duration> {
    let plain = text.trim().to_ascii_lowercase().replace('\'', " ");
    let plain = plain.trim_start().strip_prefix("interval").unwrap_or(&plain).trim();
    clock_duration(plain)
        .or_else(|| unit_duration(plain))
        .ok_or_else(|| wrong_value(name, text, DURATION_HINT))
}

fn clock_duration(text: &str) -> Option<Duration> {
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let whole = hours.parse::<u64>().ok()?.checked_mul(3600)? + minutes.parse::<u64>().ok()?.checked_mul(60)?;
    let seconds = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    Duration::from_secs(whole).checked_add(seconds)
}

fn unit_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let micros = unit_micros(&rest[..letters])?;
        rest = rest[letters..].trim_start();
        total = total.checked_add(Duration::try_from_secs_f64(number * micros / 1e6).ok()?)?;
    }
    (!text.is_empty()).then_some(total)
}

fn unit_micros(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "µs" | "micros" | "microsecond" | "microseconds" => 1.0,
        "ms" | "milli" | "millis" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1e3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e6,
        "m" | "min" | "mins" | "minute" | "minutes" => 60e6,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600e6,
        "d" | "day" | "days" => 86_400e6,
        "w" | "week" | "weeks" => 7.0 * 86_400e6,
        _ => return None,
    })
}

const fn describe(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: OptionKind,
    default: Option<&'static str>,
    summary: &'static str,
) -> OptionDescription {
    OptionDescription {
        name,
        aliases,
        kind,
        required: false,
        default,
        scope: OptionScope::Table,
        direction: Direction::Both,
        summary,
    }
}

pub fn text_option(
    name: &'static str,
    aliases: &'static [&'static str],
    default: Option<&'static str>,
    summary: &'static str,
) -> OptionDescription {
    describe(name, aliases, OptionKind::Text, default, summary)
}

pub fn flag_option(
    name: &'static str,
    aliases: &'static [&'static str],
    default: Option<&'static str>,
    summary: &'static str,
) -> OptionDescription {
    describe(name, aliases, OptionKind::Boolean, default, summary)
}

pub fn choice_option(
    name: &'static str,
    aliases: &'static [&'static str],
    allowed: &'static [&'static str],
    summary: &'static str,
) -> OptionDescription {
    describe(name, aliases, OptionKind::Enum(allowed), None, summary)
}

pub fn integer_option(
    name: &'static str,
    aliases: &'static [&'static str],
    default: Option<&'static str>,
    summary: &'static str,
) -> OptionDescription {
    describe(name, aliases, OptionKind::Integer, default, summary)
}

pub fn number_option(
    name: &'static str,
    aliases: &'static [&'static str],
    default: Option<&'static str>,
    summary: &'static str,
) -> OptionDescription {
    describe(name, aliases, OptionKind::Number, default, summary)
}

pub fn duration_option(
    name: &'static str,
    aliases: &'static [&'static str],
    default: Option<&'static str>,
    summary: &'static str,
) -> OptionDescription {
    describe(name, aliases, OptionKind::Duration, default, summary)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::connectors::testing::given;
    use crate::error::Report;

    fn description() -> ConnectorDescription {
        let mut options = vec![
            OptionDescription {
                required: true,
                ..text_option("path", &["file"], None, "Where it is.")
            },
            OptionDescription {
                kind: OptionKind::Integer,
                ..text_option("source.offset", &["offset"], Some("7"), "Where to begin.")
            },
        ];
        options.extend(common_descriptions(&["json", "csv"]));
        ConnectorDescription {
            name: "test",
            title: "Test",
            summary: "A test.",
            category: "test",
            direction: Direction::Both,
            formats: &["json", "csv"],
            options,
        }
    }

    fn failure(options: &[(&str, &str)]) -> ErrorReport {
        let given = given(options);
        OptionReader::for_table(&description(), &given).err().unwrap().report()
    }

    #[test]
    fn spellings_defaults_and_types() {
        let given = given(&[
            ("connector", "test"),
            ("file", "a"),
            ("badData", "DROP"),
            ("watermarkDelay", "5 s"),
        ]);
        let description = description();
        let reader = OptionReader::for_table(&description, &given).unwrap();
        assert_eq!(reader.required("path").unwrap(), "a");
        assert_eq!(reader.integer("source.offset", 0).unwrap(), Some(7));
        assert_eq!(reader.choice("format").unwrap(), Some("json"));
        let common = reader.common().unwrap();
        assert_eq!(common.bad_data, BadData::Drop);
        assert_eq!(common.watermark_delay, Some(Duration::from_secs(5)));
    }

    #[test]
    fn mistakes_say_what_was_meant() {
        let report = failure(&[("pth", "a")]);
        assert_eq!(report.code, SqlState::INVALID_PARAMETER_VALUE);
        assert_eq!(report.message, "connector \"test\" has no option \"pth\"");
        assert_eq!(report.hint.as_deref(), Some("Perhaps you meant \"path\"."));
        let report = failure(&[("path", "a"), ("format", "jsn")]);
        assert!(report.hint.unwrap().starts_with("Perhaps you meant \"json\"."));
        assert!(failure(&[]).message.contains("needs option \"path\""));
        assert!(
            failure(&[("path", "a"), ("offset", "x")])
                .message
                .contains("source.offset")
        );
    }

    #[test]
    fn secrets_are_not_repeated() {
        let mut options = given(&[("path", "a"), ("offset", "hunter2")]);
        options.0[1].1.sensitive = true;
        let report = OptionReader::for_table(&description(), &options)
            .err()
            .unwrap()
            .report();
        assert!(!format!("{report:?}").contains("hunter2"));
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("5 s", 5000),
            ("100ms", 100),
            ("100 milliseconds", 100),
            ("1 minute 30 seconds", 90_000),
            ("INTERVAL '5' SECOND", 5000),
            ("INTERVAL '5 seconds'", 5000),
            ("00:01:00.5", 60_500),
            ("1.5h", 5_400_000),
        ] {
            assert_eq!(
                parse_duration("d", text).unwrap(),
                Duration::from_millis(millis),
                "{text}"
            );
        }
        for text in ["", "5", "s", "five s", "-5 s", "5 parsecs", "1e400 s"] {
            assert!(parse_duration("d", text).is_err(), "{text}");
        }
    }
}
