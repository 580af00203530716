//! Rankings: keys, order and the end of the window as columns, an exchange that brings a partition together, the ranking.
//!
//! What bounds the state is decided here: a ranking of rows that only come in, one of whose keys lies at a known distance from
//! the event time (a window, or a part of one), is over when the watermark says so.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;

use crate::engine::graph::{GraphEdge, OperatorSpec, StreamShape};
use crate::engine::join_spec::Moment;
use crate::engine::operators::top_n::can_rank;
use crate::engine::order_column::OrderColumn;
use crate::engine::top_n_spec::{RankFunction, TopNBound, TopNSpec};
use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::{Error, Result};
use crate::planner::explain;
use crate::planner::functions::window::{END, START};
use crate::planner::graph::NewNode;
use crate::planner::physical::times::{Distance, TimeFacts};
use crate::planner::physical::{Lowering, Spread, Stream, column_index, physical_expression, repeatable};
use crate::planner::rewrites::text_literal;
use crate::planner::rewrites::top_n_node::TopNNode;

/// The columns of the input, and what is computed for the ranking behind them.
struct Columns<'a> {
    node: &'a TopNNode,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    fields: Vec<Field>,
    /// For people.
    texts: Vec<String>,
}

/// A key that says when the partition is over.
struct Window {
    column: usize,
    /// From the event time of its rows.
    distance: Distance,
}

impl<'a> Columns<'a> {
    fn new(node: &'a TopNNode, input: &Schema) -> Columns<'a> {
        let mut columns = Columns {
            node,
            expressions: Vec::new(),
            fields: Vec::new(),
            texts: Vec::new(),
        };
        for (at, field) in input.fields().iter().enumerate() {
            columns
                .expressions
                .push(Arc::new(PhysicalColumn::new(field.name(), at)));
            columns.fields.push(field.as_ref().clone());
            columns.texts.push(explain::column_name(field.name()));
        }
        columns
    }

    /// Where the value of `expr` is.
    fn of(&mut self, expr: &Expr) -> Result<usize> {
        let schema = self.node.input.schema();
        let expr = expr.clone().unalias();
        let physical = physical_expression(&expr, schema)?;
        if let Some(column) = column_index(&physical) {
            return Ok(column);
        }
        if let Some(known) = self.expressions.iter().position(|known| known == &physical) {
            return Ok(known);
        }
        let (_, field) = expr
            .to_field(schema.as_ref())
            .map_err(|error| SourceText("").error(error))?;
        self.fields
            .push(field.as_ref().clone().with_name(expr.schema_name().to_string()));
        self.texts.push(explain::expression(&expr));
        self.expressions.push(physical);
        Ok(self.expressions.len() - 1)
    }
}

impl Lowering {
    pub(super) fn top_n(&mut self, node: &TopNNode) -> Result<Stream> {
        let input = self.lower(&node.input)?;
        let mut columns = Columns::new(node, &input.shape.schema);
        let keys = node.partition_by.iter().map(|expr| columns.of(expr));
        let keys = keys.collect::<Result<Vec<usize>>>()?;
        let mut order = Vec::with_capacity(node.order_by.len());
        for sort in &node.order_by {
            let column = columns.of(&sort.expr)?;
            check_order(columns.fields[column].data_type(), &sort.expr)?;
            order.push(OrderColumn {
                column,
                descending: !sort.asc,
                nulls_first: sort.nulls_first,
            });
        }
        let window = window_of(&input, &mut columns)?;
        repeatable(&input, &columns.expressions)?;
        let Columns {
            expressions,
            fields,
            texts,
            ..
        } = columns;
        let width = input.shape.schema.fields().len();
        let logical_width = node.input.schema().fields().len();
        let stream = self.project(input, expressions, Arc::new(Schema::new(fields)), texts);
        check_types(&stream.shape.schema)?;
        let bound = match &window {
            Some(window) => TopNBound::Window(Moment {
                column: window.column,
                offset_micros: 1i64.saturating_sub(window.distance.least),
            }),
            None => TopNBound::Kept {
                ttl_ms: self.state_ttl_ms,
            },
        };
        let spec = TopNSpec {
            function: node.function,
            keys,
            order,
            first: node.first,
            last: node.last,
            // A node without columns may carry some, which the rank may not come after.
            columns: if node.rank.is_some() { logical_width } else { width },
            shows_rank: node.rank.is_some(),
            append_only_input: stream.shape.append_only,
            bound,
        };
        self.notice_partitions(&stream, &spec, node);
        self.top_n_node(stream, spec, window, node)
    }

