//! Joins: what the condition asks of keys, of times and of the rest, and how the rows of a key reach one subtask.
//!
//! Keys and times become columns of their side by a Project. What follows from the condition about the output (whether its rows
//! ever change, which columns identify one, where its event time is) is decided here; see `join_bound` for the state.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr as LogicalBinary, Expr, ExprSchemable, Join, LogicalPlan, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column as PhysicalColumn, cast};
use datafusion::physical_expr::utils::collect_columns;

use crate::engine::graph::{Exchange, GraphEdge, OperatorSpec, StreamShape};
use crate::engine::join_spec::{
    JoinBound, JoinColumn, JoinInput, JoinKind, JoinSpec, Moment, Residual, RowMoments, Side, TimeBound, TimeShape,
};
use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::{Error, Result};
use crate::planner::explain;
use crate::planner::functions::checked_arithmetic;
use crate::planner::functions::window::{END, START, window_type};
use crate::planner::graph::{NewNode, expression_fingerprint};
use crate::planner::physical::join_bound::{self, Bound, DoneAt, time_conditions};
use crate::planner::physical::times::Place;
use crate::planner::physical::{
    Lowering, Spread, Stream, TimeFacts, column_index, is_volatile_expression, physical_expression, repeatable,
};
use crate::planner::rewrites::join::equality;
use crate::planner::rewrites::switches::Rewrite;

/// An equality between an expression over the left and one over the right side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeyPair {
    pub sides: [Expr; 2],
    pub null_equal: bool,
}

/// The condition of a join, taken apart.
#[derive(Default)]
struct Condition {
    keys: Vec<KeyPair>,
    rest: Vec<Expr>,
}

/// A value that is to be a column, and what to call it.
pub(super) type Wanted = (Arc<dyn PhysicalExpr>, String);

/// Both inputs with their keys as columns.
struct Inputs {
    streams: [Stream; 2],
    keys: [Vec<usize>; 2],
    null_equal: Vec<bool>,
}

impl Lowering {
    pub(super) fn join(&mut self, join: &Join) -> Result<Stream> {
        if let Some(joined) = self.lookup_join(join)? {
            return Ok(joined);
        }
        let kind = kind_of(join)?;
        let condition = Condition::of(join)?;
        let combined = join
            .left
            .schema()
            .join(join.right.schema())
            .map_err(|error| SourceText("").error(error))?;
        let rest = condition
            .rest
            .iter()
            .map(|expr| physical_expression(expr, &combined))
            .collect::<Result<Vec<_>>>()?;
        let mut inputs = self.inputs(join, &condition)?;
        refuse_volatile(&inputs.streams, &rest)?;
        let split = join.left.schema().fields().len();
        let found = match self.disabled_rewrites.contains(&Rewrite::JoinBounds) {
            true => None,
            false => bound_of(&inputs, &rest, split),
        };
        let bound = match &found {
            Some(found) => JoinBound::Time(self.time_bound(&mut inputs, found, kind)?),
            None => {
                require_keys(&inputs)?;
                self.notice_join(&inputs, &condition);
                JoinBound::Kept {
                    ttl_ms: self.state_ttl_ms,
                }
            }
        };
        let spec = JoinSpec {
            kind,
            residual: residual(&rest, split, &inputs.streams)?,
            output: output_columns(join, kind, &inputs.streams),
            inputs: Side::BOTH.map(|side| JoinInput {
                schema: Arc::clone(&inputs.streams[side.index()].shape.schema),
                keys: inputs.keys[side.index()].clone(),
                append_only: inputs.streams[side.index()].shape.append_only,
            }),
            null_equal: inputs.null_equal.clone(),
            bound,
        };
        let shape = output_shape(join, &spec, &inputs.streams, found.as_ref());
        let times = output_times(&spec, &shape, &inputs.streams, found.as_ref());
        let description = description(&spec, &condition, found.as_ref());
        self.join_node(spec, inputs, shape, times, description)
    }

