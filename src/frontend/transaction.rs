//! An explicit transaction block: its status, and the catalog changes that COMMIT applies.
//!
//! DDL in a block is checked at once, against the catalog as the block sees it, but applied at COMMIT in one metadata
//! transaction: all or nothing, and nothing after ROLLBACK. Rows of one internal table can be changed instead: they are kept
//! here until COMMIT, with the table's write lock, and only this session sees them. Pipelines start after COMMIT. Statements outside a block, also
//! those of one text sent together, apply at once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::change::{Applied, Change, NewObject, plan};
use crate::catalog::objects::Object;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::statements::dml::{TableWrites, WritesMark};
use crate::frontend::table_rows::SignedRows;
use crate::ids::Oid;

/// Catalog changes of one transaction; the catalog's own limit for objects created in one list.
const CHANGES_MAX: usize = 1000;

/// The byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TransactionStatus {
    #[default]
    Idle,
    InTransaction,
    Failed,
}

#[derive(Default)]
pub struct TransactionBlock {
    pub status: TransactionStatus,
    pub read_only: bool,
    draft: Draft,
    /// The rows of one table that the block has changed, and the lock on it.
    writes: Option<TableWrites>,
    savepoints: Vec<Savepoint>,
}

struct Savepoint {
    name: String,
    /// Catalog changes before it.
    changes: usize,
    rows: WritesMark,
}

/// The catalog as the block sees it.
#[derive(Default)]
struct Draft {
    /// What the block's first change was made on.
    base: Option<Arc<CatalogSnapshot>>,
    changes: Vec<Change>,
    snapshot: Option<Arc<CatalogSnapshot>>,
    /// OIDs in `snapshot` that will be others after COMMIT, by the change that creates the object.
    made: HashMap<Oid, u32>,
    skipped: usize,
    cascaded: usize,
}

impl TransactionBlock {
    pub fn begin(&mut self, read_only: bool) {
        *self = TransactionBlock {
            status: TransactionStatus::InTransaction,
            read_only,
            ..TransactionBlock::default()
        };
    }

    /// Ends the block; the changes to apply, of the catalog or of a table's rows.
    pub fn end(&mut self) -> (Vec<Change>, Option<TableWrites>) {
        let ended = std::mem::take(self);
        (ended.draft.changes, ended.writes)
    }

    /// What the block has done to a table's rows.
    pub fn writes(&self) -> Option<&TableWrites> {
        self.writes.as_ref()
    }

    pub fn keep_writes(&mut self, writes: TableWrites) {
        self.writes = Some(writes);
    }

    pub fn add_rows(&mut self, change: SignedRows) -> Result<()> {
        match &mut self.writes {
            Some(writes) => writes.add(change),
            None => Err(Error::Internal("rows of a transaction without a table".to_owned())),
        }
    }

    pub fn fail(&mut self) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    /// The catalog as the block has changed it; `None` when it has not.
    pub fn snapshot(&self) -> Option<Arc<CatalogSnapshot>> {
        self.draft.snapshot.as_ref().map(Arc::clone)
    }

    /// Adds changes to the block; an error leaves it as it was.
    pub fn add(&mut self, current: Arc<CatalogSnapshot>, changes: Vec<Change>, now_micros: i64) -> Result<Applied> {
        self.draft.add(current, changes, now_micros)
    }

    pub fn savepoint(&mut self, name: &str) {
        self.savepoints.push(Savepoint {
            name: name.to_owned(),
            changes: self.draft.changes.len(),
            rows: self.writes.as_ref().map(TableWrites::mark).unwrap_or_default(),
        });
    }

    pub fn release(&mut self, name: &str) -> Result<()> {
        let index = self.savepoint_index(name)?;
        self.savepoints.truncate(index);
        Ok(())
    }