    fn top_n_node(
        &mut self,
        stream: Stream,
        spec: TopNSpec,
        window: Option<Window>,
        node: &TopNNode,
    ) -> Result<Stream> {
        let shape = StreamShape {
            schema: output_schema(&stream.shape.schema, &spec, node),
            append_only: window.is_some(),
            unique_key: unique_key(&stream, &spec),
            event_time: window.is_some(),
        };
        let is_together = stream.spread.as_ref().is_some_and(|spread| spread.is_by(&spec.keys));
        let wide = self.builder.node(stream.node).parallelism;
        let (edge, parallelism): (GraphEdge, u32) = if is_together {
            (self.builder.forward(stream.node, wide), wide)
        } else {
            self.builder.keyed(stream.node, spec.keys.clone())
        };
        let is_shown = spec.keys.iter().all(|&key| key < spec.columns);
        let spread = Spread::by(&spec.keys).filter(|_| is_shown);
        let times = match &window {
            Some(window) => {
                times_after(&stream.times, window).moved(|column| (column < spec.columns).then_some(column))
            }
            None => TimeFacts::default(),
        };
        let description = description(&spec, node);
        let fingerprint = fingerprint(&spec, &stream.shape.schema);
        let index = self.builder.add(NewNode {
            operator: OperatorSpec::TopN(spec),
            description,
            fingerprint,
            inputs: vec![edge],
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        Ok(Stream {
            node: index,
            shape,
            bounded: stream.bounded,
            spread,
            times,
        })
    }

    fn notice_partitions(&mut self, stream: &Stream, spec: &TopNSpec, node: &TopNNode) {
        let keys: Vec<String> = node.partition_by.iter().map(explain::expression).collect();
        let keys = keys.join(", ");
        let message = match (&spec.bound, spec.append_only_input) {
            (TopNBound::Window(_), _) | (TopNBound::Kept { ttl_ms: Some(_) }, _) => return,
            _ if stream.bounded => return,
            (_, true) if spec.keys.is_empty() => return,
            (_, true) => format!("the ranking keeps the first rows of every value of ({keys}) for ever"),
            // What is ranked comes from an operator that says by itself what it keeps.
            (_, false) if spec.keys.is_empty() => return,
            (_, false) => format!("the ranking keeps all rows of every value of ({keys}) until they are taken back"),
        };
        self.notices.push(Notice {
            code: SqlState::SUCCESSFUL_COMPLETION,
            message,
            hint: Some(
                "Say WITH (state_ttl = '1 day') or SET updating_ttl = '1 day' to forget keys untouched for that long, or \
                 PARTITION BY a window, too."
                    .into(),
            ),
        });
    }
}

/// Intervals have no order that both engines agree on: a month is 30 days in Postgres, and longer than all days here.
pub(super) fn check_order(of: &DataType, expr: &Expr) -> Result<()> {
    if matches!(of, DataType::Interval(_)) {
        return Err(Error::not_supported(
            format!("ranking by the interval {} is not supported", explain::expression(expr)),
            "Rank by its length: ORDER BY EXTRACT(EPOCH FROM ..).",
        ));
    }
    Ok(())
}

pub(super) fn check_types(schema: &SchemaRef) -> Result<()> {
    if can_rank(schema) {
        return Ok(());
    }
    let single = |field: &&Arc<Field>| !can_rank(&Schema::new(vec![Arc::clone(field)]));
    let field = schema.fields().iter().find(single);
    let name = field.map_or(String::new(), |field| explain::column_name(field.name()));
    Err(Error::not_supported(
        format!("ranking rows with column \"{name}\" is not supported: its type has no order"),
        "Leave the column out, or cast it to TEXT.",
    ))
}

/// The key that tells most exactly when a partition is over.
fn window_of(input: &Stream, columns: &mut Columns<'_>) -> Result<Option<Window>> {
    if !input.shape.append_only || !input.shape.event_time {
        return Ok(None);
    }
    let node = columns.node;
    let mut best: Option<Window> = None;
    for expr in node.partition_by.iter().flat_map(with_parts) {
        let physical = match physical_expression(&expr, node.input.schema()) {
            Ok(physical) => physical,
            // Not a struct, or one without such a field.
            Err(_) => continue,
        };
        let Some(distance) = input.times.of(&physical) else {
            continue;
        };
        let slack = |distance: Distance| distance.most.saturating_sub(distance.least);
        if best.as_ref().is_none_or(|best| slack(distance) < slack(best.distance)) {
            let column = columns.of(&expr)?;
            let is_time = matches!(
                columns.fields[column].data_type(),
                DataType::Timestamp(TimeUnit::Microsecond, _)
            );
            if is_time {
                best = Some(Window { column, distance });
            }
        }
    }
    Ok(best)
}

/// A key, and the bounds of the window that it may be.
fn with_parts(expr: &Expr) -> Vec<Expr> {
    let expr = expr.clone().unalias();
    let mut parts = Vec::new();
    match &expr {
        Expr::ScalarFunction(call) if call.name() == "named_struct" => {
            let bounds = call.args.chunks_exact(2);
            parts.extend(
                bounds
                    .filter(|pair| text_literal(&pair[0]).is_some())
                    .map(|pair| pair[1].clone()),
            );
        }
        _ => parts.extend([get_field(expr.clone(), END), get_field(expr.clone(), START)]),
    }
    parts.push(expr);
    parts
}

/// What is known of the columns when their rows get the last moment of the window as event time.
fn times_after(before: &TimeFacts, window: &Window) -> TimeFacts {
    let slack = window.distance.most.saturating_sub(window.distance.least);
    let mut times = before.map(|distance| distance.widened(slack, 0));
    times.note(window.column, Distance::exactly(window.distance.least));
    times
}

fn output_schema(input: &SchemaRef, spec: &TopNSpec, node: &TopNNode) -> SchemaRef {
    let mut fields: Vec<Field> = input.fields()[..spec.columns]
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields.extend(node.rank.iter().map(|(_, field)| field.as_ref().clone()));
    Arc::new(Schema::new(fields))
}

/// The columns that tell the ranked rows apart.
fn unique_key(stream: &Stream, spec: &TopNSpec) -> Option<Vec<usize>> {
    let is_shown = |columns: &[usize]| columns.iter().all(|&column| column < spec.columns);
    let is_numbered = spec.function == RankFunction::RowNumber && is_shown(&spec.keys);
    if is_numbered && spec.first == spec.last {
        return Some(spec.keys.clone());
    }
    if is_numbered && spec.shows_rank {
        return Some(spec.keys.iter().copied().chain([spec.columns]).collect());
    }
    stream.shape.unique_key.clone().filter(|key| is_shown(key))
}

fn description(spec: &TopNSpec, node: &TopNNode) -> String {
    let keys: Vec<String> = node.partition_by.iter().map(explain::expression).collect();
    let order: Vec<String> = node
        .order_by
        .iter()
        .map(|sort| {
            let direction = if sort.asc { "" } else { " DESC" };
            // Postgres's default goes without saying.
            let nulls = match (sort.asc, sort.nulls_first) {
                (true, true) => " NULLS FIRST",
                (false, false) => " NULLS LAST",
                _ => "",
            };
            format!("{}{direction}{nulls}", explain::expression(&sort.expr))
        })
        .collect();
    let rank = if spec.shows_rank { "shown" } else { "hidden" };
    let rows = match (spec.append_only_input, spec.function) {
        (false, _) => "all rows".to_owned(),
        (true, RankFunction::RowNumber) => format!("{} {}", spec.last, if spec.last == 1 { "row" } else { "rows" }),
        (true, _) => format!("rows up to rank {}", spec.last),
    };
    let of = if spec.keys.is_empty() { "" } else { " of each key" };
    let until = match &spec.bound {
        TopNBound::Window(_) => " in open windows".to_owned(),
        TopNBound::Kept { ttl_ms: Some(ttl) } if !spec.keys.is_empty() => {
            let micros = i64::try_from(ttl.saturating_mul(1000)).unwrap_or(i64::MAX);
            format!(" for {}", explain::duration(micros))
        }
        TopNBound::Kept { .. } => String::new(),
    };
    format!(
        "{} keys=[{}] order=[{}] rank={rank} keeps=[{rows}{of}{until}]",
        node.bounds(),
        keys.join(", "),
        order.join(", "),
    )
}

/// What decides the state of a ranking, and what it shows.
fn fingerprint(spec: &TopNSpec, input: &Schema) -> String {
    let bound = match &spec.bound {
        TopNBound::Kept { ttl_ms } => format!("kept stamped={}", ttl_ms.is_some()),
        TopNBound::Window(moment) => format!("{moment:?}"),
    };
    let types: Vec<String> = input
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    format!(
        "{:?} {:?} {:?} {}..={} {} {} {} {bound} [{}]",
        spec.function,
        spec.keys,
        spec.order,
        spec.first,
        spec.last,
        spec.columns,
        spec.shows_rank,
        spec.append_only_input,
        types.join("; "),
    )
}
