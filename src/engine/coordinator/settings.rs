//! The options of a pipeline that concern how it runs: `WITH (parallelism = 4, checkpoint_interval = '10 s', ..)`.

use std::time::Duration;

use crate::engine::connectors::options::parse_duration;
use crate::engine::error::Error;
use crate::error::{ErrorReport, SqlState};
use crate::options::{RawOptionValue, RawOptions};
use crate::types::byte_size::parse_byte_size;

/// More subtasks than key groups could not all have work.
pub const PARALLELISM_MAX: u32 = 1024;

/// Shorter than this, a job would do nothing but checkpoint.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineSettings {
    pub parallelism: u32,
    pub checkpoint_interval: Duration,
    /// How often results become visible between checkpoints.
    pub barrier_interval: Duration,
    /// Barriers come only when somebody asks for a checkpoint, and a checkpoint that cannot be written is undone: the job
    /// starts again from the last one.
    pub on_demand: bool,
    /// A job is not called degraded before it has got no further for this long, however short its intervals are.
    pub stall_least: Duration,
    /// Bytes that its state may take; `None`: as many as the process has for all.
    pub memory_limit: Option<u64>,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        PipelineSettings {
            parallelism: 1,
            checkpoint_interval: Duration::from_secs(10),
            barrier_interval: Duration::from_secs(1),
            on_demand: false,
            stall_least: Duration::from_secs(10),
            memory_limit: None,
        }
    }
}

impl PipelineSettings {
    /// `defaults`, overridden by what `options` says. Options that concern other parts are not looked at.
    pub fn of(options: &RawOptions, defaults: PipelineSettings) -> Result<PipelineSettings, Error> {
        let mut settings = defaults;
        if let Some(text) = text_of(options, "parallelism")? {
            settings.parallelism = match text.trim().parse() {
                Ok(parallelism @ 1..=PARALLELISM_MAX) => parallelism,
                _ => {
                    let hint = format!("It is a number between 1 and {PARALLELISM_MAX}.");
                    return Err(wrong("parallelism", text, hint));
                }
            };
        }
        if let Some(text) = text_of(options, "memory_limit")? {
            let hint = "It is a number of bytes with or without a unit, such as '512 MB'.".to_owned();
            let limit = parse_byte_size(text).ok_or_else(|| wrong("memory_limit", text, hint))?;
            settings.memory_limit = Some(limit);
        }
        for (name, value) in [
            ("checkpoint_interval", &mut settings.checkpoint_interval),
            ("barrier_interval", &mut settings.barrier_interval),
        ] {
            if let Some(text) = text_of(options, name)? {
                *value = parse_duration(name, text)?;
                if *value < INTERVAL_MIN {
                    return Err(wrong(
                        name,
                        text,
                        format!("It is at least {} ms.", INTERVAL_MIN.as_millis()),
                    ));
                }
            }
        }
        Ok(settings)
    }
}

fn text_of<'a>(options: &'a RawOptions, name: &str) -> Result<Option<&'a str>, Error> {
    match options.get(name) {
        None => Ok(None),
        Some(RawOptionValue::Text(text)) => Ok(Some(text)),
        Some(RawOptionValue::Secret(_)) => Err(wrong(name, "SECRET", "It cannot be a secret.".into())),
    }
}

fn wrong(name: &str, text: &str, hint: String) -> Error {
    let message = format!("invalid value for option \"{name}\": \"{text}\"");
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(options: &[(&str, &str)]) -> Result<PipelineSettings, Error> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), RawOptionValue::Text((*value).to_owned())));
        PipelineSettings::of(&RawOptions(options.collect()), PipelineSettings::default())
    }

    #[test]
    fn options_override_defaults() {
        let settings = settings(&[
            ("parallelism", "3"),
            ("checkpoint_interval", "100 ms"),
            ("state_ttl", "1 day"),
            ("memory_limit", "64 MB"),
        ])
        .unwrap();
        assert_eq!(settings.parallelism, 3);
        assert_eq!(settings.memory_limit, Some(64 << 20));
        assert_eq!(settings.checkpoint_interval, Duration::from_millis(100));
        assert_eq!(settings.barrier_interval, Duration::from_secs(1));
    }

    #[test]
    fn wrong_values_are_refused() {
        assert!(settings(&[("parallelism", "0")]).is_err());
        assert!(settings(&[("parallelism", "many")]).is_err());
        assert!(settings(&[("checkpoint_interval", "1 ms")]).is_err());
        assert!(settings(&[("barrier_interval", "soon")]).is_err());
        assert!(settings(&[("memory_limit", "much")]).is_err());
    }
}
