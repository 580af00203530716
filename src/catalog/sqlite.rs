//! The embedded metadata store: one SQLite file.
//!
//! Guarantees: a committed change is on the disk (WAL, `synchronous=FULL`); a second server on the same file is refused
//! before it touches it. Statements run on the blocking pool, one transaction at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql, params_from_iter};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::catalog::error::{Error, Result};
use crate::catalog::migrations::{migration_error, runner};
use crate::catalog::sql_store::{Access, SqlDriver, SqlRow, SqlStore, SqlTransaction, SqlValue};
use crate::catalog::store::CatalogStore;

/// The store in the file `path`, which is made with its directory when it does not exist.
pub async fn open(path: &Path) -> Result<Arc<dyn CatalogStore>> {
    let path = path.to_owned();
    let driver = blocking(move || SqliteDriver::open(&path)).await?;
    Ok(Arc::new(SqlStore::new(driver)))
}

struct SqliteDriver {
    connection: Arc<Mutex<Connection>>,
    _lock: Lock,
}

/// Released by the operating system when the process ends, however it ends.
struct Lock(File);

impl Drop for Lock {
    /// By name: a child that is just being started shares the file until it runs its program, and would keep it locked.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "could not unlock the metadata store");
        }
    }
}

impl SqliteDriver {
    fn open(path: &Path) -> Result<SqliteDriver> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|error| Error::Store {
                action: "create its directory",
                reason: format!("{}: {error}", directory.display()),
            })?;
        }
        let lock = lock_file(path)?;
        let connection = Connection::open(path).map_err(|error| store_error("open its file", error))?;
        for pragma in [
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA foreign_keys = ON",
        ] {
            connection
                .query_row(pragma, [], |_| Ok(()))
                .or_else(|error| match error {
                    rusqlite::Error::QueryReturnedNoRows => Ok(()),
                    other => Err(other),
                })
                .map_err(|error| store_error("open its file", error))?;
        }
        Ok(SqliteDriver {
            connection: Arc::new(Mutex::new(connection)),
            _lock: lock,
        })
    }
}

fn lock_file(path: &Path) -> Result<Lock> {
    let lock_path = PathBuf::from(format!("{}.lock", path.display()));
    let failed = |error: std::io::Error| Error::Store {
        action: "lock its file",
        reason: format!("{}: {error}", lock_path.display()),
    };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::StoreLocked { path: lock_path }),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[async_trait::async_trait]
impl SqlDriver for SqliteDriver {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self) -> Result<()> {
        let mut connection = Arc::clone(&self.connection).lock_owned().await;
        blocking(move || {
            runner()?.run(&mut *connection).map_err(migration_error)?;
            Ok(())
        })
        .await
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn SqlTransaction>> {
        let connection = Arc::clone(&self.connection).lock_owned().await;
        let open = OpenTransaction { connection };
        let open = blocking(move || {
            let begin = match access {
                Access::Read => "BEGIN",
                Access::Write => "BEGIN IMMEDIATE",
            };
            open.connection
                .execute_batch(begin)
                .map_err(|error| store_error("begin a transaction", error))?;
            Ok(open)
        })
        .await?;
        Ok(Box::new(SqliteTransaction { open: Some(open) }))
    }
}

/// Rolls back when it is dropped open, wherever that happens: an abandoned future leaves no transaction behind.
struct OpenTransaction {
    connection: OwnedMutexGuard<Connection>,
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "could not roll back in the metadata store");
        }
    }
}

struct SqliteTransaction {
    /// `None` after a call was abandoned: the transaction was rolled back.
    open: Option<OpenTransaction>,
}

impl SqliteTransaction {
    /// Runs `work` on the blocking pool and takes the transaction back.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let open = self
            .open
            .take()
            .ok_or_else(|| Error::Internal("the metadata transaction was abandoned".into()))?;
        let (open, outcome) = blocking(move || {
            let outcome = work(&open.connection);
            Ok((open, outcome))
        })
        .await?;
        self.open = Some(open);
        outcome.map_err(|error| store_error("run a statement", error))
    }
}