    fn inputs(&mut self, join: &Join, condition: &Condition) -> Result<Inputs> {
        let left = self.lower(&join.left)?;
        let right = self.lower(&join.right)?;
        let mut expressions: [Vec<Arc<dyn PhysicalExpr>>; 2] = [Vec::new(), Vec::new()];
        for pair in &condition.keys {
            let one = physical_expression(&pair.sides[0], join.left.schema())?;
            let other = physical_expression(&pair.sides[1], join.right.schema())?;
            let of = one
                .data_type(&left.shape.schema)
                .map_err(|error| SourceText("").error(error))?;
            let other = cast(other, &right.shape.schema, of.clone()).map_err(|error| SourceText("").error(error))?;
            expressions[0].push(one);
            expressions[1].push(other);
        }
        let named = |at: usize| -> Vec<Wanted> {
            let texts = condition.keys.iter().map(|pair| explain::expression(&pair.sides[at]));
            expressions[at].iter().cloned().zip(texts).collect()
        };
        let (left, left_keys) = self.with_columns(left, named(0))?;
        let (right, right_keys) = self.with_columns(right, named(1))?;
        Ok(Inputs {
            streams: [left, right],
            keys: [left_keys, right_keys],
            null_equal: condition.keys.iter().map(|pair| pair.null_equal).collect(),
        })
    }

    /// `stream` with a column for each of `wanted` that is not one already, and where each is.
    pub(super) fn with_columns(&mut self, stream: Stream, wanted: Vec<Wanted>) -> Result<(Stream, Vec<usize>)> {
        let schema = Arc::clone(&stream.shape.schema);
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            expressions.push(Arc::new(PhysicalColumn::new(field.name(), index)));
        }
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut places = Vec::with_capacity(wanted.len());
        for (expression, name) in wanted {
            let same = |known: &Arc<dyn PhysicalExpr>| known.as_ref() == expression.as_ref();
            let known = column_index(&expression).or_else(|| expressions.iter().position(same));
            places.push(match known {
                Some(index) => index,
                None => {
                    let of = expression
                        .data_type(&schema)
                        .map_err(|error| SourceText("").error(error))?;
                    fields.push(Field::new(name, of, true));
                    expressions.push(expression);
                    expressions.len() - 1
                }
            });
        }
        if expressions.len() == schema.fields().len() {
            return Ok((stream, places));
        }
        repeatable(&stream, &expressions)?;
        let texts = fields.iter().map(|field| explain::column_name(field.name())).collect();
        Ok((
            self.project(stream, expressions, Arc::new(Schema::new(fields)), texts),
            places,
        ))
    }

    fn time_bound(&mut self, inputs: &mut Inputs, bound: &Bound, kind: JoinKind) -> Result<TimeBound> {
        let mut rows = Vec::with_capacity(2);
        for (at, done) in bound.rows.iter().enumerate() {
            let stream = inputs.streams[at].clone();
            let mut wanted = Vec::with_capacity(2);
            for place in [&done.place, &done.late] {
                let expression = place_expression(&stream.shape.schema, place)?;
                wanted.push((expression, place_name(&stream.shape.schema, place)));
            }
            let (stream, columns) = self.with_columns(stream, wanted)?;
            inputs.streams[at] = stream;
            let moment = |column: usize, offset_micros| Moment { column, offset_micros };
            rows.push(RowMoments {
                done: moment(columns[0], done.offset),
                late: moment(columns[1], done.late_offset),
            });
        }
        let rows = <[RowMoments; 2]>::try_from(rows).map_err(|_| Error::Internal("a join has two sides".into()))?;
        // Rows that come out by themselves do so when they are done: after the watermark has passed them.
        let held = Side::BOTH.iter().filter(|side| kind.counts(**side)).map(|side| {
            let after = bound.rows[side.index()].after.unwrap_or(1);
            after.saturating_sub(1).max(0)
        });
        let is_window = |done: &DoneAt| done.after.is_some() && done.offset == done.late_offset;
        let shape = if bound.rows.iter().all(is_window) {
            TimeShape::Window
        } else {
            TimeShape::Interval
        };
        Ok(TimeBound {
            shape,
            rows,
            hold_micros: held.max().unwrap_or(0),
        })
    }

    fn join_node(
        &mut self,
        spec: JoinSpec,
        inputs: Inputs,
        shape: StreamShape,
        times: TimeFacts,
        description: String,
    ) -> Result<Stream> {
        let mut edges = Vec::with_capacity(2);
        let mut parallelism = 1;
        for (stream, keys) in inputs.streams.iter().zip(&inputs.keys) {
            let (edge, wide) = self.join_edge(stream, keys);
            edges.push(edge);
            parallelism = wide;
        }
        let spread = output_spread(&spec);
        let bounded = inputs.streams.iter().all(|stream| stream.bounded);
        let node = self.builder.add(NewNode {
            fingerprint: fingerprint(&spec, &shape.schema),
            operator: OperatorSpec::Join(Box::new(spec)),
            description,
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
            spread,
            times,
        })
    }

    /// The hash of exactly the keys decides where a row is.
    pub(super) fn join_edge(&self, stream: &Stream, keys: &[usize]) -> (GraphEdge, u32) {
        let (edge, parallelism) = self.builder.keyed(stream.node, keys.to_vec());
        let here = self.builder.node(stream.node).parallelism == parallelism;
        if here && stream.spread.as_ref().is_some_and(|spread| spread.is_by(keys)) {
            let exchange = Exchange::Forward;
            return (GraphEdge { exchange, ..edge }, parallelism);
        }
        (edge, parallelism)
    }

    fn notice_join(&mut self, inputs: &Inputs, condition: &Condition) {
        if self.state_ttl_ms.is_some() || inputs.streams.iter().all(|stream| stream.bounded) {
            return;
        }
        let on: Vec<String> = condition.keys.iter().map(KeyPair::text).collect();
        let which = match on.as_slice() {
            [] => "the join with one row".to_owned(),
            on => format!("the join on ({})", on.join(" AND ")),
        };
        self.notices.push(Notice {
            code: SqlState::SUCCESSFUL_COMPLETION,
            message: format!("{which} keeps every row of both sides for ever"),
            hint: Some(
                "Say WITH (state_ttl = '1 day') or SET updating_ttl = '1 day' to forget rows after that long, or bound the time \
                 between rows in the condition: a.ts BETWEEN b.ts - INTERVAL '1 hour' AND b.ts."
                    .into(),
            ),
        });
    }
}

