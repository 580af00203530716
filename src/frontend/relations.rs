//! What a one-shot SELECT can read: system views, computed when they are scanned, the results of pipelines, internal tables,
//! and connected tables that end by themselves.
//!
//! Guarantee: all scans and look-ups of one pipeline in one statement see one epoch. A result is read piece by piece as the
//! client takes rows: neither the result is copied nor the pipeline held up.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and_kleene, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session as DataFusionSession, TableProvider};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::catalog::objects::{Object, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::coordinator::kept_table::job_owner;
use crate::engine::results::{PipelineResult, ResultSnapshot, Results};
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::bounded_tables::bounded_table;
use crate::frontend::context::ServerContext;
use crate::frontend::error::Error;
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::quote;
use crate::frontend::statements::dml;
use crate::frontend::system_views::{self, SystemFacts};
use crate::frontend::table_rows::UnreadableRows;
use crate::ids::{Epoch, Oid};
use crate::planner::batch::ResultRows;
use crate::planner::bind::BatchRelations;
use crate::planner::settings::Settings;

/// The relations of one statement of one session.
pub struct SessionRelations {
    server: Arc<ServerContext>,
    snapshot: Arc<CatalogSnapshot>,
    settings: Settings,
    facts: Arc<SystemFacts>,
    results: Mutex<HashMap<Oid, Arc<dyn ResultRows>>>,
    /// Internal tables that the statement reads, and at which epoch.
    tables: Mutex<Vec<(Oid, Epoch)>>,
}

impl SessionRelations {
    pub fn of(session: &Session) -> SessionRelations {
        SessionRelations {
            server: Arc::clone(&session.server),
            snapshot: session.snapshot(),
            settings: session.planner_settings(),
            facts: Arc::new(SystemFacts::of(session)),
            results: Mutex::new(own_rows(session)),
            tables: Mutex::default(),
        }
    }

    /// The internal tables that have been read, but for those that the session's transaction has changed.
    pub fn tables_read(&self) -> Vec<(Oid, Epoch)> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A transaction sees what it has changed.
fn own_rows(session: &Session) -> HashMap<Oid, Arc<dyn ResultRows>> {
    let Some((table, rows)) = dml::own_rows(session) else {
        return HashMap::new();
    };
    let rows = rows.or_else(|error| {
        let schema = columns_of(&session.snapshot(), table).ok_or_else(|| error.clone())?;
        let error = ErrorReport::from(error);
        Ok::<Arc<dyn ResultRows>, Error>(Arc::new(UnreadableRows { schema, error }))
    });
    rows.map(|rows| HashMap::from([(table, rows)])).unwrap_or_default()
}

/// What a result holds now, and the epoch that this is.
pub fn at_latest_epoch(results: &Results, oid: Oid) -> Option<(Arc<dyn ResultRows>, Epoch)> {
    let result = results.get(oid)?;
    let snapshot = result.snapshot();
    let epoch = snapshot.epoch();
    Some((Arc::new(ResultAtEpoch { snapshot, result }), epoch))
}

impl BatchRelations for SessionRelations {
    fn system_relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        let columns = system_views::schema_of(schema, name)?;
        Some(Arc::new(SystemRelation {
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns,
            server: Arc::clone(&self.server),
            snapshot: Arc::clone(&self.snapshot),
            facts: Arc::clone(&self.facts),
        }))
    }

    fn pipeline_result(&self, pipeline: Oid) -> Option<Arc<dyn ResultRows>> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = results.get(&pipeline) {
            return Some(Arc::clone(known));
        }
        let Some((relation, epoch)) = at_latest_epoch(&self.server.results, pipeline) else {
            return self.missing(pipeline);
        };
        if matches!(self.snapshot.get(pipeline), Some(Object::Table(_))) {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            tables.push((pipeline, epoch));
        }
        results.insert(pipeline, Arc::clone(&relation));
        Some(relation)
    }

    fn connected_table(&self, table: &Table) -> Option<Arc<dyn TableProvider>> {
        bounded_table(table, &self.server.coordinator, &self.snapshot, &self.settings)
    }

    fn system_names(&self, schema: &str) -> Vec<String> {
        system_views::names(schema)
    }
}

