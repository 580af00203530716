//! Logical plans to operators.
//!
//! The output columns of an operator are those of the logical node in the same order; what expressions need is computed
//! by a Project before the operator that needs it. (A node without columns may carry some: rows of nothing cannot travel.)

mod access;
mod aggregate;
mod asof;
mod grouping_sets;
mod join;
mod join_bound;
mod lateness;
mod lookup_join;
mod output;
mod over;
mod over_changing;
mod source;
mod spread;
mod times;
mod top_n;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    EmptyRelation, Expr, Extension, Filter, LogicalPlan, Projection, Union, Unnest, Values,
};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::engine::graph::{GraphEdge, OperatorSpec, StreamShape, UnnestColumn, UnnestSpec};
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::{Error, Result};
use crate::planner::graph::{GraphBuilder, NewNode, expression_fingerprint};
use crate::planner::rewrites::asof_node::AsofJoinNode;
use crate::planner::rewrites::switches::DisabledRewrites;
use crate::planner::rewrites::top_n_node::TopNNode;
use crate::planner::rewrites::window_node::WindowAggregateNode;
use crate::types::record_batch::batch_of_rows;

pub use times::TimeFacts;

pub use output::{Destination, Filling, SinkTarget, inferred_fields};
pub use source::ScannedTables;
pub use spread::Spread;

/// Where the rows of a logical node come out.
#[derive(Clone, Debug)]
pub struct Stream {
    pub node: usize,
    pub shape: StreamShape,
    /// Whether its input ends by itself.
    pub bounded: bool,
    /// What decides the subtask of a row, when an exchange does; the same at every parallelism, also where there is but one subtask.
    pub spread: Option<Spread>,
    pub times: TimeFacts,
}

/// Turns the plans of one pipeline into one graph.
pub struct Lowering {
    pub builder: GraphBuilder,
    pub state_ttl_ms: Option<u64>,
    /// For so long after its end a window takes late rows and is emitted again.
    pub allowed_lateness_micros: i64,
    pub disabled_rewrites: DisabledRewrites,
    pub notices: Vec<Notice>,
    /// Some source does not end by itself.
    pub unbounded: bool,
    scans: ScannedTables,
    sources: HashMap<String, Stream>,
}

impl Lowering {
    /// `scans` has seen every plan that will be lowered.
    pub fn new(parallelism: u32, state_ttl_ms: Option<u64>, scans: ScannedTables) -> Lowering {
        Lowering {
            builder: GraphBuilder::new(parallelism),
            state_ttl_ms,
            allowed_lateness_micros: 0,
            disabled_rewrites: DisabledRewrites::new(),
            notices: Vec::new(),
            unbounded: false,
            scans,
            sources: HashMap::new(),
        }
    }

