//! The rows of internal tables as statements see them: what the table's job has published, what is on the way to it, what the
//! transaction has changed; and the relations that only one statement has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;

use crate::catalog::objects::Table;
use crate::error::{ErrorReport, SqlState};
use crate::ids::Oid;
use crate::planner::batch::{ResultRows, result_table};
use crate::planner::bind::BatchRelations;
use crate::planner::dml::statements::{STATEMENT_SCHEMA, numbered_schema};

type Report<T> = Result<T, ErrorReport>;

/// Rows that came and went, not yet in what is published.
#[derive(Clone, Debug)]
pub struct SignedRows {
    pub rows: RecordBatch,
    pub weights: Vec<i64>,
}

impl SignedRows {
    /// Rows that go, then rows that come.
    pub fn of(removed: &RecordBatch, added: &RecordBatch) -> Report<SignedRows> {
        let mut weights = vec![-1; removed.num_rows()];
        weights.resize(removed.num_rows() + added.num_rows(), 1);
        let rows = concat_batches(&added.schema(), [removed, added]).map_err(internal)?;
        Ok(SignedRows { rows, weights })
    }
}

/// A result with changes on top.
pub struct ChangedRows {
    base: Arc<dyn ResultRows>,
    /// How often rows of the base are gone, by their encoded values.
    removed: HashMap<Box<[u8]>, i64>,
    converter: Option<Arc<RowConverter>>,
    added: Vec<RecordBatch>,
}

impl ChangedRows {
    pub fn of(base: Arc<dyn ResultRows>, changes: &[SignedRows]) -> Report<ChangedRows> {
        let mut rows = ChangedRows {
            base,
            removed: HashMap::new(),
            converter: None,
            added: Vec::new(),
        };
        let only_added = changes
            .iter()
            .all(|change| change.weights.iter().all(|weight| *weight == 1));
        if only_added {
            rows.added = changes.iter().map(|change| change.rows.clone()).collect();
        } else {
            rows.settle(changes)?;
        }
        Ok(rows)
    }

    /// What the changes amount to: a row that came and went again is none.
    fn settle(&mut self, changes: &[SignedRows]) -> Report<()> {
        let converter = converter(&self.base.schema())?;
        let batches = changes.iter().map(|change| &change.rows);
        let all = concat_batches(&self.base.schema(), batches).map_err(internal)?;
        let encoded = encode(&converter, all.columns())?;
        let weights = changes.iter().flat_map(|change| change.weights.iter().copied());
        let mut net: HashMap<Box<[u8]>, (u32, i64)> = HashMap::new();
        for ((row, weight), number) in encoded.iter().zip(weights).zip(0_u32..) {
            net.entry(Box::from(row.data())).or_insert((number, 0)).1 += weight;
        }
        let mut added = Vec::new();
        for (row, (number, weight)) in net {
            added.extend(std::iter::repeat_n(number, usize::try_from(weight).unwrap_or(0)));
            if weight < 0 {
                self.removed.insert(row, -weight);
            }
        }
        added.sort_unstable();
        self.added = vec![take_record_batch(&all, &UInt32Array::from(added)).map_err(internal)?];
        self.converter = Some(Arc::new(converter));
        Ok(())
    }

    /// Without the rows that are gone.
    fn kept(
        converter: Option<&RowConverter>,
        removed: &mut HashMap<Box<[u8]>, i64>,
        rows: RecordBatch,
    ) -> Report<RecordBatch> {
        let Some(converter) = converter.filter(|_| !removed.is_empty()) else {
            return Ok(rows);
        };
        let encoded = encode(converter, rows.columns())?;
        let mut stays = Vec::with_capacity(rows.num_rows());
        for row in &encoded {
            let copies = removed.get_mut(row.data()).filter(|copies| **copies > 0);
            stays.push(copies.is_none());
            if let Some(copies) = copies {
                *copies -= 1;
            }
        }
        filter_record_batch(&rows, &BooleanArray::from(stays)).map_err(internal)
    }
}

impl fmt::Debug for ChangedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangedRows({:?})", self.base)
    }
}

impl ResultRows for ChangedRows {
    fn schema(&self) -> SchemaRef {
        self.base.schema()
    }

    fn key(&self) -> Option<Vec<usize>> {
        self.base.key()
    }

    fn scan(&self) -> Box<dyn Iterator<Item = Report<RecordBatch>> + Send> {
        let mut removed = self.removed.clone();
        let converter = self.converter.clone();
        let base = self
            .base
            .scan()
            .map(move |piece| ChangedRows::kept(converter.as_deref(), &mut removed, piece?));
        let added = self.added.clone();
        Box::new(base.chain(added.into_iter().map(Ok)))
    }

    /// Whoever asks compares again: all that is new is given beside what is found.
    fn lookup(&self, key: &[ScalarValue]) -> Report<Option<RecordBatch>> {
        let mut pieces = self.added.clone();
        if let Some(found) = self.base.lookup(key)? {
            let mut removed = self.removed.clone();
            pieces.push(ChangedRows::kept(self.converter.as_deref(), &mut removed, found)?);
        }
        match pieces.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            several => Ok(Some(concat_batches(&self.schema(), several).map_err(internal)?)),
        }
    }
}

/// Rows in memory.
#[derive(Debug)]
pub struct MemoryRows {
    pub rows: RecordBatch,
}

impl ResultRows for MemoryRows {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn key(&self) -> Option<Vec<usize>> {
        None
    }

    fn scan(&self) -> Box<dyn Iterator<Item = Report<RecordBatch>> + Send> {
        Box::new(std::iter::once(Ok(self.rows.clone())))
    }