impl SessionRelations {
    /// A pipeline that keeps a result which is not there, or a table: its columns are known all the same.
    fn missing(&self, oid: Oid) -> Option<Arc<dyn ResultRows>> {
        let schema = columns_of(&self.snapshot, oid)?;
        let found = self.snapshot.get(oid)?;
        let name = &found.header().name;
        let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        let error = match found {
            Object::Table(_) => ErrorReport::new(code, format!("table \"{name}\" is not there yet"))
                .with_hint("Its rows are being restored: try again."),
            _ => ErrorReport::new(code, format!("pipeline \"{name}\" has no result yet"))
                .with_hint(format!("Start it: START PIPELINE {}.", quote(name))),
        };
        Some(Arc::new(UnreadableRows { schema, error }))
    }
}

/// The columns of a kept result or an internal table, as the catalog knows them.
fn columns_of(snapshot: &CatalogSnapshot, oid: Oid) -> Option<SchemaRef> {
    let owner = job_owner(snapshot, oid)?;
    let fields = owner.columns.iter().map(|(name, sql_type)| {
        let sql_type = crate::types::parse(sql_type).ok()?;
        Some(sql_type.to_arrow_field(name, true))
    });
    let fields = fields.collect::<Option<Vec<_>>>().filter(|fields| !fields.is_empty())?;
    Some(Arc::new(Schema::new(fields)))
}

/// A system view; its rows are computed when it is scanned.
struct SystemRelation {
    schema: String,
    name: String,
    columns: SchemaRef,
    server: Arc<ServerContext>,
    snapshot: Arc<CatalogSnapshot>,
    facts: Arc<SystemFacts>,
}

impl fmt::Debug for SystemRelation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SystemRelation({}.{})", self.schema, self.name)
    }
}

#[async_trait::async_trait]
impl TableProvider for SystemRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn DataFusionSession,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let rows = system_views::rows(&self.schema, &self.name, &self.server, &self.snapshot, &self.facts)
            .await
            .map_err(|error| DataFusionError::External(Box::new(ErrorReport::from(error))))?;
        let scan = MemorySourceConfig::try_new_exec(&[vec![rows]], Arc::clone(&self.columns), projection.cloned())?;
        Ok(scan)
    }
}

/// The result of a pipeline at one epoch.
struct ResultAtEpoch {
    snapshot: ResultSnapshot,
    result: Arc<PipelineResult>,
}

impl fmt::Debug for ResultAtEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResultAtEpoch({})", self.snapshot.epoch())
    }
}

impl ResultRows for ResultAtEpoch {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.snapshot.schema())
    }

    fn key(&self) -> Option<Vec<usize>> {
        self.result.key().map(<[usize]>::to_vec)
    }

    fn scan(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ErrorReport>> + Send> {
        Box::new(
            self.snapshot
                .batches()
                .map(|piece| piece.map_err(|error| error.report())),
        )
    }

    /// By the index, unless the pipeline has gone on to another epoch since the statement began: then by reading all rows.
    fn lookup(&self, key: &[ScalarValue]) -> Result<Option<RecordBatch>, ErrorReport> {
        let before = self.result.latest_epoch();
        let found = self.result.lookup(key).map_err(|error| error.report())?;
        let after = self.result.latest_epoch();
        if before == self.snapshot.epoch() && after == before {
            return Ok(found);
        }
        self.search(key)
    }
}

impl ResultAtEpoch {
    fn search(&self, key: &[ScalarValue]) -> Result<Option<RecordBatch>, ErrorReport> {
        let internal = |error: arrow::error::ArrowError| ErrorReport::new(SqlState::INTERNAL_ERROR, error.to_string());
        let columns = self.result.key().unwrap_or_default();
        for piece in self.scan() {
            let piece = piece?;
            let mut wanted: Option<BooleanArray> = None;
            for (column, value) in columns.iter().zip(key) {
                let value = value
                    .to_scalar()
                    .map_err(|error| ErrorReport::new(SqlState::INTERNAL_ERROR, error.to_string()))?;
                let equal = eq(piece.column(*column), &value).map_err(internal)?;
                wanted = Some(match wanted {
                    Some(before) => and_kleene(&before, &equal).map_err(internal)?,
                    None => equal,
                });
            }
            let Some(wanted) = wanted else { return Ok(None) };
            let found = filter_record_batch(&piece, &wanted).map_err(internal)?;
            if found.num_rows() > 0 {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
