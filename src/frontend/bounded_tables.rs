//! Connected tables that end by themselves, for the batch engine: files can be sorted, joined and aggregated at once.
//!
//! Each scan is a foreground job that reads the columns which the query needs; it starts when the first row is asked for,
//! waits while nobody takes rows, and ends with the query. Bad rows, generated columns and casts are as in a pipeline.
//! Of a table whose rows change, the rows are those that are left at its end: they come when all of it has been read.
//! Not guaranteed: that two scans of one table in a query see the same rows, when the files change meanwhile.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{Session as DataFusionSession, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};

use crate::catalog::objects::Table;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::engine::coordinator::Coordinator;
use crate::engine::coordinator::foreground::ForegroundJob;
use crate::engine::graph::JobGraph;
use crate::engine::operators::net_rows::NetRows;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::sql::identifier::{quote, quote_qualified};
use crate::planner::body::Body;
use crate::planner::compiled::{Compiled, Target};
use crate::planner::settings::Settings;

/// A bounded table as a relation of a query that is answered once.
struct BoundedTable {
    name: QualifiedName,
    schema: SchemaRef,
    coordinator: Coordinator,
    snapshot: Arc<CatalogSnapshot>,
    settings: Settings,
}

/// `None`: the table does not end by itself, or cannot be read at all.
pub fn bounded_table(
    table: &Table,
    coordinator: &Coordinator,
    snapshot: &Arc<CatalogSnapshot>,
    settings: &Settings,
) -> Option<Arc<dyn TableProvider>> {
    let name = name_of(table);
    let all = compile(&name, "*", snapshot, settings).ok()?;
    if all.unbounded {
        return None;
    }
    Some(Arc::new(BoundedTable {
        name,
        schema: all.output?,
        coordinator: coordinator.clone(),
        snapshot: Arc::clone(snapshot),
        settings: settings.clone(),
    }))
}

/// The job that reads all columns.
pub fn scan_graph(table: &Table, snapshot: &CatalogSnapshot, settings: &Settings) -> Option<JobGraph> {
    let compiled = compile(&name_of(table), "*", snapshot, settings).ok()?;
    Some(compiled.graph)
}

fn name_of(table: &Table) -> QualifiedName {
    QualifiedName {
        schema: table.header.schema.clone(),
        name: table.header.name.clone(),
    }
}

fn compile(
    name: &QualifiedName,
    columns: &str,
    snapshot: &CatalogSnapshot,
    settings: &Settings,
) -> Result<Compiled, ErrorReport> {
    let text = format!("SELECT {columns} FROM {}", quote_qualified(name));
    let query = crate::planner::dialect::parse_query(&text).map_err(|error| error.report())?;
    let body = Body::query(query, text);
    crate::planner::compile(&body, Target::Foreground, snapshot, settings).map_err(|error| error.report())
}

impl fmt::Debug for BoundedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoundedTable({})", self.name)
    }
}

#[async_trait::async_trait]
impl TableProvider for BoundedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn DataFusionSession,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let wanted = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        // Rows without any column cannot be counted on their way.
        let nothing = wanted.is_empty();
        let read = if nothing { vec![0] } else { wanted };
        let schema: SchemaRef = Arc::new(self.schema.project(&read)?);
        let names: Vec<String> = schema.fields().iter().map(|field| quote(field.name())).collect();
        let compiled = compile(&self.name, &names.join(", "), &self.snapshot, &self.settings).map_err(failed)?;
        let scan = Scan {
            schema: Arc::clone(&schema),
            graph: compiled.graph,
            append_only: compiled.append_only,
            coordinator: self.coordinator.clone(),
        };
        let no_columns = Vec::new();
        Ok(Arc::new(StreamingTableExec::try_new(
            schema,
            vec![Arc::new(scan)],
            nothing.then_some(&no_columns),
            None,
            false,
            limit,
        )?))
    }
}

struct Scan {
    schema: SchemaRef,
    graph: JobGraph,
    append_only: bool,
    coordinator: Coordinator,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scan")
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (coordinator, graph, schema) = (self.coordinator.clone(), self.graph.clone(), Arc::clone(&self.schema));
        let append_only = self.append_only;
        let rows = stream::once(async move {
            let job = coordinator
                .run_foreground(graph)
                .await
                .map_err(|error| failed(error.report()))?;
            Ok::<_, DataFusionError>(match append_only {
                true => rows_of(job, schema).boxed(),
                false => stream::iter(remaining_rows(job, schema).await?.into_iter().map(Ok)).boxed(),
            })
        });
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            rows.try_flatten(),
        ))
    }
}

fn rows_of(
    job: ForegroundJob,
    schema: SchemaRef,
) -> impl futures::Stream<Item = Result<RecordBatch, DataFusionError>> + Send {
    stream::unfold((job, schema), |(mut job, schema)| async move {
        let batch = match job.rows.recv().await? {
            Ok(chunk) => RecordBatch::try_new(Arc::clone(&schema), chunk.rows.columns().to_vec())
                .map_err(|error| failed(ErrorReport::new(SqlState::INTERNAL_ERROR, error.to_string()))),
            Err(report) => Err(failed(report)),
        };
        Some((batch, (job, schema)))
    })
}

/// What is left when everything that went has been taken from what came.
async fn remaining_rows(mut job: ForegroundJob, schema: SchemaRef) -> Result<Vec<RecordBatch>, DataFusionError> {
    let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let mut rows = NetRows::new(&types).map_err(|error| failed(error.report()))?;
    while let Some(chunk) = job.rows.recv().await {
        rows.add(&chunk.map_err(failed)?)
            .map_err(|error| failed(error.report()))?;
    }
    let batch = |columns| RecordBatch::try_new(Arc::clone(&schema), columns);
    Ok(rows.batches().map(batch).collect::<Result<_, _>>()?)
}

fn failed(report: ErrorReport) -> DataFusionError {
    DataFusionError::External(Box::new(report))
}
