//! The parameters of a session: SET, SHOW, RESET, SET LOCAL, startup values.
//!
//! A value is looked for in the transaction (SET LOCAL), the session (SET), the startup packet, the definition's default.
//! A rolled back transaction takes its SETs with it.
//!
//! In reading order: [`definitions`] (the table of all parameters), [`values`] (reading and printing them).

pub mod definitions;
pub mod values;

use std::collections::BTreeMap;

use crate::error::nearest;
use crate::frontend::error::{Error, Result};
use crate::frontend::settings::definitions::{Definition, Kind, find};
use crate::frontend::sql::statement::SetScope;

#[derive(Clone, Debug, Default)]
pub struct SessionSettings {
    /// What RESET goes back to, where the startup packet said something.
    startup: BTreeMap<String, String>,
    session: BTreeMap<String, String>,
    local: BTreeMap<String, String>,
    /// `session` as it was when the transaction began.
    before_transaction: Option<BTreeMap<String, String>>,
    /// Values that the client knows, of those it has to be told.
    told: BTreeMap<&'static str, String>,
}

impl SessionSettings {
    /// From the startup packet; names that are no settings are the caller's.
    pub fn new(startup: impl IntoIterator<Item = (String, String)>) -> Result<SessionSettings> {
        let mut settings = SessionSettings::default();
        for (name, value) in startup {
            let (key, value) = checked(&name, &value)?;
            settings.startup.insert(key, value);
        }
        Ok(settings)
    }

    /// Who is logged in; nothing resets it.
    pub fn log_in(&mut self, user: &str) {
        self.startup.insert("session_authorization".to_owned(), user.to_owned());
    }

    /// Sets `name`; `None` is DEFAULT.
    pub fn set(&mut self, scope: SetScope, name: &str, value: Option<&str>) -> Result<()> {
        let (key, value) = match value {
            Some(value) => checked(name, value)?,
            None => {
                let key = key_of(name)?;
                check_writable(&key)?;
                let value = self.reset_value(&key);
                (key, value)
            }
        };
        match scope {
            SetScope::Session => {
                self.local.remove(&key);
                self.session.insert(key, value);
            }
            SetScope::Local => {
                self.local.insert(key, value);
            }
        }
        Ok(())
    }

    pub fn reset(&mut self, name: &str) -> Result<()> {
        let key = key_of(name)?;
        check_writable(&key)?;
        self.session.remove(&key);
        self.local.remove(&key);
        Ok(())
    }

    pub fn reset_all(&mut self) {
        // Postgres keeps these: they belong to the transaction and to who is logged in.
        let kept = |key: &str| {
            [
                "transaction_isolation",
                "transaction_read_only",
                "session_authorization",
                "role",
            ]
            .contains(&key)
        };
        self.session.retain(|key, _| kept(key));
        self.local.retain(|key, _| kept(key));
    }

    /// The value as SHOW prints it, for a setting that [`definitions`] has; empty for others.
    pub fn get(&self, name: &str) -> String {
        let key = name.to_lowercase();
        self.given(&key)
            .cloned()
            .or_else(|| find(&key).map(|definition| definition.default.to_owned()))
            .unwrap_or_default()
    }

    /// As [`SessionSettings::get`], an error for names that do not exist.
    pub fn show(&self, name: &str) -> Result<String> {
        let key = name.to_lowercase();
        if let Some(value) = self.given(&key) {
            return Ok(value.clone());
        }
        match find(&key) {
            Some(definition) => Ok(definition.default.to_owned()),
            None => Err(unknown(&key)),
        }
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.get(name) == "on"
    }

    /// A duration in milliseconds; `None` for 0, which means no limit.
    pub fn milliseconds(&self, name: &str) -> Option<u64> {
        values::milliseconds(&self.get(name)).filter(|value| *value > 0)
    }

    /// Every setting with its value and what it is, by name; settings of the user's own come last.
    pub fn all(&self) -> Vec<(String, String, String)> {
        let known = definitions::ALL.iter().map(|definition| {
            (
                definition.name.to_owned(),
                self.get(definition.name),
                definition.summary.to_owned(),
            )
        });
        let own = self
            .session
            .keys()
            .chain(self.local.keys())
            .chain(self.startup.keys())
            .filter(|key| find(key).is_none())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .map(|key| (key.clone(), self.get(key), String::new()));
        known.chain(own).collect()
    }

    /// Values by lower-case name, for `current_setting`.
    pub fn by_name(&self) -> BTreeMap<String, String> {
        self.all()
            .into_iter()
            .map(|(name, value, _)| (name.to_lowercase(), value))
            .collect()
    }

    /// Settings that the client is told of, as they are.
    pub fn told(&self) -> Vec<(&'static str, String)> {
        let told = definitions::ALL.iter().filter(|definition| definition.told);
        told.map(|definition| (definition.name, self.get(definition.name)))
            .collect()
    }

