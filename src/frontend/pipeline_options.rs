//! `CREATE PIPELINE .. WITH (..)`: which options there are, and what each takes.

use crate::error::{SqlState, nearest};
use crate::frontend::error::{Error, Result};
use crate::frontend::settings::values;
use crate::frontend::sql::reading::boolean_word;
use crate::frontend::sql::statement::WaitUntil;
use crate::options::{RawOptionValue, RawOptions, normalize_name};
use crate::planner::rewrites::switches::{self, DisabledRewrites, Rewrite};
use crate::state::key_group::KEY_GROUPS_DEFAULT;
use crate::types::byte_size::parse_byte_size;

/// An option of pipelines.
pub struct PipelineOption {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// Kept with the pipeline; the others only matter while it is created.
    pub kept: bool,
    /// Can be changed by ALTER PIPELINE.
    pub alterable: bool,
    pub summary: &'static str,
}

pub const OPTIONS: &[PipelineOption] = &[
    PipelineOption {
        name: "parallelism",
        aliases: &[],
        kept: true,
        alterable: true,
        summary: "Subtasks of every operator.",
    },
    PipelineOption {
        name: "checkpoint_interval",
        aliases: &["checkpoint_interval_micros"],
        kept: true,
        alterable: true,
        summary: "Time between checkpoints.",
    },
    PipelineOption {
        name: "barrier_interval",
        aliases: &[],
        kept: true,
        alterable: true,
        summary: "Time until results can be read.",
    },
    PipelineOption {
        name: "state_ttl",
        aliases: &["updating_ttl"],
        kept: true,
        alterable: false,
        summary: "Groups untouched for so long are forgotten.",
    },
    PipelineOption {
        name: "memory_limit",
        aliases: &[],
        kept: true,
        alterable: true,
        summary: "Bytes that its state may take; above that it fails, alone.",
    },
    PipelineOption {
        name: "allowed_lateness",
        aliases: &[],
        kept: true,
        alterable: false,
        summary: "For so long after its end a window takes late rows and is emitted again.",
    },
    PipelineOption {
        name: "disabled_rewrites",
        aliases: &[],
        kept: true,
        alterable: false,
        summary: "Optimisations to leave out: local_global, shared_subplans, join_bounds.",
    },
    PipelineOption {
        name: "key_groups",
        aliases: &[],
        kept: false,
        alterable: false,
        summary: "The most subtasks there can ever be.",
    },
    PipelineOption {
        name: "start",
        aliases: &[],
        kept: false,
        alterable: false,
        summary: "Whether to start it at once.",
    },
    PipelineOption {
        name: "wait",
        aliases: &[],
        kept: false,
        alterable: false,
        summary: "What to wait for: running, caught_up or finished.",
    },
    PipelineOption {
        name: "rebuild",
        aliases: &[],
        kept: false,
        alterable: false,
        summary: "Whether CREATE OR REPLACE must be exact, or goes on anyway.",
    },
    PipelineOption {
        name: "description",
        aliases: &[],
        kept: true,
        alterable: true,
        summary: "Free text.",
    },
];

/// The options of one CREATE PIPELINE, read.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineOptions {
    /// Under their own names, for the catalog.
    pub kept: RawOptions,
    pub start: bool,
    pub wait: Option<WaitUntil>,
    pub key_groups: u16,
    pub parallelism: Option<u32>,
    /// Replace a pipeline although its result is not what the new definition gives over all rows, or rows are written twice.
    pub anyway: bool,
}

/// Checks and reads the options.
pub fn read(given: &RawOptions) -> Result<PipelineOptions> {
    let mut options = PipelineOptions {
        kept: RawOptions::default(),
        start: true,
        wait: None,
        key_groups: KEY_GROUPS_DEFAULT,
        parallelism: None,
        anyway: false,
    };
    for (name, value) in &given.0 {
        let option = find(name)?;
        let text = text_of(option, value)?;
        check(option, text)?;
        match option.name {
            "start" => options.start = boolean(option, text)?,
            "wait" => options.wait = wait_until(option, text)?,
            "rebuild" => options.anyway = text.trim().eq_ignore_ascii_case("anyway"),
            "key_groups" => options.key_groups = key_groups(option, text)?,
            "parallelism" => options.parallelism = text.trim().parse().ok(),
            _ => {}
        }
        if option.kept {
            options.kept.0.push((option.name.to_owned(), value.clone()));
        }
    }
    if let Some(parallelism) = options.parallelism
        && parallelism > u32::from(options.key_groups)
    {
        return Err(Error::user_with_hint(
            SqlState::INVALID_PARAMETER_VALUE,
            format!(
                "parallelism {parallelism} is more than the {} key groups",
                options.key_groups
            ),
            "Give the pipeline more key groups: WITH (key_groups = n, ..).",
        ));
    }
    Ok(options)
}