    pub fn lower(&mut self, plan: &LogicalPlan) -> Result<Stream> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Subquery(inner) if inner.outer_ref_columns.is_empty() => self.lower(&inner.subquery),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::EmptyRelation(empty) => self.empty(empty),
            LogicalPlan::Aggregate(aggregate) => self.updating_aggregate(aggregate),
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Extension(extension) => self.extension(extension),
            other => Err(not_continuous(other)),
        }
    }

    fn extension(&mut self, extension: &Extension) -> Result<Stream> {
        let node = extension.node.as_any();
        if let Some(node) = node.downcast_ref::<WindowAggregateNode>() {
            return self.window_aggregate(node);
        }
        if let Some(node) = node.downcast_ref::<TopNNode>() {
            return self.top_n(node);
        }
        if let Some(node) = node.downcast_ref::<AsofJoinNode>() {
            return self.asof_join(node);
        }
        Err(Error::Internal(format!("an unknown node {}", extension.node.name())))
    }

    fn projection(&mut self, projection: &Projection) -> Result<Stream> {
        let input = self.lower(&projection.input)?;
        let expressions = physical_expressions(&projection.expr, projection.input.schema())?;
        let schema = Arc::new(projection.schema.as_arrow().clone());
        let texts = projection.expr.iter().map(shown_expression).collect();
        repeatable(&input, &expressions)?;
        Ok(self.project(input, expressions, schema, texts))
    }

    /// Computes `expressions`; nothing when they are the input's columns in order.
    fn project(
        &mut self,
        input: Stream,
        expressions: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
        texts: Vec<String>,
    ) -> Stream {
        let same = expressions.len() == input.shape.schema.fields().len()
            && expressions
                .iter()
                .enumerate()
                .all(|(index, expr)| column_index(expr) == Some(index));
        if expressions.is_empty() {
            return input;
        }
        if same {
            return Stream {
                shape: StreamShape {
                    schema: renamed(&input.shape.schema, &schema),
                    ..input.shape
                },
                ..input
            };
        }
        let schema = typed(&expressions, &input.shape.schema, &schema);
        let shape = StreamShape {
            unique_key: projected_key(&input, &expressions),
            append_only: input.shape.append_only,
            event_time: input.shape.event_time,
            schema,
        };
        let spread = input.spread.as_ref().and_then(|spread| spread.through(&expressions));
        let fingerprint = fingerprint_of(&expressions, &shape.schema);
        let times = input.times.through(&expressions);
        let node = self.single_input(
            &input,
            OperatorSpec::Project { expressions },
            format!("[{}]", texts.join(", ")),
            fingerprint,
            shape.clone(),
        );
        Stream {
            node,
            shape,
            spread,
            times,
            ..input
        }
    }

    fn filter(&mut self, filter: &Filter) -> Result<Stream> {
        let input = self.lower(&filter.input)?;
        let predicate = physical_expression(&filter.predicate, filter.input.schema())?;
        repeatable(&input, std::slice::from_ref(&predicate))?;
        let fingerprint = expression_fingerprint(&predicate);
        let shape = input.shape.clone();
        let node = self.single_input(
            &input,
            OperatorSpec::Filter { predicate },
            shown_expression(&filter.predicate),
            fingerprint,
            shape,
        );
        Ok(Stream { node, ..input })
    }

    /// A node fused with its only input.
    fn single_input(
        &mut self,
        input: &Stream,
        operator: OperatorSpec,
        description: String,
        fingerprint: String,
        output: StreamShape,
    ) -> usize {
        let parallelism = self.builder.node(input.node).parallelism;
        self.builder.add(NewNode {
            shared: !is_volatile(&operator),
            operator,
            description,
            fingerprint,
            inputs: vec![self.builder.forward(input.node, parallelism)],
            identified_by: None,
            output,
            parallelism,
        })
    }

    fn union(&mut self, union: &Union) -> Result<Stream> {
        let schema = Arc::new(union.schema.as_arrow().clone());
        let mut inputs = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let lowered = self.lower(input)?;
            inputs.push(self.with_types(lowered, &schema)?);
        }
        self.union_of(inputs, schema)
    }

    /// Casts the columns that differ in type.
    fn with_types(&mut self, input: Stream, schema: &SchemaRef) -> Result<Stream> {
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(schema.fields().len());
        for (index, (from, to)) in input.shape.schema.fields().iter().zip(schema.fields()).enumerate() {
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(from.name(), index));
            let cast =
                datafusion::physical_expr::expressions::cast(column, &input.shape.schema, to.data_type().clone());
            expressions.push(cast.map_err(|error| SourceText("").error(error))?);
        }
        let texts = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(self.project(input, expressions, Arc::clone(schema), texts))
    }

    /// All rows of all inputs.
    pub fn union_of(&mut self, mut inputs: Vec<Stream>, schema: SchemaRef) -> Result<Stream> {
        if inputs.len() == 1
            && let Some(only) = inputs.pop()
        {
            return Ok(only);
        }
        let shape = StreamShape {
            schema,
            append_only: inputs.iter().all(|input| input.shape.append_only),
            unique_key: None,
            // Rows without a time beside rows with one would be late or early at random.
            event_time: !inputs.is_empty() && inputs.iter().all(|input| input.shape.event_time),
        };
        let parallelism = self.width_of_union(&inputs);
        let bounded = inputs.iter().all(|input| input.bounded);
        let times = inputs
            .iter()
            .map(|input| input.times.clone())
            .reduce(|all, next| all.or(&next));
        let mut edges: Vec<GraphEdge> = Vec::with_capacity(inputs.len());
        for input in &inputs {
            let from = self.once(input, &edges);
            edges.push(self.builder.spread(from, parallelism));
        }
        let node = self.builder.add(NewNode {
            operator: OperatorSpec::Union,
            description: String::new(),
            fingerprint: fingerprint_of(&[], &shape.schema),
            inputs: edges,
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        Ok(Stream {
            node,
            shape,
            bounded,
            spread: None,
            times: times.unwrap_or_default(),
        })
    }

    /// As wide as its widest input, unless rows without columns would have to be spread, by which nothing can.
    fn width_of_union(&self, inputs: &[Stream]) -> u32 {
        let width = |input: &Stream| self.builder.node(input.node).parallelism;
        let widest = inputs.iter().map(width).max().unwrap_or(1);
        let spreads = inputs.iter().any(|input| width(input) != widest);
        if spreads && inputs.iter().any(|input| input.shape.schema.fields().is_empty()) {
            return 1;
        }
        widest
    }

    /// The node of `input`, behind a Project of its own when it is an input already: one node feeds a union once.
    fn once(&mut self, input: &Stream, edges: &[GraphEdge]) -> usize {
        if edges.iter().all(|edge| edge.from != input.node) {
            return input.node;
        }
        let columns = input.shape.schema.fields().iter().enumerate();
        let expressions: Vec<Arc<dyn PhysicalExpr>> = columns
            .map(|(index, field)| Arc::new(PhysicalColumn::new(field.name(), index)) as Arc<dyn PhysicalExpr>)
            .collect();
        let parallelism = self.builder.node(input.node).parallelism;
        self.builder.add(NewNode {
            operator: OperatorSpec::Project { expressions },
            description: "[*]".into(),
            fingerprint: "again".into(),
            inputs: vec![self.builder.forward(input.node, parallelism)],
            identified_by: None,
            output: input.shape.clone(),
            parallelism,
            shared: false,
        })
    }

    fn unnest(&mut self, unnest: &Unnest) -> Result<Stream> {
        let input = self.lower(&unnest.input)?;
        let columns = unnest_columns(unnest)?;
        let schema = Arc::new(unnest.schema.as_arrow().clone());
        let shape = StreamShape {
            schema,
            append_only: input.shape.append_only,
            unique_key: None,
            event_time: input.shape.event_time,
        };
        let spec = UnnestSpec {
            columns,
            preserve_nulls: unnest.options.preserve_nulls(),
        };
        let fingerprint = format!("{:?} {}", spec.columns, spec.preserve_nulls);
        let shown: Vec<String> = unnest.exec_columns.iter().map(|column| column.name.clone()).collect();
        let node = self.single_input(
            &input,
            OperatorSpec::Unnest(spec),
            format!("[{}]", shown.join(", ")),
            fingerprint,
            shape.clone(),
        );
        Ok(Stream {
            node,
            shape,
            bounded: input.bounded,
            spread: None,
            times: TimeFacts::default(),
        })
    }

    fn values(&mut self, values: &Values) -> Result<Stream> {
        let empty = DFSchema::empty();
        let schema = Arc::new(values.schema.as_arrow().clone());
        let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); schema.fields().len()];
        let row = one_row();
        for exprs in &values.values {
            for ((expr, column), field) in exprs.iter().zip(&mut columns).zip(schema.fields()) {
                column.push(constant(expr, &empty, &row, field.data_type())?);
            }
        }
        let mut arrays = Vec::with_capacity(columns.len());
        for (parts, field) in columns.iter().zip(schema.fields()) {
            let parts: Vec<&dyn arrow::array::Array> = parts.iter().map(AsRef::as_ref).collect();
            let joined = if parts.is_empty() {
                new_null_array(field.data_type(), 0)
            } else {
                arrow::compute::concat(&parts).map_err(arrow_error)?
            };
            arrays.push(joined);
        }
        let rows = batch_of_rows(schema, arrays, values.values.len()).map_err(arrow_error)?;
        Ok(self.rows(rows))
    }

    fn empty(&mut self, empty: &EmptyRelation) -> Result<Stream> {
        let schema = Arc::new(empty.schema.as_arrow().clone());
        let arrays = schema
            .fields()
            .iter()
            .map(|field| new_null_array(field.data_type(), usize::from(empty.produce_one_row)))
            .collect();
        let nullable = Arc::new(Schema::new(
            schema
                .fields()
                .iter()
                .map(|field| field.as_ref().clone().with_nullable(true))
                .collect::<Vec<_>>(),
        ));
        let rows = batch_of_rows(nullable, arrays, usize::from(empty.produce_one_row)).map_err(arrow_error)?;
        Ok(self.rows(rows))
    }

    fn rows(&mut self, rows: RecordBatch) -> Stream {
        let shape = StreamShape {
            schema: rows.schema(),
            append_only: true,
            unique_key: None,
            event_time: false,
        };
        let count = rows.num_rows();
        let fingerprint = format!("{:?}", rows.columns());
        let node = self.builder.add(NewNode {
            operator: OperatorSpec::Values(rows),
            description: format!("{count} {}", if count == 1 { "row" } else { "rows" }),
            fingerprint,
            inputs: Vec::new(),
            identified_by: None,
            output: shape.clone(),
            parallelism: 1,
            shared: false,
        });
        Stream {
            node,
            shape,
            bounded: true,
            spread: None,
            times: TimeFacts::default(),
        }
    }
}