/// The equalities of a join's condition, and the rest of it.
pub(super) fn condition_of(join: &Join) -> Result<(Vec<KeyPair>, Vec<Expr>)> {
    let Condition { keys, rest } = Condition::of(join)?;
    Ok((keys, rest))
}

impl KeyPair {
    pub(super) fn text(&self) -> String {
        let [left, right] = self.sides.each_ref().map(explain::expression);
        let word = if self.null_equal { "IS NOT DISTINCT FROM" } else { "=" };
        if left == right && !self.null_equal {
            left
        } else {
            format!("{left} {word} {right}")
        }
    }
}

impl Condition {
    fn of(join: &Join) -> Result<Condition> {
        let mut condition = Condition::default();
        let null_equal = join.null_equality == NullEquality::NullEqualsNull;
        for (left, right) in &join.on {
            condition.add_key(join, left.clone(), right.clone(), null_equal)?;
        }
        for conjunct in join.filter.iter().flat_map(split_conjunction) {
            match equality(conjunct, &join.left, &join.right) {
                Some((left, right, null_equal)) => condition.add_key(join, left, right, null_equal)?,
                None if *conjunct == Expr::Literal(true.into(), None) => {}
                None => condition.rest.push(conjunct.clone()),
            }
        }
        Ok(condition)
    }

    /// Two windows are equal when their starts and their ends are: so their times are known.
    fn add_key(&mut self, join: &Join, left: Expr, right: Expr, null_equal: bool) -> Result<()> {
        let of = left
            .get_type(join.left.schema().as_ref())
            .map_err(|error| SourceText("").error(error))?;
        let sides: Vec<[Expr; 2]> = if is_window(&of) && !null_equal {
            [START, END]
                .map(|field| [get_field(left.clone(), field), get_field(right.clone(), field)])
                .into()
        } else {
            vec![[left, right]]
        };
        for sides in sides {
            let pair = KeyPair { sides, null_equal };
            if !self.keys.contains(&pair) {
                self.keys.push(pair);
            }
        }
        Ok(())
    }
}

fn is_window(of: &DataType) -> bool {
    let names = |of: &DataType| match of {
        DataType::Struct(fields) => fields
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect(),
        _ => Vec::new(),
    };
    !names(of).is_empty() && names(of) == names(&window_type())
}

