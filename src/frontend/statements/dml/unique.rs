//! PRIMARY KEY and UNIQUE: who has a key already.
//!
//! Keys with NULL are never equal, as in Postgres. What counts is the table after the statement: a statement may pass a key
//! from one row to another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::row::RowConverter;
use datafusion::common::ScalarValue;

use crate::catalog::objects::{ConstraintKind, Table};
use crate::error::{ErrorReport, SqlState};
use crate::frontend::error::{Error, Result};
use crate::frontend::table_rows::{converter, encode, internal};
use crate::planner::batch::ResultRows;
use crate::planner::dml::rules::shown;

/// Up to so many keys are looked up one by one; more are found by reading all rows.
const LOOKUPS_MAX: usize = 256;

/// A PRIMARY KEY or UNIQUE constraint.
pub struct UniqueKey {
    pub name: String,
    /// In the order of the constraint.
    pub columns: Vec<usize>,
    names: Vec<String>,
    primary: bool,
}

pub fn unique_keys(table: &Table) -> Vec<UniqueKey> {
    let position = |name: &String| table.columns.iter().position(|column| column.name == *name);
    let key = |constraint: &crate::catalog::objects::Constraint| {
        let (names, primary) = match &constraint.kind {
            ConstraintKind::PrimaryKey => (table.primary_key.clone(), true),
            ConstraintKind::Unique { columns } => (columns.clone(), false),
            ConstraintKind::Check { .. } => return None,
        };
        Some(UniqueKey {
            name: constraint.name.clone(),
            columns: names.iter().filter_map(position).collect(),
            names,
            primary,
        })
    };
    table.constraints.iter().filter_map(key).collect()
}

/// The keys of rows as bytes; `None` where a column is NULL.
pub struct Keys(Vec<Option<Box<[u8]>>>);

impl Keys {
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        self.0[row].as_deref()
    }
}

impl UniqueKey {
    fn columns_of(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.columns
            .iter()
            .map(|column| Arc::clone(rows.column(*column)))
            .collect()
    }

    fn converter(&self, rows: &dyn ResultRows) -> Result<RowConverter> {
        let schema = rows.schema().project(&self.columns).map_err(internal)?;
        Ok(converter(&Arc::new(schema))?)
    }

    fn encoded(&self, converter: &RowConverter, rows: &RecordBatch) -> Result<Keys> {
        let columns = self.columns_of(rows);
        let encoded = encode(converter, &columns)?;
        let key = |row: usize| {
            let null = columns.iter().any(|column| column.is_null(row));
            (!null).then(|| Box::from(encoded.row(row).data()))
        };
        Ok(Keys((0..rows.num_rows()).map(key).collect()))
    }

    /// The keys of `rows`, which have all columns of the table.
    pub fn keys(&self, table: &dyn ResultRows, rows: &RecordBatch) -> Result<Keys> {
        self.encoded(&self.converter(table)?, rows)
    }

    /// The rows of the table whose keys are among those of `wanted`, by key.
    pub fn existing(&self, table: &dyn ResultRows, wanted: &RecordBatch) -> Result<HashMap<Box<[u8]>, RecordBatch>> {
        let converter = self.converter(table)?;
        let keys = self.encoded(&converter, wanted)?;
        let looked_for: HashSet<&[u8]> = keys.0.iter().flatten().map(AsRef::as_ref).collect();
        let mut found = HashMap::new();
        if looked_for.is_empty() {
            return Ok(found);
        }
        let mut note = |rows: RecordBatch| -> Result<()> {
            let keys = self.encoded(&converter, &rows)?;
            for (key, row) in keys.0.into_iter().zip(0_u32..) {
                let Some(key) = key.filter(|key| looked_for.contains(key.as_ref())) else {
                    continue;
                };
                let row = take_record_batch(&rows, &UInt32Array::from(vec![row])).map_err(internal)?;
                found.insert(key, row);
            }
            Ok(())
        };
        if self.primary && looked_for.len() <= LOOKUPS_MAX {
            for key in self.distinct_values(table, wanted, &keys)? {
                if let Some(rows) = table.lookup(&key)? {
                    note(rows)?;
                }
            }
        } else {
            for rows in table.scan() {
                note(rows?)?;
            }
        }
        Ok(found)
    }

    /// The values of each key once, in the order in which the table is looked up.
    fn distinct_values(
        &self,
        table: &dyn ResultRows,
        rows: &RecordBatch,
        keys: &Keys,
    ) -> Result<Vec<Vec<ScalarValue>>> {
        let mut seen = HashSet::new();
        let order = table.key().unwrap_or_default();
        let mut values = Vec::new();
        for row in 0..rows.num_rows() {
            let Some(key) = keys.get(row) else { continue };
            if seen.insert(key) {
                let value = |column: &usize| ScalarValue::try_from_array(rows.column(*column), row);
                let key = order.iter().map(value).collect::<Result<Vec<_>, _>>();
                values.push(key.map_err(|error| Error::Internal(error.to_string()))?);
            }
        }
        Ok(values)
    }

    /// The error of a row whose key is taken.
    pub fn violation(&self, rows: &RecordBatch, row: usize) -> Error {
        let values: Vec<String> = self
            .columns
            .iter()
            .map(|column| shown(rows.column(*column), row))
            .collect();
        let message = format!("duplicate key value violates unique constraint \"{}\"", self.name);
        let detail = format!(
            "Key ({})=({}) already exists.",
            self.names.join(", "),
            values.join(", ")
        );
        ErrorReport::new(SqlState::UNIQUE_VIOLATION, message)
            .with_detail(detail)
            .into()
    }
}

/// Checks every key of the table after `removed` went and `added` came.
pub fn check(table: &Table, before: &dyn ResultRows, removed: &RecordBatch, added: &RecordBatch) -> Result<()> {
    if added.num_rows() == 0 {
        return Ok(());
    }
    for unique in unique_keys(table) {
        let keys = unique.keys(before, added)?;
        let freed = unique.keys(before, removed)?;
        let freed: HashSet<&[u8]> = freed.0.iter().flatten().map(AsRef::as_ref).collect();
        // Keys that only stay with their row, or change hands within the statement, are free.
        let is_new = |row: usize| keys.get(row).is_some_and(|key| !freed.contains(key));
        let is_new: BooleanArray = (0..added.num_rows()).map(|row| Some(is_new(row))).collect();
        let new = filter_record_batch(added, &is_new).map_err(internal)?;
        let existing = unique.existing(before, &new)?;
        let mut seen = HashSet::new();
        for row in 0..added.num_rows() {
            let Some(key) = keys.get(row) else { continue };
            if existing.contains_key(key) || !seen.insert(key) {
                return Err(unique.violation(added, row));
            }
        }
    }
    Ok(())
}
