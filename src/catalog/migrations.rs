//! The list of migrations: one portable set for SQLite and Postgres, forward only.
//!
//! A released file is never edited: its checksum is in every store, and a store that differs is refused.

use refinery::error::Kind;
use refinery::{Migration, Runner};

use crate::catalog::error::{Error, Result};

const MIGRATIONS: [(&str, &str); 2] = [
    ("V1__catalog", include_str!("../../migrations/0001_catalog.sql")),
    ("V2__inputs", include_str!("../../migrations/0002_inputs.sql")),
];

/// What applies them; its history is in a table of our own name, since a Postgres database may be shared.
pub(crate) fn runner() -> Result<Runner> {
    let migrations = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql))
        .collect::<std::result::Result<Vec<Migration>, _>>()
        .map_err(|error| Error::Internal(error.to_string()))?;
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name("laminar_migration");
    Ok(runner)
}

/// A store that has migrations this server does not know was written by a newer one.
pub(crate) fn migration_error(error: refinery::Error) -> Error {
    match error.kind() {
        Kind::MissingVersion(migration) => Error::NewerStore {
            detail: format!("It has migration {migration}, which this server does not know."),
        },
        Kind::DivergentVersion(applied, _) => Error::Corrupted {
            place: "laminar_migration".into(),
            reason: format!("migration {applied} differs from that of this server"),
        },
        _ => Error::Store {
            action: "apply its migrations",
            reason: std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_file_is_listed_in_order() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> = MIGRATIONS
            .iter()
            .enumerate()
            .map(|(i, (name, _))| format!("{:04}_{}.sql", i + 1, name.split_once("__").unwrap().1))
            .collect();
        assert_eq!(files, listed);
    }
}
