//! The metadata store in a Postgres database, shared by all processes of an installation.
//!
//! Guarantees: a transaction that is abandoned or whose connection breaks leaves nothing behind; a server that stands still in the
//! middle of one holds others up for some seconds only; no call waits for ever for a database that does not answer. TLS follows libpq's
//! `sslmode`: `disable`, `prefer` (default), `require` (encrypted, the server not verified unless `sslrootcert` is
//! given), `verify-ca` and `verify-full` (verified against `sslrootcert`).
//!
//! Not guaranteed: what happened to a commit whose answer was lost, so callers look before they repeat; durability beyond
//! what the server's `synchronous_commit` gives.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool, PoolError};
use tokio_postgres::error::SqlState as PostgresState;
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::error::{Error, Result};
use crate::catalog::migrations::{migration_error, runner};
use crate::catalog::sql_store::{Access, SqlDriver, SqlRow, SqlStore, SqlTransaction, SqlValue};
use crate::catalog::store::CatalogStore;
use crate::postgres::{Address, AddressError, CONNECT_TIMEOUT, with_source};

const CONNECTIONS_MAX: usize = 8;

/// A server that is stopped between two statements holds the locks of its transaction; the database takes them away after this.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(5);

/// After this the database is taken not to answer. Longer than others may hold a lock.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// `laminar` in ASCII; servers that start together migrate one after the other.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_lock(30506445471277426)";
const MIGRATION_UNLOCK: &str = "SELECT pg_advisory_unlock(30506445471277426)";

/// The store at `url`: `postgres://user:password@host:port/database?sslmode=..`. Connects at the first use.
pub fn open(url: &str) -> Result<Arc<dyn CatalogStore>> {
    let address = Address::parse(url).map_err(invalid_url)?;
    let pool = address.pool(CONNECTIONS_MAX).map_err(invalid_url)?;
    Ok(Arc::new(SqlStore::new(PostgresDriver::new(pool))))
}

fn invalid_url(error: AddressError) -> Error {
    Error::InvalidStoreUrl {
        url: error.address,
        reason: error.reason,
    }
}

struct PostgresDriver {
    pool: Pool,
    stands_still_after: Duration,
    answers_within: Duration,
}

impl PostgresDriver {
    fn new(pool: Pool) -> PostgresDriver {
        PostgresDriver {
            pool,
            stands_still_after: STANDS_STILL_AFTER,
            answers_within: ANSWERS_WITHIN,
        }
    }

    async fn connect(&self) -> Result<Object> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => postgres_error("connect", &error),
            PoolError::Timeout(_) => Error::StoreUnreachable {
                reason: format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
            },
            other => Error::StoreUnreachable {
                reason: other.to_string(),
            },
        })
    }
}

#[async_trait::async_trait]
impl SqlDriver for PostgresDriver {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn migrate(&self) -> Result<()> {
        let mut object = self.connect().await?;
        object
            .batch_execute(MIGRATION_LOCK)
            .await
            .map_err(|error| postgres_error("lock its tables", &error))?;
        let outcome = runner()?.run_async(&mut **object).await.map_err(migration_error);
        if object.batch_execute(MIGRATION_UNLOCK).await.is_err() {
            // The lock goes with the session.
            drop(Object::take(object));
        }
        outcome.map(|_| ())
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn SqlTransaction>> {
        let begin = match access {
            Access::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            // The first statement of every write takes the row lock that decides; the others see what came before it.
            Access::Write => "BEGIN ISOLATION LEVEL READ COMMITTED",
        };
        let idle = self.stands_still_after.as_millis();
        let sql = format!("{begin}; SET LOCAL idle_in_transaction_session_timeout = {idle}");
        let transaction = PostgresTransaction {
            object: Some(self.connect().await?),
            answers_within: self.answers_within,
        };
        let begun = transaction.object()?.batch_execute(&sql);
        transaction.answer("begin a transaction", begun).await?;
        Ok(Box::new(transaction))
    }
}

struct PostgresTransaction {
    object: Option<Object>,
    answers_within: Duration,
}

impl PostgresTransaction {
    fn object(&self) -> Result<&Object> {
        self.object
            .as_ref()
            .ok_or_else(|| Error::Internal("the metadata transaction has ended".into()))
    }

