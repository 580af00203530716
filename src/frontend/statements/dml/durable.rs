//! A SELECT shows what is durable: rows are published a moment before their checkpoint is decided, and a reader waits for that
//! moment. When the checkpoint fails instead, the rows are gone, and the reader looks again.

use std::sync::Arc;

use crate::catalog::objects::Table;
use crate::engine::coordinator::WaitFor;
use crate::engine::internal_tables::{InternalTable, Run};
use crate::frontend::error::Result;
use crate::frontend::session::Session;
use crate::frontend::statements::dml::writer::opened;
use crate::ids::{Epoch, Oid};

/// A table and the run of its job whose result is read.
pub struct ReadTable {
    oid: Oid,
    internal: Arc<InternalTable>,
    run: Run,
}

/// Waits until the jobs of tables have published what they restored.
pub async fn runs_of(session: &Session, tables: &[Table]) -> Result<Vec<ReadTable>> {
    let mut found = Vec::with_capacity(tables.len());
    for table in tables {
        let oid = table.header.oid;
        let internal = session.server().tables.get(oid);
        let run = opened(session, &internal, table).await?;
        found.push(ReadTable { oid, internal, run });
    }
    Ok(found)
}

/// Waits until the epochs that were read are decided; false when one never will be.
pub async fn are_durable(session: &Session, tables: &[ReadTable], read: &[(Oid, Epoch)]) -> bool {
    for (oid, epoch) in read {
        let Some(table) = tables.iter().find(|table| table.oid == *oid) else {
            continue;
        };
        // What a run begins with is durable.
        if *epoch == Epoch(0) {
            continue;
        }
        let decided = session.server().coordinator.wait(*oid, WaitFor::Epoch(*epoch));
        tokio::select! {
            // A job that has ended publishes nothing more; what it published last was of a stop, or is read all the same.
            _ = decided => {}
            () = table.internal.next_run(table.run) => return false,
        }
    }
    true
}