fn kind_of(join: &Join) -> Result<JoinKind> {
    if join.null_aware && !keys_are_never_null(join) {
        return Err(Error::not_supported(
            "NOT IN over a column that may be NULL is not supported in a continuous query",
            "Use NOT EXISTS (SELECT .. WHERE inner.column = outer.column); it does not stop at NULLs.",
        ));
    }
    Ok(match join.join_type {
        JoinType::Inner => JoinKind::Inner,
        JoinType::Left => JoinKind::Left,
        JoinType::Right => JoinKind::Right,
        JoinType::Full => JoinKind::Full,
        JoinType::LeftSemi => JoinKind::Semi(Side::Left),
        JoinType::RightSemi => JoinKind::Semi(Side::Right),
        JoinType::LeftAnti => JoinKind::Anti(Side::Left),
        JoinType::RightAnti => JoinKind::Anti(Side::Right),
        JoinType::LeftMark => JoinKind::Mark(Side::Left),
        JoinType::RightMark => JoinKind::Mark(Side::Right),
    })
}

/// Whether the columns that `NOT IN` compares are filtered by IS NOT NULL, or declared so.
fn keys_are_never_null(join: &Join) -> bool {
    let pairs = join.on.iter().cloned().chain(
        join.filter
            .iter()
            .flat_map(split_conjunction)
            .filter_map(|conjunct| equality(conjunct, &join.left, &join.right))
            .map(|(left, right, _)| (left, right)),
    );
    let mut pairs = pairs.peekable();
    pairs.peek().is_some()
        && pairs.all(|(left, right)| never_null(&left, &join.left) && never_null(&right, &join.right))
}

fn never_null(expr: &Expr, plan: &LogicalPlan) -> bool {
    if expr.nullable(plan.schema().as_ref()).is_ok_and(|nullable| !nullable) {
        return true;
    }
    let column = match expr {
        Expr::Column(column) => column,
        Expr::BinaryExpr(LogicalBinary { left, op, right }) => {
            let keeps = matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply);
            return keeps && never_null(left, plan) && never_null(right, plan);
        }
        Expr::Cast(cast) => return never_null(&cast.expr, plan),
        Expr::ScalarFunction(call) => {
            return checked_arithmetic::replaced(call).is_some_and(|written| never_null(&written, plan));
        }
        _ => return false,
    };
    let Some(index) = plan.schema().maybe_index_of_column(column) else {
        return false;
    };
    let below = |plan: &LogicalPlan| Expr::Column(plan.schema().qualified_field(index).into());
    match plan {
        LogicalPlan::Filter(filter) => {
            let says_so = |conjunct: &&Expr| matches!(conjunct, Expr::IsNotNull(inner) if inner.as_ref() == expr);
            split_conjunction(&filter.predicate).iter().any(says_so) || never_null(expr, &filter.input)
        }
        LogicalPlan::SubqueryAlias(alias) => never_null(&below(&alias.input), &alias.input),
        LogicalPlan::Projection(projection) => never_null(&projection.expr[index].clone().unalias(), &projection.input),
        _ => false,
    }
}

/// What is computed of a pair must be the same when the pair is taken back.
fn refuse_volatile(streams: &[Stream; 2], rest: &[Arc<dyn PhysicalExpr>]) -> Result<()> {
    let grows = streams.iter().all(|stream| stream.shape.append_only);
    match rest.iter().find(|expr| is_volatile_expression(expr)) {
        Some(expr) if !grows => Err(Error::not_supported(
            format!("{expr} in a join of rows that change later is not supported: its value cannot be taken back"),
            "Compute it in a subquery, where rows only come in.",
        )),
        _ => Ok(()),
    }
}

/// At most one row at any moment: the result of a global aggregate.
fn is_one_row(stream: &Stream) -> bool {
    stream.shape.unique_key.as_ref().is_some_and(Vec::is_empty)
}

fn require_keys(inputs: &Inputs) -> Result<()> {
    if !inputs.keys[0].is_empty() || inputs.streams.iter().any(is_one_row) {
        return Ok(());
    }
    Err(Error::not_supported(
        "a join without an equality between its sides is not supported in a continuous query",
        "Join ON a.column = b.column, or bound the time between rows: ON a.ts BETWEEN b.ts - INTERVAL '1 minute' AND b.ts. \
         A subquery in an expression must be an aggregate without GROUP BY, or be related by an equality.",
    ))
}