    async fn answer<T>(
        &self,
        action: &'static str,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.answers_within, asked).await {
            Ok(answer) => answer.map_err(|error| postgres_error(action, &error)),
            Err(_) => Err(Error::StoreUnreachable {
                reason: format!("no answer within {} s", self.answers_within.as_secs_f64()),
            }),
        }
    }
}

impl Drop for PostgresTransaction {
    /// A connection in an open transaction does not go back to the pool: closing it rolls back.
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

#[async_trait::async_trait]
impl SqlTransaction for PostgresTransaction {
    async fn execute(&mut self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<u64> {
        let object = self.object()?;
        let changed = async {
            let statement = object.prepare_typed_cached(sql, &types_of(&parameters)).await?;
            object.execute(&statement, &references(&parameters)).await
        };
        self.answer("run a statement", changed).await
    }

    async fn query(&mut self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<Vec<SqlRow>> {
        let object = self.object()?;
        let rows = async {
            let statement = object.prepare_typed_cached(sql, &types_of(&parameters)).await?;
            object.query(&statement, &references(&parameters)).await
        };
        self.answer("run a statement", rows).await?.iter().map(row_of).collect()
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.answer("commit", self.object()?.batch_execute("COMMIT")).await?;
        // Back to the pool.
        self.object = None;
        Ok(())
    }
}

fn types_of(parameters: &[SqlValue]) -> Vec<Type> {
    parameters
        .iter()
        .map(|parameter| match parameter {
            SqlValue::Integer(_) => Type::INT8,
            SqlValue::Text(_) => Type::TEXT,
        })
        .collect()
}

fn references(parameters: &[SqlValue]) -> Vec<&(dyn ToSql + Sync)> {
    parameters
        .iter()
        .map(|parameter| match parameter {
            SqlValue::Integer(number) => number as &(dyn ToSql + Sync),
            SqlValue::Text(text) => text as &(dyn ToSql + Sync),
        })
        .collect()
}

fn row_of(row: &tokio_postgres::Row) -> Result<SqlRow> {
    let value = |column: usize, kind: &Type| {
        if *kind == Type::INT8 {
            row.try_get(column).map(SqlValue::Integer)
        } else {
            row.try_get(column).map(SqlValue::Text)
        }
    };
    row.columns()
        .iter()
        .enumerate()
        .map(|(i, column)| value(i, column.type_()))
        .collect::<std::result::Result<SqlRow, _>>()
        .map_err(|error| postgres_error("read a row", &error))
}

fn postgres_error(action: &'static str, error: &tokio_postgres::Error) -> Error {
    let reason = with_source(error);
    let Some(state) = error.code() else {
        return Error::StoreUnreachable { reason };
    };
    if *state == PostgresState::DISK_FULL {
        return Error::StoreFull { reason };
    }
    // 08 connection, 25P03 stood still for too long, 28 authorization, 3D no such database, 53300 too many connections,
    // 57P0x shutting down or starting.
    let unreachable = ["08", "25P03", "28", "3D", "533", "57P0"];
    if unreachable.iter().any(|class| state.code().starts_with(class)) {
        return Error::StoreUnreachable { reason };
    }
    Error::Store { action, reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::catalog::store_tests;
    use crate::error::Report;
    use crate::testing::postgres::TestPostgres;

    #[tokio::test]
    async fn suite() {
        let Some(server) = TestPostgres::start().await else {
            return;
        };
        store_tests::run_all(async || open(&server.new_database().await).unwrap()).await;
    }

    #[tokio::test]
    async fn two_servers_on_one_store_see_one_another() {
        let Some(server) = TestPostgres::start().await else {
            return;
        };
        let url = server.new_database().await;
        let (first, second) = (open(&url).unwrap(), open(&url).unwrap());
        let (a, b) = tokio::join!(first.migrate(), second.migrate());
        a.unwrap();
        b.unwrap();
        store_tests::write_something(first.as_ref()).await;
        assert_eq!(first.load().await.unwrap(), second.load().await.unwrap());
    }

    #[tokio::test]
    async fn abandoned_transaction_is_rolled_back() {
        let Some(server) = TestPostgres::start().await else {
            return;
        };
        let url = server.new_database().await;
        let store = open(&url).unwrap();
        store.migrate().await.unwrap();
        let driver = driver_of(&url);
        let mut transaction = driver.begin(Access::Write).await.unwrap();
        let sql = "UPDATE laminar_catalog SET version = 99";
        transaction.execute(sql, vec![]).await.unwrap();
        drop(transaction);
        drop(driver.begin(Access::Read).await.unwrap());
        assert_eq!(store.version().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn f_03_a_server_that_stands_still_in_a_transaction_does_not_hold_up_its_successor() {
        let Some(server) = TestPostgres::start().await else {
            return;
        };
        let url = server.new_database().await;
        let store = open(&url).unwrap();
        store.migrate().await.unwrap();
        let mut stopped = driver_of(&url);
        stopped.stands_still_after = Duration::from_millis(300);
        let mut transaction = stopped.begin(Access::Write).await.unwrap();
        let sql = "UPDATE laminar_catalog SET version = version + 1";
        transaction.execute(sql, vec![]).await.unwrap();
        let mut successor = driver_of(&url).begin(Access::Write).await.unwrap();
        assert_eq!(successor.execute(sql, vec![]).await.unwrap(), 1);
        successor.commit().await.unwrap();
        let woken = transaction.commit().await.unwrap_err();
        assert_eq!(woken.code().as_str(), "08006", "{woken}");
        assert_eq!(store.version().await.unwrap(), 1, "what was not committed is gone");
    }

    #[tokio::test]
    async fn f_08_a_database_that_does_not_answer_is_an_error() {
        let Some(server) = TestPostgres::start().await else {
            return;
        };
        let mut driver = driver_of(&server.new_database().await);
        driver.answers_within = Duration::from_millis(300);
        let mut transaction = driver.begin(Access::Read).await.unwrap();
        let error = transaction.query("SELECT pg_sleep(60)", vec![]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not reach the metadata store: no answer within 0.3 s"
        );
        assert_eq!(error.code().as_str(), "08006");
        drop(transaction);
        let mut transaction = driver.begin(Access::Read).await.unwrap();
        assert_eq!(transaction.query("SELECT 1::bigint", vec![]).await.unwrap().len(), 1);
    }

    fn driver_of(url: &str) -> PostgresDriver {
        PostgresDriver::new(Address::parse(url).unwrap().pool(1).unwrap())
    }

    async fn is_encrypted(url: &str) -> Result<bool> {
        let sql = "SELECT CASE WHEN ssl THEN 1 ELSE 0 END::bigint FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let rows = driver_of(url).begin(Access::Read).await?.query(sql, vec![]).await?;
        Ok(rows == vec![vec![SqlValue::Integer(Some(1))]])
    }

    #[tokio::test]
    async fn tls_follows_sslmode() {
        let Some(server) = TestPostgres::start_with_tls().await else {
            return;
        };
        let by_name = server.new_database().await;
        let by_address = by_name.replace("localhost", "127.0.0.1");
        let roots = server.certificate().unwrap().display().to_string();
        for (url, mode, encrypted) in [
            (&by_name, "disable".to_owned(), false),
            (&by_name, "prefer".to_owned(), true),
            (&by_address, "require".to_owned(), true),
            (&by_address, format!("verify-ca&sslrootcert={roots}"), true),
            (&by_name, format!("verify-full&sslrootcert={roots}"), true),
        ] {
            assert_eq!(
                is_encrypted(&format!("{url}?sslmode={mode}")).await.unwrap(),
                encrypted,
                "{mode}"
            );
        }
        let wrong_name = format!("{by_address}?sslmode=verify-full&sslrootcert={roots}");
        assert_eq!(is_encrypted(&wrong_name).await.unwrap_err().code().as_str(), "08006");
    }

    #[tokio::test]
    async fn gone_server_is_a_clear_error_without_password() {
        let store = open("postgres://me:hunter2@127.0.0.1:1/db").unwrap();
        let error = store.ping().await.unwrap_err();
        assert_eq!(error.code().as_str(), "08006");
        assert!(error.hint().is_some());
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let error = open("postgres://me:hunter2@h/db?sslmode=maybe").err().unwrap();
        assert_eq!(error.code().as_str(), "22023");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(open("postgres://h/db?sslmode=verify-full").is_err());
    }
}