fn not_continuous(plan: &LogicalPlan) -> Error {
    let (what, hint) = match plan {
        LogicalPlan::Subquery(_) => (
            "this LATERAL subquery cannot be turned into a join, which a continuous query needs",
            "Relate it to the tables before it by equalities only, or write it as a join.",
        ),
        LogicalPlan::Sort(_) => (
            "ORDER BY is not supported in a continuous query",
            "Order when you read: SELECT .. FROM the pipeline ORDER BY ..",
        ),
        LogicalPlan::Limit(_) => (
            "LIMIT in a subquery that depends on the query around it is not supported in a continuous query",
            "Rank the rows of each key: ROW_NUMBER() OVER (PARTITION BY key ORDER BY ..) in a subquery, <= n around it.",
        ),
        LogicalPlan::RecursiveQuery(_) => (
            "WITH RECURSIVE in a continuous query is not supported",
            "Recursive queries work over kept results: SELECT .. FROM the pipeline.",
        ),
        _ => (
            "this form of query is not supported in a continuous query",
            "A continuous query can filter, compute, unnest, aggregate, join and UNION ALL.",
        ),
    };
    Error::not_supported(what, hint)
}

fn arrow_error(error: arrow::error::ArrowError) -> Error {
    SourceText("").error(error.into())
}

