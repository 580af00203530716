//! ON CONFLICT: what becomes of rows whose key is taken.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::Table;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::error::{Error, Result};
use crate::frontend::session::Session;
use crate::frontend::statements::dml::change::{new_rows, old_rows, set_columns};
use crate::frontend::statements::dml::unique::{UniqueKey, unique_keys};
use crate::frontend::statements::dml::writer::Writer;
use crate::frontend::statements::dml::{Target, collect, planning};
use crate::frontend::table_rows::{MemoryRows, internal};
use crate::planner::batch::ResultRows;
use crate::planner::bind::names;
use crate::planner::dml::statements::{EXCLUDED_ROWS, TARGET_ROWS, numbered_schema};

pub struct Conflict<'a> {
    /// The keys on which a row may conflict.
    keys: Vec<UniqueKey>,
    /// `None`: DO NOTHING.
    update: Option<&'a ast::DoUpdate>,
}

impl Conflict<'_> {
    pub fn read<'a>(table: &Table, on: &'a ast::OnInsert) -> Result<Conflict<'a>> {
        let ast::OnInsert::OnConflict(on) = on else {
            return Err(Error::not_supported(
                "ON DUPLICATE KEY",
                "Write ON CONFLICT (columns) DO UPDATE SET column = EXCLUDED.column.",
            ));
        };
        let update = match &on.action {
            ast::OnConflictAction::DoNothing => None,
            ast::OnConflictAction::DoUpdate(update) => Some(update),
        };
        let keys = match &on.conflict_target {
            None if update.is_some() => {
                return Err(Error::user_with_hint(
                    SqlState::SYNTAX_ERROR,
                    "ON CONFLICT DO UPDATE requires inference specification or constraint name",
                    "For example, ON CONFLICT (column_name).",
                ));
            }
            None => unique_keys(table),
            Some(target) => vec![key_of(table, target)?],
        };
        Ok(Conflict { keys, update })
    }
}

