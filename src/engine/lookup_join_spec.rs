//! What a lookup join does: the part of the job graph that planner and operator agree on.
//!
//! The keys are columns of the input, of exactly the types of the table's key, every expression having been computed by a
//! `Project` before. The input only grows: what was looked up for a row is not kept, so it could not be taken back.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::connectors::ConnectorTable;
use crate::engine::connectors::lookup::LookupOptions;

#[derive(Clone, Debug)]
pub struct LookupJoinSpec {
    /// `public.customers`, for messages.
    pub table_name: String,
    pub table: Arc<dyn ConnectorTable>,
    pub options: LookupOptions,
    /// Rows without a partner come out with NULLs instead of not at all.
    pub left: bool,
    /// Columns of the input, one for each of `key`. A NULL has no partner.
    pub keys: Vec<usize>,
    /// The table's columns by which it is asked.
    pub key: SchemaRef,
    /// What is asked for.
    pub columns: SchemaRef,
    /// Over `columns`: rows of the table that count.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Over `columns`: what the table's side of the output has.
    pub projection: Vec<Arc<dyn PhysicalExpr>>,
    /// So many columns of the input come first in the output, then those of `projection`.
    pub input_columns: usize,
    /// Over the output: what a pair must satisfy besides equal keys.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
}