fn bound_of(inputs: &Inputs, rest: &[Arc<dyn PhysicalExpr>], split: usize) -> Option<Bound> {
    let mut conditions = time_conditions(rest, split);
    let keys = inputs.keys[0].iter().zip(&inputs.keys[1]).zip(&inputs.null_equal);
    for ((&left, &right), _) in keys.filter(|(_, null_equal)| !**null_equal) {
        let place = |column| Place { column, field: None };
        conditions.push(join_bound::TimeCondition {
            left: place(left),
            right: place(right),
            least: Some(0),
            most: Some(0),
        });
    }
    let is_time = |stream: &Stream, place: &Place| {
        place_expression(&stream.shape.schema, place)
            .and_then(|expr| {
                expr.data_type(&stream.shape.schema)
                    .map_err(|error| SourceText("").error(error))
            })
            .is_ok_and(|of| matches!(of, DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _)))
    };
    let [left, right] = &inputs.streams;
    conditions.retain(|condition| is_time(left, &condition.left) && is_time(right, &condition.right));
    join_bound::bound(&conditions, &left.times, &right.times)
}

fn place_name(schema: &SchemaRef, place: &Place) -> String {
    let column = explain::column_name(schema.field(place.column).name());
    match &place.field {
        Some(field) => format!("{column}.{field}"),
        None => column,
    }
}

fn place_expression(schema: &SchemaRef, place: &Place) -> Result<Arc<dyn PhysicalExpr>> {
    let name = schema
        .fields()
        .get(place.column)
        .map(|field| field.name().clone())
        .ok_or_else(|| Error::Internal("a column of a join is not there".into()))?;
    match &place.field {
        None => Ok(Arc::new(PhysicalColumn::new(&name, place.column))),
        Some(field) => {
            let over = DFSchema::from_unqualified_fields(
                [schema.field(place.column).clone().with_name("of")]
                    .into_iter()
                    .map(Arc::new)
                    .collect(),
                Default::default(),
            )
            .map_err(|error| SourceText("").error(error))?;
            let column = datafusion::common::Column::new_unqualified("of");
            let expression = physical_expression(&get_field(Expr::Column(column), field.as_str()), &over)?;
            moved(expression, |_| place.column)
        }
    }
}

/// The expression with its columns at other places.
fn moved(expression: Arc<dyn PhysicalExpr>, to: impl Fn(usize) -> usize) -> Result<Arc<dyn PhysicalExpr>> {
    expression
        .transform_down(|node| {
            let index = node.downcast_ref::<PhysicalColumn>().map(PhysicalColumn::index);
            Ok(match index {
                Some(index) => {
                    let index = to(index);
                    Transformed::yes(Arc::new(PhysicalColumn::new(&format!("c{index}"), index)) as Arc<dyn PhysicalExpr>)
                }
                None => Transformed::no(node),
            })
        })
        .data()
        .map_err(|error| SourceText("").error(error))
}

pub(super) fn residual(
    rest: &[Arc<dyn PhysicalExpr>],
    split: usize,
    streams: &[Stream; 2],
) -> Result<Option<Residual>> {
    let and = |one, other| Arc::new(BinaryExpr::new(one, Operator::And, other)) as Arc<dyn PhysicalExpr>;
    let Some(all) = rest.iter().cloned().reduce(and) else {
        return Ok(None);
    };
    let mut used: Vec<usize> = collect_columns(&all).iter().map(PhysicalColumn::index).collect();
    used.sort_unstable();
    used.dedup();
    let columns: Vec<JoinColumn> = used
        .iter()
        .map(|&column| match column.checked_sub(split) {
            None => JoinColumn {
                side: Side::Left,
                column,
            },
            Some(column) => JoinColumn {
                side: Side::Right,
                column,
            },
        })
        .collect();
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(at, of)| {
            let field = streams[of.side.index()].shape.schema.field(of.column);
            field.clone().with_name(format!("c{at}"))
        })
        .collect();
    let predicate = moved(all, |column| used.iter().position(|&of| of == column).unwrap_or(column))?;
    Ok(Some(Residual {
        predicate,
        columns,
        schema: Arc::new(Schema::new(fields)),
    }))
}

/// The side of which a semi, anti or mark join shows rows; left for the others.
fn side_shown(kind: JoinKind) -> Side {
    match kind {
        JoinKind::Semi(side) | JoinKind::Anti(side) | JoinKind::Mark(side) => side,
        _ => Side::Left,
    }
}

