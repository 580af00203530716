//! Writes the rows of an epoch in one transaction of the server, together with the note that they are there.
//!
//! The transaction first locks the sink's row in `laminar_commits`. An epoch that the row has reached is there already: the commit
//! of an earlier life, one whose answer was lost, or that of a run which was replaced and has gone on. So repeating is harmless, and
//! a zombie, whose epochs are older than those of the run after it, writes nothing. The lock makes a commit that is repeated on a new
//! connection wait for the one whose connection broke.
//!
//! Rows go by COPY, block by block: without a key into the table, with one into a temporary table and from there by INSERT .. ON
//! CONFLICT and DELETE. No statement is larger than a block.

use std::pin::pin;

use bytes::Bytes;
use deadpool_postgres::{Object, Pool};
use futures::SinkExt;
use tokio::sync::OnceCell;
use tokio_postgres::Transaction;

use crate::engine::connectors::kept_outside::KeptOutside;
use crate::engine::connectors::postgres::committable::{Lines, Reader};
use crate::engine::connectors::postgres::target::{COMMITS, Target};
use crate::engine::connectors::postgres::{connection, failed, quote_always};
use crate::engine::connectors::{Committer, CommitterContext, Result};
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};
use crate::failpoint;
use crate::ids::Epoch;

/// Rows and keys of the epoch before they are in the table.
const STAGED: &str = "pg_temp.laminar_staged";

pub struct PostgresCommitter {
    pool: Pool,
    relation: String,
    /// For messages.
    named: String,
    sink: String,
    target: OnceCell<Target>,
}

impl PostgresCommitter {
    pub fn new(pool: Pool, relation: String, named: String, context: CommitterContext) -> PostgresCommitter {
        PostgresCommitter {
            pool,
            relation,
            named,
            sink: context.sink,
            target: OnceCell::new(),
        }
    }