    fn lookup(&self, _key: &[ScalarValue]) -> Report<Option<RecordBatch>> {
        Ok(Some(self.rows.clone()))
    }
}

/// Rows with their numbers, in a column behind the others.
#[derive(Debug)]
pub struct NumberedRows {
    rows: Arc<dyn ResultRows>,
    schema: SchemaRef,
}

impl NumberedRows {
    pub fn of(rows: Arc<dyn ResultRows>) -> NumberedRows {
        let schema = Arc::new(numbered_schema(&rows.schema()));
        NumberedRows { rows, schema }
    }
}

/// `rows` with numbers from `first`.
pub fn numbered(rows: &RecordBatch, first: i64, schema: &SchemaRef) -> Report<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    let last = first + i64::try_from(rows.num_rows()).unwrap_or(i64::MAX);
    columns.push(Arc::new(Int64Array::from_iter_values(first..last)));
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(internal)
}

impl ResultRows for NumberedRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn key(&self) -> Option<Vec<usize>> {
        self.rows.key()
    }

    fn scan(&self) -> Box<dyn Iterator<Item = Report<RecordBatch>> + Send> {
        let schema = Arc::clone(&self.schema);
        let mut first = 0;
        Box::new(self.rows.scan().map(move |piece| {
            let piece = numbered(&piece?, first, &schema)?;
            first += i64::try_from(piece.num_rows()).unwrap_or(0);
            Ok(piece)
        }))
    }

    fn lookup(&self, key: &[ScalarValue]) -> Report<Option<RecordBatch>> {
        let found = self.rows.lookup(key)?;
        found.map(|rows| numbered(&rows, 0, &self.schema)).transpose()
    }
}

/// A relation that can be planned over, not read.
#[derive(Debug)]
pub struct UnreadableRows {
    pub schema: SchemaRef,
    pub error: ErrorReport,
}

impl ResultRows for UnreadableRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn key(&self) -> Option<Vec<usize>> {
        None
    }

    fn scan(&self) -> Box<dyn Iterator<Item = Report<RecordBatch>> + Send> {
        Box::new(std::iter::once(Err(self.error.clone())))
    }

    fn lookup(&self, _key: &[ScalarValue]) -> Report<Option<RecordBatch>> {
        Err(self.error.clone())
    }
}

/// A session's relations, and those that only this statement has.
pub struct StatementRelations<'a> {
    pub others: &'a dyn BatchRelations,
    /// The rows that a table has for the statement.
    pub table: Option<(Oid, Arc<dyn ResultRows>)>,
    pub own: Vec<(&'static str, Arc<dyn ResultRows>)>,
}

impl BatchRelations for StatementRelations<'_> {
    fn system_relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        if schema == STATEMENT_SCHEMA
            && let Some((_, rows)) = self.own.iter().find(|(own, _)| *own == name)
        {
            return Some(result_table(Arc::clone(rows)));
        }
        self.others.system_relation(schema, name)
    }

    fn pipeline_result(&self, pipeline: Oid) -> Option<Arc<dyn ResultRows>> {
        match &self.table {
            Some((table, rows)) if *table == pipeline => Some(Arc::clone(rows)),
            _ => self.others.pipeline_result(pipeline),
        }
    }

    fn connected_table(&self, table: &Table) -> Option<Arc<dyn TableProvider>> {
        self.others.connected_table(table)
    }

    fn system_names(&self, schema: &str) -> Vec<String> {
        self.others.system_names(schema)
    }
}

/// Encodes rows of these columns so that equal rows have equal bytes.
pub fn converter(schema: &SchemaRef) -> Report<RowConverter> {
    let fields = schema.fields().iter();
    RowConverter::new(fields.map(|field| SortField::new(field.data_type().clone())).collect()).map_err(internal)
}

pub fn encode(converter: &RowConverter, columns: &[ArrayRef]) -> Report<Rows> {
    converter.convert_columns(columns).map_err(internal)
}

pub fn internal(error: ArrowError) -> ErrorReport {
    ErrorReport::new(SqlState::INTERNAL_ERROR, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rows(values: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        RecordBatch::try_from_iter([("v", column)]).unwrap()
    }

    fn values(rows: &dyn ResultRows) -> Vec<i64> {
        let column = |piece: Report<RecordBatch>| {
            let piece = piece.unwrap();
            let column = piece.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            column.values().to_vec()
        };
        let mut values: Vec<i64> = rows.scan().flat_map(column).collect();
        values.sort_unstable();
        values
    }

    fn changed(base: &[i64], changes: &[(&[i64], &[i64])]) -> Vec<i64> {
        let base = Arc::new(MemoryRows { rows: rows(base) });
        let signed = |(values, weights): &(&[i64], &[i64])| SignedRows {
            rows: rows(values),
            weights: weights.to_vec(),
        };
        let changes: Vec<_> = changes.iter().map(signed).collect();
        values(&ChangedRows::of(base, &changes).unwrap())
    }

    #[test]
    fn changes_count_copies() {
        assert_eq!(changed(&[1, 2, 2, 2], &[]), [1, 2, 2, 2]);
        assert_eq!(changed(&[1], &[(&[2, 2], &[1, 1])]), [1, 2, 2]);
        assert_eq!(changed(&[1, 2, 2, 2], &[(&[2, 2], &[-1, -1])]), [1, 2]);
        assert_eq!(changed(&[1, 2], &[(&[3], &[1]), (&[3, 2, 4], &[-1, -1, 1])]), [1, 4]);
        assert_eq!(changed(&[1], &[(&[1], &[-1]), (&[1], &[1])]), [1], "gone and back");
    }
}