/// Checks the options of ALTER PIPELINE .. SET and gives them their own names.
pub fn read_changes(given: &RawOptions) -> Result<RawOptions> {
    let mut changes = RawOptions::default();
    for (name, value) in &given.0 {
        let option = alterable(name)?;
        check(option, text_of(option, value)?)?;
        changes.0.push((option.name.to_owned(), value.clone()));
    }
    Ok(changes)
}

/// The option of ALTER PIPELINE .. RESET.
pub fn alterable(name: &str) -> Result<&'static PipelineOption> {
    let option = find(name)?;
    if !option.alterable {
        return Err(Error::user_with_hint(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("option \"{}\" of a pipeline cannot be changed", option.name),
            "Use CREATE OR REPLACE PIPELINE; EXPLAIN REPLACE PIPELINE shows what that keeps.",
        ));
    }
    Ok(option)
}

/// How long groups are kept; `None`: for ever.
pub fn state_ttl_ms(options: &RawOptions) -> Result<Option<u64>> {
    let Some(value) = options.get("state_ttl").or_else(|| options.get("updating_ttl")) else {
        return Ok(None);
    };
    let option = find("state_ttl")?;
    let text = text_of(option, value)?;
    Ok(values::milliseconds(text).filter(|milliseconds| *milliseconds > 0))
}

/// How long windows take late rows after their end.
pub fn allowed_lateness_ms(options: &RawOptions) -> Result<u64> {
    let Some(value) = options.get("allowed_lateness") else {
        return Ok(0);
    };
    let text = text_of(find("allowed_lateness")?, value)?;
    Ok(values::milliseconds(text).unwrap_or(0))
}

/// Which optimisations are left out.
pub fn disabled_rewrites(options: &RawOptions) -> Result<DisabledRewrites> {
    let Some(value) = options.get("disabled_rewrites") else {
        return Ok(DisabledRewrites::new());
    };
    let option = find("disabled_rewrites")?;
    rewrites(option, text_of(option, value)?)
}

fn rewrites(option: &PipelineOption, text: &str) -> Result<DisabledRewrites> {
    switches::parse(text).map_err(|unknown| {
        let names: Vec<&str> = Rewrite::ALL.into_iter().map(Rewrite::name).collect();
        wrong(option, &unknown, &format!("some of: {}", names.join(", ")))
    })
}

fn find(name: &str) -> Result<&'static PipelineOption> {
    let normalized = normalize_name(name);
    let answers = |option: &&PipelineOption| option.name == normalized || option.aliases.contains(&normalized.as_str());
    OPTIONS.iter().find(answers).ok_or_else(|| {
        let hint = match nearest(&normalized, OPTIONS.iter().map(|option| option.name)) {
            Some(near) => format!("Perhaps you meant \"{near}\"."),
            None => {
                let names: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
                format!("The options of a pipeline are: {}.", names.join(", "))
            }
        };
        Error::user_with_hint(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("a pipeline has no option \"{name}\""),
            hint,
        )
    })
}

fn text_of<'a>(option: &PipelineOption, value: &'a RawOptionValue) -> Result<&'a str> {
    match value {
        RawOptionValue::Text(text) => Ok(text),
        RawOptionValue::Secret(_) => Err(wrong(option, "SECRET", "a value, not a secret")),
    }
}

fn wrong(option: &PipelineOption, text: &str, expected: &str) -> Error {
    Error::user_with_hint(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for option \"{}\": \"{text}\"", option.name),
        format!("Expected {expected}."),
    )
}

