//! The kept result of a pipeline as a table: equality on the key becomes a look-up in its index.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::TableProvider;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream;

use crate::error::ErrorReport;

/// A kept result at one epoch.
pub trait ResultRows: fmt::Debug + Send + Sync {
    fn schema(&self) -> SchemaRef;

    /// Columns that identify a row, in the order in which [`ResultRows::lookup`] takes them.
    fn key(&self) -> Option<Vec<usize>>;

    /// All rows, a batch at a time. Every call reads the same epoch.
    fn scan(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ErrorReport>> + Send>;

    /// The row with this key.
    fn lookup(&self, key: &[ScalarValue]) -> Result<Option<RecordBatch>, ErrorReport>;
}

/// The rows as a table of a query.
pub fn result_table(rows: Arc<dyn ResultRows>) -> Arc<dyn TableProvider> {
    Arc::new(ResultTable { rows })
}

#[derive(Debug)]
struct ResultTable {
    rows: Arc<dyn ResultRows>,
}

#[async_trait::async_trait]
impl TableProvider for ResultTable {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let schema = self.rows.schema();
        let key = self.rows.key().unwrap_or_default();
        let useful = |filter: &&Expr| equality(filter, &schema).is_some_and(|(column, _)| key.contains(&column));
        Ok(filters
            .iter()
            .map(|filter| match useful(filter) {
                // Checked again above: a look-up only has to find the row.
                true => TableProviderFilterPushDown::Inexact,
                false => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partition = Rows {
            schema: self.rows.schema(),
            rows: Arc::clone(&self.rows),
            key: self.wanted_key(filters),
        };
        Ok(Arc::new(StreamingTableExec::try_new(
            self.rows.schema(),
            vec![Arc::new(partition)],
            projection,
            None,
            false,
            limit,
        )?))
    }
}

impl ResultTable {
    /// The value of every key column, when the filters give all.
    fn wanted_key(&self, filters: &[Expr]) -> Option<Vec<ScalarValue>> {
        let schema = self.rows.schema();
        let key = self.rows.key().filter(|key| !key.is_empty())?;
        let given: Vec<(usize, ScalarValue)> = filters.iter().filter_map(|filter| equality(filter, &schema)).collect();
        key.iter()
            .map(|column| {
                let found = given.iter().find(|(candidate, _)| candidate == column);
                found.map(|(_, value)| value.clone())
            })
            .collect()
    }
}

/// `column = literal`, the literal in the column's type.
fn equality(filter: &Expr, schema: &SchemaRef) -> Option<(usize, ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = filter
    else {
        return None;
    };
    let (column, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
            (column, value)
        }
        _ => return None,
    };
    let index = schema.index_of(&column.name).ok()?;
    let of = schema.field(index).data_type();
    // A value of another type was meant to be compared, not looked up.
    (!value.is_null() && value.data_type() == *of).then(|| (index, value.clone()))
}

#[derive(Debug)]
struct Rows {
    schema: SchemaRef,
    rows: Arc<dyn ResultRows>,
    key: Option<Vec<ScalarValue>>,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let failed = |report: ErrorReport| DataFusionError::External(Box::new(report));
        let schema = Arc::clone(&self.schema);
        let batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send> = match &self.key {
            Some(key) => Box::new(self.rows.lookup(key).map_err(failed).transpose().into_iter()),
            None => Box::new(self.rows.scan().map(move |batch| batch.map_err(failed))),
        };
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches)))
    }
}