fn output_columns(join: &Join, kind: JoinKind, streams: &[Stream; 2]) -> Vec<JoinColumn> {
    let of = |side: Side| {
        let plan = if side == Side::Left { &join.left } else { &join.right };
        (0..plan.schema().fields().len()).map(move |column| JoinColumn { side, column })
    };
    let columns: Vec<JoinColumn> = if kind.has_pairs() {
        of(Side::Left).chain(of(Side::Right)).collect()
    } else {
        of(side_shown(kind)).collect()
    };
    // Rows of nothing cannot travel.
    let side = side_shown(kind);
    if columns.is_empty() && !kind.is_mark() && !streams[side.index()].shape.schema.fields().is_empty() {
        return vec![JoinColumn { side, column: 0 }];
    }
    columns
}

fn output_position(spec: &JoinSpec, wanted: JoinColumn) -> Option<usize> {
    spec.output.iter().position(|column| *column == wanted)
}

fn output_shape(join: &Join, spec: &JoinSpec, streams: &[Stream; 2], found: Option<&Bound>) -> StreamShape {
    let mut fields: Vec<Field> = Vec::with_capacity(spec.output.len() + 1);
    for (at, of) in spec.output.iter().enumerate() {
        let field = streams[of.side.index()].shape.schema.field(of.column);
        let named = join.schema.fields().get(at).map_or(field, |named| named.as_ref());
        let nullable = field.is_nullable() || spec.kind.pads(of.side);
        let typed = named.clone().with_data_type(field.data_type().clone());
        fields.push(typed.with_nullable(nullable));
    }
    if spec.kind.is_mark() {
        let name = join
            .schema
            .fields()
            .last()
            .map_or("mark", |field| field.name().as_str());
        fields.push(Field::new(name, DataType::Boolean, false));
    }
    let grows = streams.iter().all(|stream| stream.shape.append_only);
    let timed = streams.iter().all(|stream| stream.shape.event_time);
    let append_only = grows && (found.is_some() || matches!(spec.kind, JoinKind::Inner | JoinKind::Semi(_)));
    let event_time = timed
        && match found {
            // How late a row may be that comes out by itself must be known.
            Some(found) => Side::BOTH
                .iter()
                .all(|side| !spec.kind.counts(*side) || found.rows[side.index()].after.is_some()),
            None => grows && spec.kind == JoinKind::Inner,
        };
    StreamShape {
        schema: Arc::new(Schema::new(fields)),
        append_only,
        unique_key: unique_key(spec, streams),
        event_time,
    }
}

/// Columns that tell joined rows apart. A side whose own key is part of the join's gives each partner one row at most.
fn unique_key(spec: &JoinSpec, streams: &[Stream; 2]) -> Option<Vec<usize>> {
    let own = |side: Side| streams[side.index()].shape.unique_key.as_ref();
    let gives_one = |side: Side| {
        own(side).is_some_and(|key| key.iter().all(|column| spec.inputs[side.index()].keys.contains(column)))
    };
    let sides: Vec<Side> = match spec.kind {
        JoinKind::Semi(side) | JoinKind::Anti(side) | JoinKind::Mark(side) => vec![side],
        // Rows without a partner on either side may have the same NULLs.
        JoinKind::Full => return None,
        JoinKind::Inner | JoinKind::Left if gives_one(Side::Right) => vec![Side::Left],
        JoinKind::Inner | JoinKind::Right if gives_one(Side::Left) => vec![Side::Right],
        JoinKind::Inner | JoinKind::Left | JoinKind::Right => Side::BOTH.to_vec(),
    };
    let mut key = Vec::new();
    for side in sides {
        for &column in own(side)? {
            let position = output_position(spec, JoinColumn { side, column })
                .or_else(|| output_position(spec, equal_column(spec, side, column)?))?;
            if !key.contains(&position) {
                key.push(position);
            }
        }
    }
    Some(key)
}

/// Joined rows are where the hash of the keys sent those of either side; of the keys of a side that is padded the output has NULLs instead.
fn output_spread(spec: &JoinSpec) -> Option<Spread> {
    let shows = |side: Side| match spec.kind {
        JoinKind::Semi(of) | JoinKind::Anti(of) | JoinKind::Mark(of) => of == side,
        _ => !spec.kind.pads(side),
    };
    let sides: Vec<Side> = Side::BOTH.into_iter().filter(|&side| shows(side)).collect();
    let places = |at: usize| {
        let column = |&side: &Side| {
            let column = spec.inputs[side.index()].keys[at];
            output_position(spec, JoinColumn { side, column })
        };
        sides.iter().filter_map(column).collect()
    };
    Spread::by_values((0..spec.null_equal.len()).map(places).collect())
}

