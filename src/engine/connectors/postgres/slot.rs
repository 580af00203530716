//! What a source has on the server: a publication, which says what is logged of the table, and a replication slot, which keeps the
//! log from the last durable checkpoint on.
//!
//! The slot itself is never read, only moved on when a checkpoint is durable. Reading consumes, so each connection reads a temporary
//! copy of the slot, which begins where the slot stands and goes with the connection.

use std::time::Duration;

use tokio_postgres::Client;

use crate::engine::connectors::Result;
use crate::engine::connectors::kept_outside::KeptOutside;
use crate::engine::connectors::postgres::target::{Target, refused};
use crate::engine::connectors::postgres::{OBJECT_IN_USE, failed, quote_always};
use crate::engine::error::Error;
use crate::error::SqlState;

/// How often is asked whether the transactions that ran have ended.
const OLD_TRANSACTIONS_STEP: Duration = Duration::from_millis(20);

/// How often is tried to drop a slot whose connection is about to end.
const IN_USE_STEP: Duration = Duration::from_millis(100);
const UNDEFINED_OBJECT: &str = "42704";

/// What a pipeline that is dropped leaves.
pub fn kept(slot: &str) -> KeptOutside {
    KeptOutside {
        what: format!("replication slot \"{slot}\" of the Postgres server"),
        by_hand: format!("The server keeps its log for it; there: SELECT pg_drop_replication_slot('{slot}')."),
    }
}

/// A place in the server's log, as the server writes it.
pub fn log_text(log: u64) -> String {
    format!("{:X}/{:X}", log >> 32, log & 0xffff_ffff)
}

pub fn parse_log(text: &str) -> Result<u64> {
    let half = |part: &str| u64::from_str_radix(part, 16).ok();
    let log = text
        .split_once('/')
        .and_then(|(high, low)| Some((half(high)? << 32) | half(low)?));
    log.ok_or_else(|| Error::Internal(format!("the Postgres server's log is at \"{text}\"")))
}

/// The name of the slot of a reader, which is its only one in the world: see `SourceContext::reader`.
pub fn slot_name(reader: &str) -> String {
    let (pipeline, table) = reader.split_once('/').unwrap_or((reader, ""));
    let pipeline = pipeline.trim_start_matches("pipe_");
    let hash = xxhash_rust::xxh3::xxh3_64(table.as_bytes()) as u32;
    let allowed = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let name: String = format!("laminar_{pipeline}").chars().map(allowed).take(54).collect();
    format!("{name}_{hash:08x}")
}

/// A connection and the slot that it reads.
pub struct SlotSession<'a> {
    pub client: &'a Client,
    pub named: &'a str,
}

impl SlotSession<'_> {
    fn wrap(&self) -> impl Fn(tokio_postgres::Error) -> Error + Copy + '_ {
        |error| failed(&format!("could not read the changes of {}", self.named), &error)
    }

    /// Values are written in forms that do not depend on how the server is set up.
    pub async fn set_up(&self) -> Result<()> {
        let forms = "SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; SET intervalstyle = 'postgres'; \
                     SET extra_float_digits = 1; SET bytea_output = 'hex'; SET statement_timeout = 0";
        self.client.batch_execute(forms).await.map_err(self.wrap())
    }

    /// Must be there before the slot: what is logged is decoded with the catalog of its time.
    pub async fn make_publication(&self, publication: &str, table: &str) -> Result<()> {
        let wrap = self.wrap();
        let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1::text)";
        let exists = self.client.query_one(exists, &[&publication]).await.map_err(wrap)?;
        if exists.try_get(0).map_err(wrap)? {
            return Ok(());
        }
        let create = format!("CREATE PUBLICATION {} FOR TABLE {table}", quote_always(publication));
        match self.client.batch_execute(&create).await {
            // Another pipeline was faster.
            Err(error) if error.code().is_some_and(|code| code.code() == "42710") => Ok(()),
            made => made.map_err(wrap),
        }
    }

    /// The slot goes, whoever uses it: it is of one pipeline, which is gone, and of its last connection at most, which may still make it.
    pub async fn forget(&self, slot: &str) -> Result<()> {
        let wrap = |error| failed(&format!("could not drop replication slot \"{slot}\""), &error);
        let end = "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text AND active_pid IS NOT NULL AND active_pid <> pg_catalog.pg_backend_pid()";
        let drop = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                    WHERE slot_name = $1::text";
        loop {
            match self.client.execute(drop, &[&slot]).await {
                Err(error) if error.code().is_some_and(|code| code.code() == OBJECT_IN_USE) => {}
                // It went with the connection that was making it.
                Err(error) if error.code().is_some_and(|code| code.code() == UNDEFINED_OBJECT) => return Ok(()),
                done => return done.map(|_| ()).map_err(wrap),
            }
            self.client.execute(end, &[&slot]).await.map_err(wrap)?;
            tokio::time::sleep(IN_USE_STEP).await;
        }
    }

    /// Where the slot stands, if it is there.
    pub async fn position(&self, slot: &str) -> Result<Option<u64>> {
        let wrap = self.wrap();
        let ask = "SELECT confirmed_flush_lsn::text, coalesce(wal_status, '') FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text";
        let Some(row) = self.client.query_opt(ask, &[&slot]).await.map_err(wrap)? else {
            return Ok(None);
        };
        let status: String = row.try_get(1).map_err(wrap)?;
        let position: Option<String> = row.try_get(0).map_err(wrap)?;
        match position {
            Some(position) if status != "lost" => parse_log(&position).map(Some),
            _ => Ok(None),
        }
    }

    /// A new slot, in place of one that an earlier start has left; gives where it begins.
    pub async fn make(&self, slot: &str, temporary: bool) -> Result<u64> {
        let wrap = self.wrap();
        let drop = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                    WHERE slot_name = $1::text";
        self.client.execute(drop, &[&slot]).await.map_err(wrap)?;
        let make = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1::text::name, 'pgoutput', $2::boolean)";
        let made = self.client.query_one(make, &[&slot, &temporary]).await.map_err(wrap)?;
        parse_log(made.try_get(0).map_err(wrap)?)
    }

    /// The slot's copy that this connection reads.
    pub async fn copy(&self, slot: &str, copy: &str) -> Result<()> {
        let sql = "SELECT pg_catalog.pg_copy_logical_replication_slot($1::text::name, $2::text::name, true)";
        self.client.execute(sql, &[&slot, &copy]).await.map_err(self.wrap())?;
        Ok(())
    }

    /// The log before this place is not needed any more.
    pub async fn advance(&self, slot: &str, log: u64) -> Result<()> {
        let sql = "SELECT pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)";
        self.client
            .execute(sql, &[&slot, &log_text(log)])
            .await
            .map_err(self.wrap())?;
        Ok(())
    }

    /// Up to where the log is on disk.
    pub async fn log_end(&self) -> Result<u64> {
        let wrap = self.wrap();
        let row = self
            .client
            .query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[])
            .await;
        parse_log(row.map_err(wrap)?.try_get(0).map_err(wrap)?)
    }

    /// Waits until every transaction that runs now has ended. One that is in the log before the slot begins may not be visible to a
    /// snapshot for a moment more; it would be in neither.
    pub async fn outwait_transactions(&self) -> Result<()> {
        let wrap = self.wrap();
        let next = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text";
        let next: String = self
            .client
            .query_one(next, &[])
            .await
            .map_err(wrap)?
            .try_get(0)
            .map_err(wrap)?;
        let ended = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= $1::text::xid8";
        loop {
            let row = self.client.query_one(ended, &[&next]).await.map_err(wrap)?;
            if row.try_get(0).map_err(wrap)? {
                return Ok(());
            }
            tokio::time::sleep(OLD_TRANSACTIONS_STEP).await;
        }
    }
}