#[async_trait::async_trait]
impl SqlTransaction for SqliteTransaction {
    async fn execute(&mut self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<u64> {
        let changed = self
            .run(move |connection| connection.prepare_cached(sql)?.execute(params_from_iter(parameters)))
            .await?;
        Ok(changed as u64)
    }

    async fn query(&mut self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<Vec<SqlRow>> {
        self.run(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let columns = statement.column_count();
            let rows = statement.query_map(params_from_iter(parameters), |row| {
                (0..columns)
                    .map(|column| value_of(row.get_ref(column)?, column))
                    .collect()
            })?;
            rows.collect()
        })
        .await
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.run(|connection| connection.execute_batch("COMMIT")).await
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            SqlValue::Integer(Some(number)) => ToSqlOutput::Owned(Value::Integer(*number)),
            SqlValue::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            SqlValue::Integer(None) | SqlValue::Text(None) => ToSqlOutput::Owned(Value::Null),
        })
    }
}

fn value_of(value: ValueRef<'_>, column: usize) -> rusqlite::Result<SqlValue> {
    match value {
        ValueRef::Integer(number) => Ok(SqlValue::Integer(Some(number))),
        ValueRef::Text(_) => Ok(SqlValue::Text(Some(value.as_str()?.to_owned()))),
        ValueRef::Null => Ok(SqlValue::Text(None)),
        other => Err(rusqlite::Error::InvalidColumnType(
            column,
            String::new(),
            other.data_type(),
        )),
    }
}

fn store_error(action: &'static str, error: rusqlite::Error) -> Error {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::StoreFull { reason },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Corrupted {
            place: "its file".into(),
            reason,
        },
        _ => Error::Store { action, reason },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("a metadata statement failed: {error}"))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::catalog::store_tests;
    use crate::error::Report;

    #[tokio::test]
    async fn suite() {
        let directory = tempfile::tempdir().unwrap();
        let mut count = 0;
        store_tests::run_all(async || {
            count += 1;
            open(&directory.path().join(format!("{count}/catalog.sqlite")))
                .await
                .unwrap()
        })
        .await;
    }

    #[tokio::test]
    async fn second_server_is_refused_and_a_third_reads_what_the_first_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog.sqlite");
        let first = open(&path).await.unwrap();
        first.migrate().await.unwrap();
        store_tests::write_something(first.as_ref()).await;
        let before = first.load().await.unwrap();
        let error = open(&path).await.err().unwrap();
        assert_eq!(error.code().as_str(), "55006");
        assert!(error.hint().unwrap().contains("--data-dir"));
        drop(first);
        let third = open(&path).await.unwrap();
        third.migrate().await.unwrap();
        assert_eq!(third.load().await.unwrap(), before);
    }

    #[tokio::test]
    async fn file_of_something_else_and_newer_stores_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "these are notes and not a database, really".repeat(100)).unwrap();
        assert_eq!(open(&path).await.err().unwrap().code().as_str(), "XX001");

        let path = directory.path().join("newer.sqlite");
        open(&path).await.unwrap().migrate().await.unwrap();
        let connection = Connection::open(&path).unwrap();
        let newer = "INSERT INTO laminar_migration VALUES (9999, 'future', '2030-01-01T00:00:00Z', '1')";
        connection.execute(newer, []).unwrap();
        drop(connection);
        let error = open(&path).await.unwrap().migrate().await.unwrap_err();
        assert_eq!(error.code().as_str(), "0A000");
        assert!(error.detail().unwrap().contains("future"));
    }

    #[tokio::test]
    async fn abandoned_transaction_is_rolled_back() {
        let directory = tempfile::tempdir().unwrap();
        let driver = SqliteDriver::open(&directory.path().join("c.sqlite")).unwrap();
        driver.migrate().await.unwrap();
        let mut transaction = driver.begin(Access::Write).await.unwrap();
        transaction
            .execute("UPDATE laminar_catalog SET version = 99", vec![])
            .await
            .unwrap();
        drop(transaction);
        let mut transaction = driver.begin(Access::Read).await.unwrap();
        let rows = transaction
            .query("SELECT version FROM laminar_catalog", vec![])
            .await
            .unwrap();
        assert_eq!(rows, vec![vec![SqlValue::Integer(Some(0))]]);
    }
}