fn key_of(table: &Table, target: &ast::ConflictTarget) -> Result<UniqueKey> {
    let mut keys = unique_keys(table).into_iter();
    match target {
        ast::ConflictTarget::OnConstraint(name) => {
            let wanted = names::qualified(name).map(|name| name.name).unwrap_or_default();
            keys.find(|key| key.name == wanted).ok_or_else(|| {
                Error::user(
                    SqlState::UNDEFINED_OBJECT,
                    format!(
                        "constraint \"{wanted}\" for table \"{}\" does not exist",
                        table.header.name
                    ),
                )
            })
        }
        ast::ConflictTarget::Columns(columns) => {
            let mut wanted = HashSet::new();
            for ident in columns {
                let name = names::folded(ident);
                let column = table.columns.iter().position(|column| column.name == name);
                let missing = || Error::user(SqlState::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist"));
                wanted.insert(column.ok_or_else(missing)?);
            }
            let is_wanted = |key: &UniqueKey| key.columns.iter().copied().collect::<HashSet<usize>>() == wanted;
            keys.find(is_wanted).ok_or_else(|| {
                Error::user(
                    SqlState::INVALID_COLUMN_REFERENCE,
                    "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                )
            })
        }
    }
}

/// What becomes of a proposed row.
enum Decision {
    Insert,
    Skip,
    /// The row that is there.
    Update(RecordBatch),
}

/// The rows that go and those that come.
pub async fn resolve(
    session: &Session,
    writer: &Writer,
    target: &Target,
    conflict: &Conflict<'_>,
    proposed: &RecordBatch,
    source: &str,
) -> Result<(RecordBatch, RecordBatch)> {
    let decisions = decide(writer, conflict, proposed)?;
    let mut inserted = Vec::new();
    let (mut existing, mut excluded) = (Vec::new(), Vec::new());
    for (decision, row) in decisions.into_iter().zip(0_u32..) {
        match decision {
            Decision::Insert => inserted.push(row),
            Decision::Skip => {}
            Decision::Update(row_there) => {
                existing.push(row_there);
                excluded.push(row);
            }
        }
    }
    let new = take_record_batch(proposed, &UInt32Array::from(inserted.clone())).map_err(internal)?;
    let Some(update) = conflict.update.filter(|_| !excluded.is_empty()) else {
        return Ok((proposed.slice(0, 0), new));
    };
    let existing = concat_batches(&proposed.schema(), &existing).map_err(internal)?;
    let excluded_rows = take_record_batch(proposed, &UInt32Array::from(excluded.clone())).map_err(internal)?;
    let pairs = Pairs {
        existing: numbered(&existing, &excluded)?,
        excluded: numbered(&excluded_rows, &excluded)?,
    };
    let (updated, removed, changed) = pairs.update(session, writer, target, update, source).await?;
    // As they were proposed, for RETURNING.
    let both = concat_batches(&proposed.schema(), [&new, &changed]).map_err(internal)?;
    let places: Vec<u32> = inserted.into_iter().chain(updated).collect();
    let mut order: Vec<u32> = (0..places.len() as u32).collect();
    order.sort_by_key(|at| places[*at as usize]);
    let added = take_record_batch(&both, &UInt32Array::from(order)).map_err(internal)?;
    Ok((removed, added))
}

fn decide(writer: &Writer, conflict: &Conflict<'_>, proposed: &RecordBatch) -> Result<Vec<Decision>> {
    let mut decisions: Vec<Decision> = (0..proposed.num_rows()).map(|_| Decision::Insert).collect();
    let table = writer.rows.as_ref();
    let mut known = Vec::with_capacity(conflict.keys.len());
    for key in &conflict.keys {
        known.push((
            key.keys(table, proposed)?,
            key.existing(table, proposed)?,
            HashSet::new(),
        ));
    }
    for (row, decision) in decisions.iter_mut().enumerate() {
        let mut found = None;
        let mut again = false;
        for (keys, existing, seen) in &known {
            let Some(key) = keys.get(row) else { continue };
            found = found.or_else(|| existing.get(key));
            again |= seen.contains(key);
        }
        if again && conflict.update.is_some() {
            return Err(ErrorReport::new(
                SqlState::CARDINALITY_VIOLATION,
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
            )
            .with_hint(
                "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
            )
            .into());
        }
        *decision = match (found, conflict.update) {
            (None, _) if !again => Decision::Insert,
            (Some(row_there), Some(_)) => Decision::Update(row_there.clone()),
            _ => Decision::Skip,
        };
        if !matches!(decision, Decision::Skip) {
            for (keys, _, seen) in &mut known {
                seen.extend(keys.get(row).map(Box::<[u8]>::from));
            }
        }
    }
    Ok(decisions)
}

/// Rows that are there beside those that were to be inserted, with one number a pair.
struct Pairs {
    existing: RecordBatch,
    excluded: RecordBatch,
}

impl Pairs {
    /// The numbers of the rows that are changed, how they were, how they shall be.
    async fn update(
        self,
        session: &Session,
        writer: &Writer,
        target: &Target,
        update: &ast::DoUpdate,
        source: &str,
    ) -> Result<(Vec<u32>, RecordBatch, RecordBatch)> {
        let own: Vec<(&'static str, Arc<dyn ResultRows>)> = vec![
            (TARGET_ROWS, Arc::new(MemoryRows { rows: self.existing })),
            (EXCLUDED_ROWS, Arc::new(MemoryRows { rows: self.excluded })),
        ];
        let (set, query) = planning(session, target, source, Some(&writer.rows), own, |planning| {
            let set = set_columns(planning, &update.assignments)?;
            let query = planning.conflicting(&target.alias, update.selection.as_ref(), &set)?;
            Ok((set, query))
        })?;
        let found = collect(query).await?;
        let numbers = found.column(0).as_primitive::<Int64Type>().values().iter();
        let numbers = numbers
            .map(|number| u32::try_from(*number).unwrap_or(u32::MAX))
            .collect();
        let removed = old_rows(&found, &writer.rules)?;
        let changed = new_rows(&found, &set, &writer.rules)?;
        Ok((numbers, removed, changed))
    }
}

fn numbered(rows: &RecordBatch, numbers: &[u32]) -> Result<RecordBatch> {
    let schema: SchemaRef = Arc::new(numbered_schema(&rows.schema()));
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    let numbers = numbers.iter().map(|number| i64::from(*number));
    columns.push(Arc::new(arrow::array::Int64Array::from_iter_values(numbers)));
    Ok(RecordBatch::try_new(schema, columns).map_err(internal)?)
}
