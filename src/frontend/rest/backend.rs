//! What REST needs of the server: to run statements, and to read what there is. Nothing here decides anything.

use std::future::Future;
use std::sync::Arc;

use super::model::{Graph, JobResource};
use crate::catalog::objects::Pipeline;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::error::ErrorReport;
use crate::ids::Oid;

pub trait Backend: Send + Sync + 'static {
    fn snapshot(&self) -> Arc<CatalogSnapshot>;

    /// Runs all statements of a text in a session of their own, up to the first error.
    fn run(&self, text: &str) -> impl Future<Output = Result<(), ErrorReport>> + Send;

    /// How many statements a text has.
    fn statement_count(&self, text: &str) -> Result<usize, ErrorReport>;

    /// The jobs of one pipeline or of all, newest first.
    fn jobs(&self, pipeline: Option<Oid>) -> impl Future<Output = Result<Vec<JobResource>, ErrorReport>> + Send;

    /// What a pipeline compiles to; `None` when it no longer does.
    fn graph(&self, pipeline: &Pipeline) -> Option<Graph>;

    /// What a query would compile to.
    fn compile(&self, query: &str) -> Result<Graph, ErrorReport>;

    /// Whether the server can do its work: the metadata store answers and jobs were taken up again.
    fn ready(&self) -> impl Future<Output = Result<(), ErrorReport>> + Send;
}