const ABOUT_CHANGES: &str = "SELECT pg_catalog.current_setting('wal_level'), c.relreplident::text, \
     (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attname::text) \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
         WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END) \
     FROM pg_catalog.pg_class c WHERE c.oid = $1";

impl SlotSession<'_> {
    /// Whether the changes of the table can be followed by these columns; asked by CREATE TABLE.
    pub async fn check(&self, target: &Target, key: &[String]) -> Result<()> {
        let (wrap, named) = (self.wrap(), self.named);
        if !target.is_ordinary() {
            return Err(refused(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{named} is not an ordinary table, and has no changes to follow"),
                "Declare one table for each partition, or use mode = 'poll'.",
            ));
        }
        let about = self
            .client
            .query_one(ABOUT_CHANGES, &[&target.oid])
            .await
            .map_err(wrap)?;
        let level: String = about.try_get(0).map_err(wrap)?;
        if level != "logical" {
            return Err(refused(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "the Postgres server has wal_level {level}, and does not log what changes of {named} are about"
                ),
                "On the server: ALTER SYSTEM SET wal_level = logical, and start it again; or use mode = 'poll'.",
            ));
        }
        let identity: String = about.try_get(1).map_err(wrap)?;
        let columns: Option<Vec<String>> = about.try_get(2).map_err(wrap)?;
        let mut wanted = key.to_vec();
        wanted.sort();
        if identity == "f" || identity != "n" && columns.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let logged = match columns.filter(|_| identity != "n") {
            Some(columns) => format!("({})", columns.join(", ")),
            None => "nothing".to_owned(),
        };
        Err(refused(
            SqlState::INVALID_COLUMN_REFERENCE,
            format!("of rows that go from {named} the server logs {logged}, not the PRIMARY KEY that is declared"),
            &format!(
                "Declare the primary key that the table has there; or, on the server, ALTER TABLE {} REPLICA IDENTITY FULL.",
                target.quoted()
            ),
        ))
    }
}

/// The slot is not there, or is ahead of the checkpoint.
pub fn lost(slot: &str, named: &str, reason: &str) -> Error {
    refused(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "replication slot \"{slot}\" of the Postgres server {reason}, and with it changes of {named} since the last checkpoint"
        ),
        "RESTART PIPELINE .. FROM CHECKPOINT 0 makes the slot anew and reads the whole table again.",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_and_names() {
        assert_eq!(log_text(0x1_0000_00AB), "1/AB");
        assert_eq!(parse_log("16/B374D848").unwrap(), 0x16_B374_D848);
        assert!(parse_log("x").is_err());
        let pipeline = crate::ids::new_public_id(crate::ids::PublicIdKind::Pipeline);
        let name = slot_name(&format!("{pipeline}/public.Orders"));
        assert!(name.len() <= 63 && name.starts_with("laminar_0"), "{name}");
        assert_ne!(name, slot_name(&format!("{pipeline}/public.orders")));
    }
}