fn check(option: &PipelineOption, text: &str) -> Result<()> {
    match option.name {
        "parallelism" => match text.trim().parse::<u32>() {
            Ok(1..=1024) => Ok(()),
            _ => Err(wrong(option, text, "a whole number from 1 to 1024")),
        },
        "checkpoint_interval" | "barrier_interval" => match values::milliseconds(text) {
            Some(10..) => Ok(()),
            _ => Err(wrong(option, text, "a duration of at least 10 ms, such as '10 s'")),
        },
        "rebuild" => match text.trim().to_lowercase().as_str() {
            "exact" | "anyway" => Ok(()),
            _ => Err(wrong(option, text, "exact or anyway")),
        },
        "state_ttl" | "allowed_lateness" => match values::milliseconds(text) {
            Some(_) => Ok(()),
            None => Err(wrong(option, text, "a duration such as '1 day'")),
        },
        "memory_limit" => match parse_byte_size(text) {
            Some(_) => Ok(()),
            None => Err(wrong(option, text, "a number of bytes, such as '512 MB'")),
        },
        "disabled_rewrites" => rewrites(option, text).map(|_| ()),
        _ => Ok(()),
    }
}

fn boolean(option: &PipelineOption, text: &str) -> Result<bool> {
    boolean_word(text).ok_or_else(|| wrong(option, text, "true or false"))
}

fn wait_until(option: &PipelineOption, text: &str) -> Result<Option<WaitUntil>> {
    match text.to_lowercase().replace([' ', '-'], "_").as_str() {
        "running" => Ok(Some(WaitUntil::Running)),
        "caught_up" => Ok(Some(WaitUntil::CaughtUp)),
        "finished" => Ok(Some(WaitUntil::Finished)),
        "none" | "false" => Ok(None),
        _ => Err(wrong(option, text, "running, caught_up, finished or none")),
    }
}

fn key_groups(option: &PipelineOption, text: &str) -> Result<u16> {
    match text.trim().parse::<u16>() {
        Ok(groups) if groups.is_power_of_two() && groups <= 32768 => Ok(groups),
        _ => Err(wrong(option, text, "a power of two up to 32768")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Report;

    fn raw(options: &[(&str, &str)]) -> RawOptions {
        let pairs = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), RawOptionValue::Text((*value).to_owned())));
        RawOptions(pairs.collect())
    }

    #[test]
    fn options_are_read_and_divided() {
        let options = read(&raw(&[
            ("Parallelism", "4"),
            ("start", "false"),
            ("wait", "CAUGHT UP"),
            ("updatingTtl", "1 hour"),
            ("allowedLateness", "1 minute"),
        ]))
        .unwrap();
        assert_eq!(
            (options.start, options.wait, options.parallelism),
            (false, Some(WaitUntil::CaughtUp), Some(4))
        );
        assert_eq!(
            options.kept,
            raw(&[
                ("parallelism", "4"),
                ("state_ttl", "1 hour"),
                ("allowed_lateness", "1 minute")
            ])
        );
        assert_eq!(allowed_lateness_ms(&options.kept).unwrap(), 60_000);
        assert_eq!(state_ttl_ms(&options.kept).unwrap(), Some(3_600_000));
    }

    #[test]
    fn mistakes_say_what_was_meant() {
        let error = read(&raw(&[("paralelism", "4")])).unwrap_err();
        assert_eq!(error.code().as_str(), "22023");
        assert!(error.hint().unwrap().contains("\"parallelism\""));
        for (name, value) in [
            ("parallelism", "0"),
            ("checkpoint_interval", "soon"),
            ("memory_limit", "much"),
            ("allowed_lateness", "soon"),
            ("wait", "for it"),
            ("key_groups", "1000"),
            ("start", "maybe"),
        ] {
            assert_eq!(
                read(&raw(&[(name, value)])).unwrap_err().code().as_str(),
                "22023",
                "{name}"
            );
        }
        assert!(read(&raw(&[("parallelism", "100"), ("key_groups", "64")])).is_err());
        assert_eq!(
            read_changes(&raw(&[("state_ttl", "1 s")])).unwrap_err().code().as_str(),
            "0A000"
        );
    }
}