    pub fn rollback_to(&mut self, name: &str, now_micros: i64) -> Result<()> {
        let index = self.savepoint_index(name)?;
        let (changes, rows) = (self.savepoints[index].changes, self.savepoints[index].rows);
        self.savepoints.truncate(index + 1);
        self.draft.keep(changes, now_micros)?;
        if let Some(writes) = &mut self.writes {
            writes.back_to(rows);
        }
        self.status = TransactionStatus::InTransaction;
        Ok(())
    }

    fn savepoint_index(&self, name: &str) -> Result<usize> {
        self.savepoints
            .iter()
            .rposition(|savepoint| savepoint.name == name)
            .ok_or_else(|| {
                // 3B001 in Postgres; our table of codes has its class's neighbour.
                Error::user(
                    SqlState::INVALID_SQL_STATEMENT_NAME,
                    format!("savepoint \"{name}\" does not exist"),
                )
            })
    }
}

impl Draft {
    fn add(&mut self, current: Arc<CatalogSnapshot>, changes: Vec<Change>, now_micros: i64) -> Result<Applied> {
        let base = self.base.as_ref().map_or(current, Arc::clone);
        let mut all = self.changes.clone();
        all.extend(changes.into_iter().map(|change| self.with_placeholders(change)));
        if all.len() > CHANGES_MAX {
            return Err(Error::user_with_hint(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a transaction changes at most {CHANGES_MAX} objects"),
                "Divide it into several transactions.",
            ));
        }
        let planned = plan(&base, &all, now_micros)?;
        let mut applied = planned.applied;
        let news = Applied {
            skipped: applied.skipped.split_off(self.skipped.min(applied.skipped.len())),
            cascaded: applied.cascaded.split_off(self.cascaded.min(applied.cascaded.len())),
            ..applied
        };
        self.skipped += news.skipped.len();
        self.cascaded += news.cascaded.len();
        self.made = made_by(&all, &base, &planned.snapshot);
        self.changes = all;
        self.base = Some(base);
        self.snapshot = Some(Arc::new(planned.snapshot));
        Ok(news)
    }

    fn keep(&mut self, count: usize, now_micros: i64) -> Result<()> {
        let Some(base) = self.base.take() else {
            return Ok(());
        };
        let changes: Vec<Change> = self.changes.drain(..).take(count).collect();
        *self = Draft::default();
        if !changes.is_empty() {
            self.add(base, changes, now_micros)?;
        }
        Ok(())
    }

    /// OIDs that the block has made up become those of the changes that make them.
    fn with_placeholders(&self, mut change: Change) -> Change {
        let earlier = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        let (first, last) = (
            NewObject::created_by(0).0,
            NewObject::created_by(0).0 + CHANGES_MAX as u32 - 1,
        );
        let replace = |oid: Oid| match self.made.get(&oid) {
            Some(index) => NewObject::created_by(*index),
            // Counted in its own list, which comes behind the earlier changes.
            None if (first..=last).contains(&oid.0) => Oid(oid.0.saturating_add(earlier)),
            None => oid,
        };
        match &mut change {
            Change::Create { object, .. } => {
                for oid in &mut object.depends_on {
                    *oid = replace(*oid);
                }
                if let Object::Table(table) = &mut object.object {
                    table.connection = table.connection.map(|oid| replace(Oid(oid)).0);
                }
            }
            Change::SetDesiredRunning { pipeline, .. } => *pipeline = replace(*pipeline),
            Change::SetColumns { table, .. } => *table = replace(*table),
            _ => {}
        }
        change
    }
}

/// Which change made which object that `base` does not have.
fn made_by(changes: &[Change], base: &CatalogSnapshot, after: &CatalogSnapshot) -> HashMap<Oid, u32> {
    let mut made = HashMap::new();
    for (index, change) in (0_u32..).zip(changes) {
        let Change::Create { object, .. } = change else {
            continue;
        };
        let header = object.object.header();
        let name = QualifiedName {
            schema: header.schema.clone(),
            name: header.name.clone(),
        };
        if let Some(found) = after.find(object.object.kind(), &name, &["public".to_owned()])
            && base.get(found.oid()).is_none()
        {
            made.entry(found.oid()).or_insert(index);
        }
    }
    made
}
