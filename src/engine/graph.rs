//! The job graph: which operators run, how rows travel between them. What the planner hands to the engine.
//!
//! A graph lives in memory only: it is compiled from SQL text each time a job starts, never stored.
//!
//! Invariants: nodes are in topological order (inputs before consumers); a node with several inputs is a `Union`
//! or a `Join`; the inputs of an aggregate or a join are columns, every expression having been computed by a `Project` before it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::engine::asof_spec::AsofJoinSpec;
use crate::engine::connectors::ConnectorTable;
use crate::engine::join_spec::JoinSpec;
use crate::engine::lookup_join_spec::LookupJoinSpec;
use crate::engine::over_spec::OverSpec;
use crate::engine::top_n_spec::TopNSpec;
use crate::ids::OperatorId;

#[derive(Clone, Debug)]
pub struct JobGraph {
    pub nodes: Vec<GraphNode>,
    /// Subtasks of every node whose own `parallelism` is not smaller.
    pub parallelism: u32,
}

#[derive(Clone, Debug)]
pub struct GraphNode {
    pub id: OperatorId,
    /// All that decides which rows it puts out, from the sources on. The id is the name under which state is found; of two
    /// operators of one lineage the state is the same once they have seen the same input. See `coordinator/evolution.rs`.
    pub lineage: String,
    /// What EXPLAIN prints after the operator's name, such as `keys=[auction], aggregates=[count(*)]`.
    pub description: String,
    pub operator: OperatorSpec,
    pub parallelism: u32,
    pub inputs: Vec<GraphEdge>,
    pub output: StreamShape,
}

#[derive(Clone, Debug)]
pub struct GraphEdge {
    /// Index into [`JobGraph::nodes`].
    pub from: usize,
    pub exchange: Exchange,
}

/// How rows get from the subtasks of one node to those of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Subtask i to subtask i; fused into one driver when the consumer has no other input.
    Forward,
    /// By the frozen hash of these columns; rows of one key meet in one subtask.
    Hash { columns: Vec<usize> },
    /// Everything to subtask 0.
    Single,
}

/// What is known of a node's output.
#[derive(Clone, Debug)]
pub struct StreamShape {
    pub schema: SchemaRef,
    /// No retractions: every weight is +1.
    pub append_only: bool,
    /// Columns whose values identify a row at any moment, when known.
    pub unique_key: Option<Vec<usize>>,
    /// Chunks carry event time.
    pub event_time: bool,
}

#[derive(Clone, Debug)]
pub enum OperatorSpec {
    Source(SourceSpec),
    /// A fixed set of rows, produced once by subtask 0.
    Values(RecordBatch),
    Filter {
        predicate: Arc<dyn PhysicalExpr>,
    },
    /// Computes the columns of the output schema in order.
    Project {
        expressions: Vec<Arc<dyn PhysicalExpr>>,
    },
    /// One output row an element of the list columns `lists`, struct columns `structs` become one column a field; the
    /// other columns are repeated. Column order as in the output schema.
    Unnest(UnnestSpec),
    Union,
    /// Behind a source whose rows replace each other: what comes out adds rows and takes away what it added.
    UpsertNormalise(UpsertNormaliseSpec),
    Join(Box<JoinSpec>),
    LookupJoin(Box<LookupJoinSpec>),
    AsofJoin(Box<AsofJoinSpec>),
    TopN(TopNSpec),
    WindowAggregate(WindowAggregateSpec),
    UpdatingAggregate(AggregateSpec),
    Over(Box<OverSpec>),
    /// Keeps the result readable by SELECT and SUBSCRIBE.
    Materialize(MaterializeSpec),
    Sink(SinkSpec),
    /// Rows go to the client that started the job (foreground SELECT); `limit` ends the job after that many rows.
    ClientOutput {
        limit: Option<u64>,
    },
}

#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// `public.bids`, for messages.
    pub table_name: String,
    pub table: Arc<dyn ConnectorTable>,
    /// What the connector has to deliver: a subset of its columns, in this order.
    pub physical_schema: SchemaRef,
    /// Which of them are the key by which rows replace each other; an `UpsertNormalise` follows.
    pub key: Option<Vec<usize>>,
    /// Event time, in microseconds, over the physical schema; `None` without event time.
    pub event_time: Option<EventTimeSpec>,
    /// Columns of the output schema over the physical schema (generated columns, casts); `None` = as delivered.
    pub projection: Option<Vec<Arc<dyn PhysicalExpr>>>,
}