    fn wrap(&self) -> impl Fn(tokio_postgres::Error) -> Error + Copy + '_ {
        |error| failed(&format!("could not write to {}", self.named), &error)
    }

    /// What the table is, and its table of commits made sure of.
    async fn target(&self, client: &Object) -> Result<&Target> {
        let look = async || {
            let target = Target::look(client, &self.relation, false).await?;
            make_commits_table(client, &target).await.map_err(self.wrap())?;
            Ok(target)
        };
        self.target.get_or_try_init(look).await
    }

    async fn write(&self, epoch: Epoch, committables: &[Bytes]) -> Result<()> {
        let mut client = connection(&self.pool).await?;
        let wrap = self.wrap();
        let target = self.target(&client).await?.clone();
        let transaction = client.transaction().await.map_err(wrap)?;
        let number = i64::try_from(epoch.0).map_err(|_| Error::Internal(format!("epoch {epoch} is too large")))?;
        if self.has_epoch(&transaction, &target, number).await.map_err(wrap)? {
            return transaction.rollback().await.map_err(wrap);
        }
        for committable in committables {
            self.apply(&transaction, &target, committable).await?;
        }
        let note = format!(
            "UPDATE {} SET epoch = $2, committed_at = now() WHERE sink = $1",
            target.commits_quoted()
        );
        transaction.execute(&note, &[&self.sink, &number]).await.map_err(wrap)?;
        fail_on_purpose("postgres_sink.before_commit")?;
        transaction.commit().await.map_err(wrap)?;
        fail_on_purpose("postgres_sink.after_commit")
    }

    /// Whether the server has the epoch, or a later one; nobody else changes that before the transaction ends.
    async fn has_epoch(
        &self,
        transaction: &Transaction<'_>,
        target: &Target,
        epoch: i64,
    ) -> std::result::Result<bool, tokio_postgres::Error> {
        let commits = target.commits_quoted();
        let first = format!("INSERT INTO {commits} (sink, epoch) VALUES ($1, -1) ON CONFLICT (sink) DO NOTHING");
        transaction.execute(&first, &[&self.sink]).await?;
        let lock = format!("SELECT epoch FROM {commits} WHERE sink = $1 FOR UPDATE");
        let row = transaction.query_one(&lock, &[&self.sink]).await?;
        Ok(row.try_get::<_, i64>(0)? >= epoch)
    }

    async fn apply(&self, transaction: &Transaction<'_>, target: &Target, committable: &[u8]) -> Result<()> {
        let mut reader = Reader::new(committable)?;
        let columns = reader.head.columns.clone();
        let wrap = self.wrap();
        match reader.head.key.clone() {
            None => {
                self.copy(transaction, &target.quoted(), &columns, &mut reader, Lines::Rows)
                    .await?
            }
            Some(key) => {
                if reader.has(Lines::Gone) {
                    self.stage(transaction, target, &key, &mut reader, Lines::Gone).await?;
                    transaction.batch_execute(&delete(target, &key)).await.map_err(wrap)?;
                }
                if reader.has(Lines::Rows) {
                    self.stage(transaction, target, &columns, &mut reader, Lines::Rows)
                        .await?;
                    transaction
                        .batch_execute(&upsert(target, &columns, &key))
                        .await
                        .map_err(wrap)?;
                }
            }
        }
        match reader.is_at_end() {
            true => Ok(()),
            false => Err(Error::Internal(
                "output of a Postgres sink is in an unknown order".into(),
            )),
        }
    }

    /// Into a new temporary table that has these columns of the target.
    async fn stage(
        &self,
        transaction: &Transaction<'_>,
        target: &Target,
        columns: &[String],
        reader: &mut Reader<'_>,
        kind: Lines,
    ) -> Result<()> {
        let create = format!(
            "DROP TABLE IF EXISTS {STAGED}; \
             CREATE TEMPORARY TABLE laminar_staged ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
            list(columns),
            target.quoted()
        );
        transaction.batch_execute(&create).await.map_err(self.wrap())?;
        self.copy(transaction, STAGED, columns, reader, kind).await
    }

    async fn copy(
        &self,
        transaction: &Transaction<'_>,
        table: &str,
        columns: &[String],
        reader: &mut Reader<'_>,
        kind: Lines,
    ) -> Result<()> {
        let wrap = self.wrap();
        let statement = format!("COPY {table} ({}) FROM STDIN", list(columns));
        let sink = transaction.copy_in(&statement).await.map_err(wrap)?;
        let mut sink = pin!(sink);
        while let Some(lines) = reader.next(kind)? {
            sink.send(Bytes::from(lines)).await.map_err(wrap)?;
        }
        sink.finish().await.map_err(wrap)?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Committer for PostgresCommitter {
    async fn commit(&mut self, epoch: Epoch, committables: Vec<Bytes>) -> Result<()> {
        let written = self.write(epoch, &committables).await;
        if written.is_err() {
            // It may have become another table.
            self.target = OnceCell::new();
        }
        written
    }
}

/// What a pipeline that is dropped leaves.
pub fn kept(sink: &str, named: &str) -> KeptOutside {
    KeptOutside {
        what: format!("row '{sink}' of table {COMMITS} beside {named}"),
        by_hand: format!("It does no harm; there: DELETE FROM {COMMITS} WHERE sink = '{sink}'."),
    }
}

/// Removes the note of which epochs of the sink are there.
pub async fn forget(client: &Object, relation: &str, named: &str, sink: &str) -> Result<()> {
    let wrap = |error| {
        failed(
            &format!("could not remove the note of what was committed to {named}"),
            &error,
        )
    };
    let target = Target::look(client, relation, false).await?;
    let delete = format!("DELETE FROM {} WHERE sink = $1", target.commits_quoted());
    match client.execute(&delete, &[&sink]).await {
        // Nothing was ever committed.
        Err(error) if error.code().is_some_and(|code| code.code() == "42P01") => Ok(()),
        done => done.map(|_| ()).map_err(wrap),
    }
}

/// Two at once get in each other's way, and then one has made it.
async fn make_commits_table(client: &Object, target: &Target) -> std::result::Result<(), tokio_postgres::Error> {
    let commits = target.commits_quoted();
    let exists = client
        .query_one("SELECT pg_catalog.to_regclass($1::text) IS NOT NULL", &[&commits])
        .await?;
    if exists.try_get(0)? {
        return Ok(());
    }
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {commits} \
         (sink text PRIMARY KEY, epoch bigint NOT NULL, committed_at timestamptz NOT NULL DEFAULT now())"
    );
    match client.batch_execute(&create).await {
        Err(error)
            if error
                .code()
                .is_some_and(|code| ["23505", "42P07"].contains(&code.code())) =>
        {
            Ok(())
        }
        made => made,
    }
}

fn list(columns: &[String]) -> String {
    let columns = columns.iter().map(|name| quote_always(name));
    columns.collect::<Vec<_>>().join(", ")
}

fn delete(target: &Target, key: &[String]) -> String {
    let equal = key.iter().map(|name| {
        let name = quote_always(name);
        format!("t.{name} = s.{name}")
    });
    let equal = equal.collect::<Vec<_>>().join(" AND ");
    format!("DELETE FROM {} AS t USING {STAGED} AS s WHERE {equal}", target.quoted())
}

fn upsert(target: &Target, columns: &[String], key: &[String]) -> String {
    let others = columns.iter().filter(|column| !key.contains(column));
    let changes: Vec<String> = others
        .map(|name| format!("{0} = EXCLUDED.{0}", quote_always(name)))
        .collect();
    let action = match changes.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", changes.join(", ")),
    };
    format!(
        "INSERT INTO {} ({columns}) SELECT {columns} FROM {STAGED} ON CONFLICT ({}) DO {action}",
        target.quoted(),
        list(key),
        columns = list(columns),
    )
}

fn fail_on_purpose(failpoint: &str) -> Result<()> {
    failpoint::reached(failpoint).map_err(|error| Error::External {
        code: SqlState::IO_ERROR,
        message: error.to_string(),
        hint: None,
        retry: Retry::Backoff,
    })
}
