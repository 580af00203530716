//! The resources of REST as they are written and read; also the schemas of the OpenAPI document.
//!
//! Profiles and tables are wrapped in `data` and have ISO 8601 times; pipelines and jobs are bare and have epoch milliseconds.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `{"data": ..}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Wrapped<T> {
    pub data: T,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub has_more: bool,
}

/// A page of a list that counts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CountedPage<T> {
    pub data: Vec<T>,
    pub meta: PageMeta,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PageMeta {
    pub total: usize,
    pub limit: usize,
    pub offset: usize,
}

/// A connection: where, and as whom.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConnectionProfile {
    /// `prof_..`
    pub id: String,
    pub name: String,
    pub connector: String,
    pub description: Option<String>,
    /// The connector's options; secrets are masked.
    #[schema(value_type = Object)]
    pub config: Map<String, Value>,
    pub created_at: String,
    pub updated_at: String,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct CreateConnectionProfile {
    pub name: String,
    /// As in `GET /connectors`; `type` is the same.
    #[schema(example = "filesystem")]
    pub connector: Option<String>,
    pub r#type: Option<String>,
    pub description: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub config: Option<Map<String, Value>>,
}

/// A connected table: an external stream that pipelines read or write.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConnectionTable {
    /// `tbl_..`
    pub id: String,
    pub name: String,
    pub connector: Option<String>,
    pub connection_profile_id: Option<String>,
    /// `source`, `sink` or `lookup`; absent when use decides.
    pub table_type: Option<String>,
    pub schema: TableSchema,
    #[schema(value_type = Object)]
    pub config: Map<String, Value>,
    pub event_time_field: Option<String>,
    pub watermark_delay: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct CreateConnectionTable {
    pub name: String,
    /// Needed unless a profile is named.
    pub connector: Option<String>,
    /// Id or name of a connection profile; `profile` is the same.
    pub connection_profile_id: Option<String>,
    pub profile: Option<String>,
    /// `source`, `sink` or `lookup`.
    pub table_type: Option<String>,
    /// Columns; left out, the connector or the pipeline that writes gives them.
    #[schema(value_type = Option<TableSchema>)]
    pub schema: Option<Value>,
    /// The connector's options for tables: `path`, `topic`, `format`, ..
    #[schema(value_type = Option<Object>)]
    pub config: Option<Map<String, Value>>,
    pub event_time_field: Option<String>,
    /// Such as `5 seconds`.
    pub watermark_delay: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TableSchema {
    #[schema(value_type = Option<Vec<TableField>>)]
    pub fields: Option<Value>,
    /// `{"json": {}}`: the format, and its options.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct TableField {
    /// `field_name` is the same.
    pub name: Option<String>,
    pub field_name: Option<String>,
    /// The SQL name, or `{"type": {"primitive": "Utf8"}}`; `type` and `field_type` are the same.
    #[schema(value_type = Option<String>)]
    pub data_type: Option<Value>,
    #[schema(value_type = Option<String>)]
    pub r#type: Option<Value>,
    #[schema(value_type = Option<String>)]
    pub field_type: Option<Value>,
    pub nullable: Option<bool>,
}

/// A continuous query.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PipelineResource {
    /// `pipe_..`
    pub id: String,
    pub name: String,
    pub query: String,
    #[schema(value_type = Vec<Object>)]
    pub udfs: Vec<Value>,
    pub checkpoint_interval_micros: u64,
    pub parallelism: u32,
    /// `none` while it is meant to run, else how it was stopped.
    pub stop: &'static str,
    /// The state of its newest job; `Created` before the first.
    pub state: String,
    pub created_at: i64,
    /// What the user can do next, as a value of `stop`.
    pub action: Option<&'static str>,
    pub action_text: &'static str,
    pub action_in_progress: bool,
    pub graph: Option<Graph>,
    pub preview: bool,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct CreatePipeline {
    pub name: String,
    /// A SELECT, an INSERT, or a file of CREATE TABLE, CREATE VIEW and INSERT statements.
    pub query: String,
    /// 1 when left out.
    pub parallelism: Option<u32>,
    /// 10 s when left out.
    pub checkpoint_interval_micros: Option<u64>,
    #[schema(value_type = Option<Vec<Object>>)]
    pub udfs: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ValidateQuery {
    pub query: String,
    #[schema(value_type = Option<Vec<Object>>)]
    pub udfs: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ValidatedQuery {
    /// Absent when there are errors.
    pub graph: Option<Graph>,
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct StopPipeline {
    /// `checkpoint`, `graceful` (when left out), `immediate` or `force`.
    pub mode: Option<String>,
    /// How long to wait for it to stop; 30 when left out.
    pub timeout_seconds: Option<u64>,
}

/// What a pipeline compiles to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Graph {
    pub nodes: Vec<GraphNode>,
    pub edges: Vec<GraphEdge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GraphNode {
    pub node_id: usize,
    /// Stays the same while the operator does the same.
    pub operator: String,
    pub description: String,
    pub parallelism: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GraphEdge {
    pub src_id: usize,
    pub dest_id: usize,
    /// `forward`, `shuffle`, ..
    pub edge_type: String,
}

/// One run of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobResource {
    /// `job_..`
    pub id: String,
    pub pipeline_id: String,
    pub running_desired: bool,
    pub state: String,
    /// Counts the runs of the pipeline.
    pub run_id: u64,
    pub start_time: Option<i64>,
    pub finish_time: Option<i64>,
    /// Operator subtasks.
    pub tasks: Option<usize>,
    pub failure_message: Option<String>,
    pub created_at: i64,
    pub metrics: JobMetrics,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobMetrics {
    pub records_in: u64,
    pub records_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub errors: u64,
    pub warnings: u64,
}

/// A kind of outside system.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConnectorResource {
    pub id: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    pub category: &'static str,
    /// `source`, `sink`.
    pub r#type: Vec<&'static str>,
    pub version: &'static str,
    pub features: ConnectorFeatures,
    pub supported_formats: Vec<&'static str>,
    pub configuration_schema: ConfigurationSchema,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConnectorFeatures {
    pub source: bool,
    pub sink: bool,
    /// Has options that a connection profile can keep.
    pub connection_profile: bool,
}

/// JSON Schemas of the options.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConfigurationSchema {
    #[schema(value_type = Option<Object>)]
    pub source: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub sink: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub connection: Option<Value>,
}