/// The column of the other side that an inner join makes equal.
fn equal_column(spec: &JoinSpec, side: Side, column: usize) -> Option<JoinColumn> {
    let at = spec.inputs[side.index()].keys.iter().position(|&key| key == column)?;
    (spec.kind == JoinKind::Inner).then(|| JoinColumn {
        side: side.other(),
        column: spec.inputs[side.other().index()].keys[at],
    })
}

/// What is known of times of joined rows, whose event time is the later of both.
fn output_times(spec: &JoinSpec, shape: &StreamShape, streams: &[Stream; 2], found: Option<&Bound>) -> TimeFacts {
    let Some(apart) = found.filter(|_| shape.event_time).and_then(|found| found.apart) else {
        return TimeFacts::default();
    };
    let of = |side: Side| {
        // How much later the partner can be.
        let later = match side {
            Side::Left => apart.most,
            Side::Right => apart.least.saturating_neg(),
        };
        let later = if spec.kind.has_pairs() { later.max(0) } else { 0 };
        let facts = streams[side.index()].times.map(|distance| distance.widened(later, 0));
        let facts = facts.moved(|column| output_position(spec, JoinColumn { side, column }));
        // A column that may be NULL in its place says nothing.
        if spec.kind.pads(side) {
            TimeFacts::default()
        } else {
            facts
        }
    };
    of(Side::Left).and(of(Side::Right))
}

/// How long rows are kept after their event time: done at `after`, that is, when nothing comes at `after - 1` any more.
fn shown_duration(after: i64) -> String {
    match after.saturating_sub(1) {
        0 => "0 s".into(),
        // A condition with `<` instead of `<=`.
        _ if after % 1000 == 0 => explain::duration(after),
        inclusive => explain::duration(inclusive),
    }
}

fn description(spec: &JoinSpec, condition: &Condition, found: Option<&Bound>) -> String {
    let keys: Vec<String> = condition.keys.iter().map(KeyPair::text).collect();
    let mut text = format!("{} on=[{}]", spec.kind.word(), keys.join(", "));
    if !condition.rest.is_empty() {
        let rest: Vec<String> = condition.rest.iter().map(explain::expression).collect();
        text.push_str(&format!(" where=[{}]", rest.join(", ")));
    }
    let micros = |micros: u64| explain::duration(i64::try_from(micros).unwrap_or(i64::MAX));
    text.push_str(&match (&spec.bound, found) {
        (JoinBound::Kept { ttl_ms: None }, _) => " keeps=[all rows]".into(),
        (JoinBound::Kept { ttl_ms: Some(ttl) }, _) => format!(" keeps=[rows for {}]", micros(ttl.saturating_mul(1000))),
        (JoinBound::Time(time), _) if time.shape == TimeShape::Window => " keeps=[open windows]".into(),
        (JoinBound::Time(_), found) => {
            let side = |at: usize| match found.and_then(|found| found.rows[at].after) {
                Some(after) => shown_duration(after),
                None => "until a column says".into(),
            };
            format!(" keeps=[left {}, right {}]", side(0), side(1))
        }
    });
    text
}

/// What decides the state of a join.
fn fingerprint(spec: &JoinSpec, output: &Schema) -> String {
    let side = |input: &JoinInput| {
        let types: Vec<String> = input
            .schema
            .fields()
            .iter()
            .map(|field| field.data_type().to_string())
            .collect();
        format!("{:?} [{}] append={}", input.keys, types.join("; "), input.append_only)
    };
    let residual = spec.residual.as_ref().map(|residual| {
        let predicate = expression_fingerprint(&residual.predicate);
        format!("{predicate} {:?}", residual.columns)
    });
    let bound = match &spec.bound {
        JoinBound::Kept { ttl_ms } => format!("kept stamped={}", ttl_ms.is_some()),
        JoinBound::Time(time) => format!("{time:?}"),
    };
    let types: Vec<String> = output
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    format!(
        "{:?} {} | {} {:?} {residual:?} {:?} {bound} [{}]",
        spec.kind,
        side(&spec.inputs[0]),
        side(&spec.inputs[1]),
        spec.null_equal,
        spec.output,
        types.join("; "),
    )
}
