//! `WITH (..)` options: as written (what the catalog keeps) and resolved (what a connector reads).
//!
//! Guarantee: a value that came from a secret is never printed; `Debug` shows stars.

use std::fmt;

/// Options as the statement gave them, in its order; names as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RawOptions(pub Vec<(String, RawOptionValue)>);

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RawOptionValue {
    /// May hold `{{ VAR }}`: the server's environment variable, read at each use.
    Text(String),
    /// `SECRET name`.
    Secret(String),
}

impl RawOptions {
    /// The value as written under `name`, which is compared as [`normalize_name`] says.
    pub fn get(&self, name: &str) -> Option<&RawOptionValue> {
        let name = normalize_name(name);
        self.0
            .iter()
            .find(|(candidate, _)| normalize_name(candidate) == name)
            .map(|(_, value)| value)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(RawOptionValue::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// Options with secrets and variables filled in; names normalized, later ones (a table's) win over earlier (its
/// connection's).
#[derive(Clone, Default)]
pub struct ResolvedOptions(pub Vec<(String, ResolvedValue)>);

#[derive(Clone)]
pub struct ResolvedValue {
    pub text: String,
    /// Came from a secret: not to be shown, logged or checkpointed.
    pub sensitive: bool,
}

impl ResolvedOptions {
    pub fn get(&self, name: &str) -> Option<&ResolvedValue> {
        let name = normalize_name(name);
        self.0
            .iter()
            .rev()
            .find(|(candidate, _)| *candidate == name)
            .map(|(_, value)| value)
    }
}

impl fmt::Debug for ResolvedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive {
            f.write_str("***")
        } else {
            fmt::Debug::fmt(&self.text, f)
        }
    }
}

impl fmt::Debug for ResolvedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| (name, value)))
            .finish()
    }
}

/// `bootstrapServers`, `Bootstrap_Servers` and `bootstrap_servers` are one option.
pub fn normalize_name(name: &str) -> String {
    let mut normalized = String::with_capacity(name.len() + 4);
    let mut previous_lower = false;
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            if previous_lower {
                normalized.push('_');
            }
            normalized.push(character.to_ascii_lowercase());
            previous_lower = false;
        } else {
            normalized.push(character);
            previous_lower = character.is_ascii_lowercase() || character.is_ascii_digit();
        }
    }
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_one_name() {
        for spelling in ["bootstrapServers", "bootstrap_servers", "BootstrapServers"] {
            assert_eq!(normalize_name(spelling), "bootstrap_servers");
        }
        assert_eq!(normalize_name("source.offset"), "source.offset");
    }

    #[test]
    fn secrets_do_not_print() {
        let value = ResolvedValue {
            text: "hunter2".into(),
            sensitive: true,
        };
        let options = ResolvedOptions(vec![("password".into(), value)]);
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