/// The input of expressions over nothing.
fn one_row() -> RecordBatch {
    batch_of_rows(Arc::new(Schema::empty()), Vec::new(), 1).expect("a batch without columns has no types to disagree")
}

fn constant(expr: &Expr, schema: &DFSchema, row: &RecordBatch, of: &DataType) -> Result<ArrayRef> {
    let physical = physical_expression(expr, schema)?;
    let value = physical
        .evaluate(row)
        .and_then(|value| value.into_array(1))
        .map_err(|error| SourceText("").error(error))?;
    arrow::compute::cast(&value, of).map_err(arrow_error)
}

/// An expression over the columns of `schema`.
pub fn physical_expression(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    create_physical_expr(
        expr,
        schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
    .map_err(|error| SourceText("").error(error))
}

fn physical_expressions(exprs: &[Expr], schema: &DFSchema) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    exprs.iter().map(|expr| physical_expression(expr, schema)).collect()
}

fn column_index(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<PhysicalColumn>().map(PhysicalColumn::index)
}

/// How an expression is shown: without the aliases that the planner made.
fn shown_expression(expr: &Expr) -> String {
    crate::planner::explain::expression(expr)
}

/// The schema with what the expressions really give: types from them, names and metadata from the plan.
fn typed(expressions: &[Arc<dyn PhysicalExpr>], input: &Schema, planned: &SchemaRef) -> SchemaRef {
    let fields: Vec<_> = expressions
        .iter()
        .zip(planned.fields())
        .map(|(expr, field)| {
            let of = expr.data_type(input).unwrap_or_else(|_| field.data_type().clone());
            let nullable = expr.nullable(input).unwrap_or(true);
            field.as_ref().clone().with_data_type(of).with_nullable(nullable)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn renamed(of: &SchemaRef, names: &SchemaRef) -> SchemaRef {
    let fields: Vec<_> = of
        .fields()
        .iter()
        .zip(names.fields())
        .map(|(field, named)| {
            let metadata = named.metadata().clone();
            field.as_ref().clone().with_name(named.name()).with_metadata(metadata)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn fingerprint_of(expressions: &[Arc<dyn PhysicalExpr>], schema: &Schema) -> String {
    let expressions: Vec<String> = expressions.iter().map(expression_fingerprint).collect();
    let types: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    format!("[{}] [{}]", expressions.join("; "), types.join("; "))
}

/// What is computed for a row must be computed again when the row is taken back.
fn repeatable(input: &Stream, expressions: &[Arc<dyn PhysicalExpr>]) -> Result<()> {
    match expressions.iter().find(|expr| is_volatile_expression(expr)) {
        Some(expr) if !input.shape.append_only => Err(Error::not_supported(
            format!("{expr} over rows that change later is not supported: its value cannot be taken back"),
            "Compute it before the aggregate, where rows only come in.",
        )),
        _ => Ok(()),
    }
}

fn is_volatile_expression(expr: &Arc<dyn PhysicalExpr>) -> bool {
    datafusion::physical_expr_common::physical_expr::is_volatile(expr)
}

fn is_volatile(operator: &OperatorSpec) -> bool {
    let volatile = is_volatile_expression;
    match operator {
        OperatorSpec::Filter { predicate } => volatile(predicate),
        OperatorSpec::Project { expressions } => expressions.iter().any(volatile),
        _ => false,
    }
}

/// Whether `expr` is column `column`, or a struct made of it and others: equal structs mean equal columns.
fn stands_for(expr: &Arc<dyn PhysicalExpr>, column: usize) -> bool {
    if column_index(expr) == Some(column) {
        return true;
    }
    let is_struct = expr
        .downcast_ref::<datafusion::physical_expr::ScalarFunctionExpr>()
        .is_some_and(|call| call.name() == "named_struct" || call.name() == "struct");
    is_struct && expr.children().iter().any(|child| column_index(child) == Some(column))
}

/// Where the key's columns went, when all are still there.
fn projected_key(input: &Stream, expressions: &[Arc<dyn PhysicalExpr>]) -> Option<Vec<usize>> {
    let columns = input.shape.unique_key.as_ref()?;
    let mut positions = Vec::with_capacity(columns.len());
    for &column in columns {
        let position = expressions.iter().position(|expr| stands_for(expr, column))?;
        if !positions.contains(&position) {
            positions.push(position);
        }
    }
    Some(positions)
}

fn unnest_columns(unnest: &Unnest) -> Result<Vec<UnnestColumn>> {
    let input = unnest.input.schema();
    let mut columns = Vec::with_capacity(unnest.schema.fields().len());
    let mut last_struct: Option<(usize, usize)> = None;
    for (output, &depends) in unnest.dependency_indices.iter().enumerate() {
        let lists: Vec<_> = unnest
            .list_type_columns
            .iter()
            .filter(|(index, _)| *index == depends)
            .collect();
        if !lists.is_empty() {
            let name = unnest.schema.field(output).name();
            let depth = lists
                .iter()
                .find(|(_, list)| list.output_column.name == *name)
                .or(lists.first())
                .map_or(1, |(_, list)| list.depth);
            columns.push(UnnestColumn::List { input: depends, depth });
        } else if unnest.struct_type_columns.contains(&depends) {
            let field = match last_struct {
                Some((index, field)) if index == depends => field + 1,
                _ => 0,
            };
            last_struct = Some((depends, field));
            columns.push(UnnestColumn::StructField { input: depends, field });
        } else {
            columns.push(UnnestColumn::Repeat { input: depends });
        }
    }
    if columns.len() != unnest.schema.fields().len() || input.fields().is_empty() {
        return Err(Error::Internal("an UNNEST whose columns do not add up".into()));
    }
    Ok(columns)
}
