//! The answer of the batch engine to a query over given rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::datasource::{MemTable, TableProvider};
use futures::TryStreamExt;

use crate::catalog::objects::Table;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::ids::Oid;
use crate::planner::batch::{ResultRows, plan_select};
use crate::planner::bind::BatchRelations;
use crate::planner::{Settings, dialect};

/// Rows by table name.
#[derive(Default)]
pub(crate) struct Rows(pub BTreeMap<String, RecordBatch>);

impl BatchRelations for Rows {
    fn system_relation(&self, _schema: &str, _name: &str) -> Option<Arc<dyn TableProvider>> {
        None
    }
    fn pipeline_result(&self, _pipeline: Oid) -> Option<Arc<dyn ResultRows>> {
        None
    }
    fn connected_table(&self, table: &Table) -> Option<Arc<dyn TableProvider>> {
        let rows = self.0.get(&table.header.name)?;
        let memory = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]);
        Some(Arc::new(memory.expect("rows of their schema")))
    }
    fn system_names(&self, _schema: &str) -> Vec<String> {
        Vec::new()
    }
}

/// What `sql` gives, and the error's text when it fails.
pub(crate) fn batch_answer(
    sql: &str,
    snapshot: &Arc<CatalogSnapshot>,
    rows: &Rows,
    runtime: &tokio::runtime::Runtime,
) -> Result<Vec<RecordBatch>, String> {
    let query = dialect::parse_query(sql).map_err(|error| error.to_string())?;
    let planned = plan_select(&query, sql, snapshot, &Settings::default(), rows, &[]);
    let planned = planned.map_err(|error| format!("{error:?}"))?;
    let answer = async {
        let stream = planned.execute().await.map_err(|error| format!("{error:?}"))?;
        stream.try_collect().await.map_err(|error| error.to_string())
    };
    runtime.block_on(answer)
}