#[derive(Clone, Debug)]
pub struct EventTimeSpec {
    /// Timestamp(Microsecond) over the physical schema.
    pub time: EventTimeExpr,
    /// Timestamp(Microsecond) over the physical schema; the watermark of a split is the greatest seen.
    pub watermark: EventTimeExpr,
    /// A split without rows for this long stops holding back others.
    pub idle_timeout_ms: u64,
    /// Rows further in the future than this against the wall clock do not move the watermark; `None` = no limit, which
    /// is right for bounded input.
    pub max_future_skew_ms: Option<u64>,
}

#[derive(Clone, Debug)]
pub enum EventTimeExpr {
    Expression(Arc<dyn PhysicalExpr>),
    /// The wall clock when the row was decoded.
    ProcessingTime,
}

#[derive(Clone, Debug)]
pub struct UnnestSpec {
    /// For each output column, which input column it comes from and how.
    pub columns: Vec<UnnestColumn>,
    /// A row whose lists are all empty or NULL gives one row of NULLs instead of none.
    pub preserve_nulls: bool,
}

/// Rows come by a hash exchange on exactly the key in its order, unless there is one subtask. Input and output have the same
/// columns; of a row that goes only the key counts.
#[derive(Clone, Debug)]
pub struct UpsertNormaliseSpec {
    pub key: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnnestColumn {
    Repeat {
        input: usize,
    },
    /// `depth` levels of list are taken off (1 is usual).
    List {
        input: usize,
        depth: usize,
    },
    StructField {
        input: usize,
        field: usize,
    },
}

/// Grouping and aggregates over columns of the input.
///
/// Output columns of `Single` and `Final`: the keys, then one column an aggregate. A window aggregate puts two
/// Timestamp(Microsecond) columns, window start and end, between them. Output of `Partial`: see
/// `operators::accumulators::partial_schema`.
///
/// Rows come by a hash exchange on exactly the keys in their order, or the whole stream is one subtask: the hash of the
/// keys decides where the group is found after a restart. With `placed_by` it is the hash of those, and so were the rows sent.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    pub keys: Vec<usize>,
    /// Places in `keys`: the columns, in order, by whose hash the rows were sent here for the sake of an operator before; `None`: all.
    pub placed_by: Option<Vec<usize>>,
    pub aggregates: Vec<AggregateCall>,
    pub phase: AggregatePhase,
    /// The input has no retractions.
    pub append_only_input: bool,
    /// Groups untouched for this long are forgotten and retracted; `None` = kept for ever.
    pub state_ttl_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregatePhase {
    /// Rows in, results out.
    Single,
    /// Before an exchange: rows in, states out; keeps nothing across a barrier or a watermark.
    Partial,
    /// After an exchange: states in, results out.
    Final,
}

#[derive(Clone, Debug)]
pub struct WindowAggregateSpec {
    pub aggregate: AggregateSpec,
    pub window: WindowSpec,
    /// Emit while the window is open (updating) instead of once when it closes.
    pub emit: EmitMode,
    /// The table whose late rows are kept as dead letters; `None`: they are only counted.
    pub late_rows: Option<String>,
    /// For so long after its end a window still takes rows, and is emitted again.
    pub allowed_lateness_micros: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WindowSpec {
    /// Windows [n * size, (n + 1) * size) since 1970-01-01 UTC.
    Tumble { size_micros: i64 },
    /// Windows [n * slide, n * slide + size).
    Hop { slide_micros: i64, size_micros: i64 },
    /// Of each key, from a row to the gap after the last row that is less than the gap from the one before it.
    Session { gap_micros: i64 },
    /// The rows are results of windows of this size, and are grouped by them again.
    Given { size_micros: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitMode {
    OnWindowClose,
    OnUpdate,
}

/// One aggregate over input columns.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub function: AggregateFunction,
    /// Input columns; in the `Final` phase the state columns.
    pub arguments: Vec<usize>,
    /// A Boolean input column; rows where it is not true are left out. Never set in the `Final` phase.
    pub filter: Option<usize>,
    pub distinct: bool,
    pub return_type: DataType,
    /// As the query wrote it, such as `count(DISTINCT bidder)`.
    pub label: String,
}

#[derive(Clone, Debug)]
pub enum AggregateFunction {
    /// `count(*)`: no argument.
    CountRows,
    Count,
    Sum,
    Min,
    Max,
    Avg,
    BoolAnd,
    BoolOr,
    /// Any other function of DataFusion, kept as its accumulators; `order_by` columns and direction are inside.
    Other(Arc<AggregateFunctionExpr>),
}

#[derive(Clone, Debug)]
pub struct MaterializeSpec {
    /// The pipeline's OID: the name under which readers find the result.
    pub pipeline: crate::ids::Oid,
    /// `None`: rows are told apart by all their columns. Rows come by a hash exchange on exactly the key (on all columns
    /// where there is none), unless there is one subtask.
    pub key: Option<Vec<usize>>,
    pub append_only: bool,
}

#[derive(Clone, Debug)]
pub struct SinkSpec {
    pub table_name: String,
    pub table: Arc<dyn ConnectorTable>,
    pub changelog: SinkChangelog,
}

/// How retractions reach a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkChangelog {
    /// There are none.
    Append,
    /// The format writes before and after images; those of one row of `key` as one record, where the rows have a key.
    Debezium { key: Option<Vec<usize>> },
    /// One row a key and barrier, by these columns: +1 comes or replaces another, -1 goes.
    Upsert { key: Vec<usize> },
}

impl OperatorSpec {
    /// It must be in a checkpoint for a run to go on from that: it has state, offsets or a place in its target.
    pub fn keeps_state(&self) -> bool {
        match self {
            OperatorSpec::Source(_)
            | OperatorSpec::Values(_)
            | OperatorSpec::Sink(_)
            | OperatorSpec::Materialize(_)
            | OperatorSpec::Join(_)
            | OperatorSpec::AsofJoin(_)
            | OperatorSpec::TopN(_)
            | OperatorSpec::Over(_)
            | OperatorSpec::UpsertNormalise(_) => true,
            OperatorSpec::UpdatingAggregate(spec) => spec.phase != AggregatePhase::Partial,
            OperatorSpec::WindowAggregate(spec) => spec.aggregate.phase != AggregatePhase::Partial,
            OperatorSpec::Filter { .. }
            | OperatorSpec::Project { .. }
            | OperatorSpec::Unnest(_)
            | OperatorSpec::Union
            | OperatorSpec::LookupJoin(_)
            | OperatorSpec::ClientOutput { .. } => false,
        }
    }