    /// Settings whose value the client has to be told, where it changed since the last call; all of them the first time.
    pub fn changes_to_tell(&mut self) -> Vec<(&'static str, String)> {
        let mut changes = Vec::new();
        for definition in definitions::ALL.iter().filter(|definition| definition.told) {
            let value = self.get(definition.name);
            if self.told.get(definition.name) != Some(&value) {
                self.told.insert(definition.name, value.clone());
                changes.push((definition.name, value));
            }
        }
        changes
    }

    pub fn begin_transaction(&mut self) {
        self.before_transaction = Some(self.session.clone());
    }

    pub fn end_transaction(&mut self, committed: bool) {
        if let Some(before) = self.before_transaction.take()
            && !committed
        {
            self.session = before;
        }
        self.local.clear();
    }

    fn given(&self, key: &str) -> Option<&String> {
        self.local
            .get(key)
            .or_else(|| self.session.get(key))
            .or_else(|| self.startup.get(key))
    }

    fn reset_value(&self, key: &str) -> String {
        self.startup
            .get(key)
            .cloned()
            .or_else(|| find(key).map(|definition| definition.default.to_owned()))
            .unwrap_or_default()
    }
}

/// The name to keep a setting by; dotted names that nobody defined are the user's own.
fn key_of(name: &str) -> Result<String> {
    let key = name.to_lowercase();
    if find(&key).is_some() || key.contains('.') {
        return Ok(key);
    }
    Err(unknown(&key))
}

fn checked(name: &str, value: &str) -> Result<(String, String)> {
    let key = key_of(name)?;
    let Some(definition) = find(&key) else {
        return Ok((key, value.to_owned()));
    };
    if definition.kind == Kind::Fixed {
        // Clients set what already is, such as standard_conforming_strings = on.
        return match value.eq_ignore_ascii_case(definition.default) {
            true => Ok((key, definition.default.to_owned())),
            false => Err(Error::SettingReadOnly {
                name: definition.name.to_owned(),
            }),
        };
    }
    let value = values::read(definition, value)?;
    Ok((key, value))
}

fn check_writable(key: &str) -> Result<()> {
    match find(key) {
        Some(Definition {
            kind: Kind::Fixed,
            name,
            ..
        }) => Err(Error::SettingReadOnly {
            name: (*name).to_owned(),
        }),
        _ => Ok(()),
    }
}

fn unknown(key: &str) -> Error {
    Error::UnknownSetting {
        name: key.to_owned(),
        nearest: nearest(key, definitions::ALL.iter().map(|definition| definition.name)).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Report;

    #[test]
    fn values_are_looked_for_from_the_inside_out() {
        let mut settings = SessionSettings::new([("TimeZone".to_owned(), "Europe/Berlin".to_owned())]).unwrap();
        assert_eq!(settings.get("timezone"), "Europe/Berlin");
        settings.set(SetScope::Session, "TIMEZONE", Some("+02")).unwrap();
        assert_eq!(settings.get("TimeZone"), "+02:00");
        settings.begin_transaction();
        settings.set(SetScope::Local, "timezone", Some("UTC")).unwrap();
        assert_eq!(settings.get("timezone"), "UTC");
        settings.end_transaction(true);
        assert_eq!(settings.get("timezone"), "+02:00");
        settings.reset("timezone").unwrap();
        assert_eq!(settings.get("timezone"), "Europe/Berlin");
    }

    #[test]
    fn rollback_takes_settings_back() {
        let mut settings = SessionSettings::default();
        settings.begin_transaction();
        settings.set(SetScope::Session, "application_name", Some("x")).unwrap();
        settings.end_transaction(false);
        assert_eq!(settings.get("application_name"), "");
    }

    #[test]
    fn changes_are_told_once() {
        let mut settings = SessionSettings::default();
        let first = settings.changes_to_tell();
        assert!(
            first
                .iter()
                .any(|(name, value)| *name == "server_version" && value.starts_with("16."))
        );
        assert!(settings.changes_to_tell().is_empty());
        settings.set(SetScope::Session, "datestyle", Some("ISO, DMY")).unwrap();
        assert_eq!(settings.changes_to_tell(), [("DateStyle", "ISO, DMY".to_owned())]);
    }

    #[test]
    fn errors_name_the_nearest() {
        let mut settings = SessionSettings::default();
        let error = settings
            .set(SetScope::Session, "aplication_name", Some("x"))
            .unwrap_err();
        assert_eq!(error.code().as_str(), "42704");
        assert!(error.hint().unwrap().contains("application_name"));
        let error = settings
            .set(SetScope::Session, "server_version", Some("9"))
            .unwrap_err();
        assert_eq!(error.code().as_str(), "55000");
        settings
            .set(SetScope::Session, "standard_conforming_strings", Some("on"))
            .unwrap();
        settings.set(SetScope::Session, "myapp.user_id", Some("7")).unwrap();
        assert_eq!(settings.show("myapp.user_id").unwrap(), "7");
        assert_eq!(settings.show("myapp.other").unwrap_err().code().as_str(), "42704");
    }
}
