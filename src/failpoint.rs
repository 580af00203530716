//! Places where a test lets the server die or a step fail: `LAMINAR_FAILPOINTS=sink.after_commit=kill@3,s3.put=error@2`.
//!
//! Crashes that matter fall between two steps that are microseconds apart; random kills hardly ever hit them. A failpoint names
//! the place, the environment says at which pass through it what happens:
//! - `kill`: the process ends as by `kill -9`, with nothing flushed and nothing dropped;
//! - `error`: the step fails with an I/O error, which its caller turns into one of its own.
//!
//! `@n` is the n-th pass (1 without it) and only that one; `@n-m` is each of these. Builds without debug assertions, so all
//! releases, have none of this: every place is passed and the variable is not read.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Mutex, OnceLock};

/// What the environment variable is called.
pub const VARIABLE: &str = "LAMINAR_FAILPOINTS";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Error,
}

#[derive(Debug)]
struct Failpoint {
    action: Action,
    passes: RangeInclusive<u64>,
    passed: u64,
}

/// The failpoint `name` is reached. Dies, fails, or does nothing, as the environment says.
pub fn reached(name: &str) -> io::Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    static ARMED: OnceLock<Mutex<BTreeMap<String, Failpoint>>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        Mutex::new(parse(&text).expect("LAMINAR_FAILPOINTS is written by tests only"))
    });
    let action = armed
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .get_mut(name)
        .and_then(Failpoint::pass);
    match action {
        None => Ok(()),
        Some(Action::Error) => Err(io::Error::other(format!("failpoint {name}"))),
        Some(Action::Kill) => {
            tracing::warn!(name, "failpoint: the server dies here");
            std::process::abort()
        }
    }
}

/// The failpoint `name` is reached at a place where nothing can fail but the process.
pub fn passed(name: &str) {
    if let Err(error) = reached(name) {
        panic!("{error} can only kill");
    }
}

impl Failpoint {
    fn pass(&mut self) -> Option<Action> {
        self.passed += 1;
        self.passes.contains(&self.passed).then(|| self.action.clone())
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Failpoint>, String> {
    text.split(',').filter(|one| !one.is_empty()).map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<(String, Failpoint), String> {
    let malformed = || format!("{text} is not name=kill@n or name=error@n-m");
    let (name, action) = text.split_once('=').ok_or_else(malformed)?;
    let (action, passes) = action.split_once('@').unwrap_or((action, "1"));
    let (first, last) = passes.split_once('-').unwrap_or((passes, passes));
    let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
    let action = match action {
        "kill" => Action::Kill,
        "error" => Action::Error,
        _ => return Err(malformed()),
    };
    let failpoint = Failpoint {
        action,
        passes: number(first)?..=number(last)?,
        passed: 0,
    };
    Ok((name.to_owned(), failpoint))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn acts_at_the_passes_that_were_asked_for() {
        let mut armed = parse("a=kill@3,b=error@2-3,c=error").unwrap();
        let mut passes = |name: &str| -> Vec<Option<Action>> {
            let failpoint = armed.get_mut(name).unwrap();
            (0..4).map(|_| failpoint.pass()).collect()
        };
        assert_eq!(passes("a"), [None, None, Some(Action::Kill), None]);
        assert_eq!(passes("b"), [None, Some(Action::Error), Some(Action::Error), None]);
        assert_eq!(passes("c"), [Some(Action::Error), None, None, None]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["a", "a=explode", "a=kill@x", "a=kill@1-"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