    /// Left and right, which may be the same node.
    pub fn has_two_inputs(&self) -> bool {
        matches!(self, OperatorSpec::Join(_) | OperatorSpec::AsofJoin(_))
    }

    /// The word that EXPLAIN and metrics use.
    pub fn name(&self) -> &'static str {
        match self {
            OperatorSpec::Source(_) => "source",
            OperatorSpec::Values(_) => "values",
            OperatorSpec::Filter { .. } => "filter",
            OperatorSpec::Project { .. } => "project",
            OperatorSpec::Unnest(_) => "unnest",
            OperatorSpec::Union => "union",
            OperatorSpec::UpsertNormalise(_) => "upsert_normalise",
            OperatorSpec::Join(spec) => spec.name(),
            OperatorSpec::LookupJoin(_) => "lookup_join",
            OperatorSpec::AsofJoin(spec) => spec.name(),
            OperatorSpec::TopN(_) => "top_n",
            OperatorSpec::WindowAggregate(_) => "window_aggregate",
            OperatorSpec::UpdatingAggregate(_) => "updating_aggregate",
            OperatorSpec::Over(spec) => spec.name(),
            OperatorSpec::Materialize(_) => "materialize",
            OperatorSpec::Sink(_) => "sink",
            OperatorSpec::ClientOutput { .. } => "client_output",
        }
    }
}
