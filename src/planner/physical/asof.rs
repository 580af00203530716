//! ASOF joins: what has to be known of the times of both sides so that a row can be answered once and for all.
//!
//! Soundness: the compared times must be within known bounds of the event times, so that the watermark tells when all versions up
//! to a moment have come; and no row of either side may change later. The output is the left rows, each once, with their event
//! time and all that is known of their columns.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::cast;

use crate::engine::asof_spec::{AsofForm, AsofInput, AsofJoinSpec};
use crate::engine::graph::{OperatorSpec, StreamShape};
use crate::engine::join_spec::{JoinColumn, Side};
use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::{Error, Result};
use crate::planner::explain;
use crate::planner::graph::{NewNode, expression_fingerprint};
use crate::planner::physical::join::{Wanted, residual};
use crate::planner::physical::lookup_join::looked_up;
use crate::planner::physical::times::Distance;
use crate::planner::physical::{Lowering, Spread, Stream, is_volatile_expression, physical_expression};
use crate::planner::rewrites::asof_node::AsofJoinNode;
use crate::planner::rewrites::join::equality;

/// What the condition says of times.
struct Times {
    at_same_time: bool,
    /// What is compared of each side; the right side of a temporal join by its event time.
    sides: [Option<Compared>; 2],
}

struct Compared {
    expr: Expr,
    physical: Arc<dyn PhysicalExpr>,
    distance: Distance,
}

/// Both inputs with their keys and times as columns.
struct Inputs {
    streams: [Stream; 2],
    keys: [Vec<usize>; 2],
    times: [Option<usize>; 2],
    null_equal: Vec<bool>,
}

impl Lowering {
    pub(super) fn asof_join(&mut self, node: &AsofJoinNode) -> Result<Stream> {
        if let Some(table) = looked_up(&node.right) {
            return Err(Error::not_supported(
                format!("lookup table \"{}\" has no other version than that of now", table.name),
                "Say FOR SYSTEM_TIME AS OF now(), or nothing.",
            )
            .at(node.position));
        }
        let streams = [self.lower(&node.left)?, self.lower(&node.right)?];
        self.lower_asof(node, streams).map_err(|error| error.at(node.position))
    }

    fn lower_asof(&mut self, node: &AsofJoinNode, streams: [Stream; 2]) -> Result<Stream> {
        require_sides(node, &streams)?;
        let times = times_of(node, &streams)?;
        let inputs = self.asof_inputs(node, &times, streams)?;
        let combined = DFSchema::join(node.left.schema(), node.right.schema());
        let combined = combined.map_err(|error| SourceText("").error(error))?;
        let rest = node.residual.iter().flat_map(split_conjunction);
        let rest = rest
            .map(|expr| physical_expression(expr, &combined))
            .collect::<Result<Vec<_>>>()?;
        if let Some(volatile) = rest.iter().find(|expr| is_volatile_expression(expr)) {
            return Err(Error::not_supported(
                format!("{volatile} in an ASOF join is not supported: a restart would answer differently"),
                "Filter the result of the join by it.",
            ));
        }
        let distances = times.sides.each_ref().map(distance_of);
        let [left, right] = distances;
        let ahead = left.least.min(right.least);
        let input = |side: Side| {
            let at = side.index();
            AsofInput {
                schema: Arc::clone(&inputs.streams[at].shape.schema),
                keys: inputs.keys[at].clone(),
                time: inputs.times[at],
                late_rows: self.table_that_keeps_late_rows(inputs.streams[at].node),
            }
        };
        let ttl_micros = self
            .state_ttl_ms
            .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000));
        let spec = AsofJoinSpec {
            form: node.form,
            inputs: Side::BOTH.map(input),
            null_equal: inputs.null_equal.clone(),
            at_same_time: times.at_same_time,
            outer: node.outer,
            residual: residual(&rest, node.left_width(), &inputs.streams)?,
            output: output_columns(node, &inputs.streams),
            ahead_micros: ahead,
            hold_micros: left.most.saturating_sub(ahead).max(0),
            ttl_micros,
        };
        self.notice_kept_versions(node, &inputs);
        self.asof_node(node, spec, inputs)
    }

    fn asof_inputs(&mut self, node: &AsofJoinNode, times: &Times, streams: [Stream; 2]) -> Result<Inputs> {
        let mut wanted: [Vec<Wanted>; 2] = [Vec::new(), Vec::new()];
        let mut null_equal = Vec::with_capacity(node.keys.len());
        for key in &node.keys {
            let Some((left, right, equal)) = equality(key, &node.left, &node.right) else {
                return Err(Error::Internal(format!("{key} is no key of an ASOF join")));
            };
            let one = physical_expression(&left, node.left.schema())?;
            let other = physical_expression(&right, node.right.schema())?;
            let of = one.data_type(&streams[0].shape.schema);
            let of = of.map_err(|error| SourceText("").error(error))?;
            let other = cast(other, &streams[1].shape.schema, of).map_err(|error| SourceText("").error(error))?;
            wanted[0].push((one, explain::expression(&left)));
            wanted[1].push((other, explain::expression(&right)));
            null_equal.push(equal);
        }
        let keys = null_equal.len();
        for (wanted, compared) in wanted.iter_mut().zip(&times.sides) {
            let time = |of: &Compared| (Arc::clone(&of.physical), explain::expression(&of.expr));
            wanted.extend(compared.as_ref().map(time));
        }
        let [left, right] = streams;
        let [for_left, for_right] = wanted;
        let (left, left_columns) = self.with_columns(left, for_left)?;
        let (right, right_columns) = self.with_columns(right, for_right)?;
        let columns = [left_columns, right_columns];
        Ok(Inputs {
            streams: [left, right],
            times: columns.each_ref().map(|columns| columns.get(keys).copied()),
            keys: columns.map(|columns| columns[..keys].to_vec()),
            null_equal,
        })
    }

    fn asof_node(&mut self, node: &AsofJoinNode, spec: AsofJoinSpec, inputs: Inputs) -> Result<Stream> {
        let split = node.left_width();
        let mut edges = Vec::with_capacity(2);
        let mut parallelism = 1;
        for (stream, keys) in inputs.streams.iter().zip(&inputs.keys) {
            let (edge, wide) = self.join_edge(stream, keys);
            edges.push(edge);
            parallelism = wide;
        }
        let [left, right] = &inputs.streams;
        let shape = StreamShape {
            schema: Arc::new(output_schema(node, &spec, &inputs.streams)),
            append_only: true,
            unique_key: left
                .shape
                .unique_key
                .clone()
                .filter(|key| key.iter().all(|&column| column < split)),
            event_time: true,
        };
        let is_shown = inputs.keys[0].iter().all(|&key| key < split);
        let spread = Spread::by(&inputs.keys[0]).filter(|_| is_shown);
        let times = left.times.moved(|column| (column < split).then_some(column));
        let bounded = left.bounded && right.bounded;
        let index = self.builder.add(NewNode {
            description: description(node, &spec),
            fingerprint: fingerprint(&spec, &shape.schema),
            operator: OperatorSpec::AsofJoin(Box::new(spec)),
            inputs: edges,
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        Ok(Stream {
            node: index,
            shape,
            bounded,
            spread,
            times,
        })
    }

    fn notice_kept_versions(&mut self, node: &AsofJoinNode, inputs: &Inputs) {
        if self.state_ttl_ms.is_some() || inputs.streams[1].bounded || node.keys.is_empty() {
            return;
        }
        self.notices.push(Notice {
            code: SqlState::SUCCESSFUL_COMPLETION,
            message: format!("the {} on ({}) keeps the last version of every key for ever", word(node), keys_text(node)),
            hint: Some(
                "Say WITH (state_ttl = '1 day') or SET updating_ttl = '1 day' to forget versions that much older than the watermark; \
                 rows later than that find none."
                    .into(),
            ),
        });
    }
}

fn word(node: &AsofJoinNode) -> &'static str {
    match node.form {
        AsofForm::Temporal => "temporal join",
        AsofForm::Asof => "ASOF join",
    }
}

fn require_sides(node: &AsofJoinNode, streams: &[Stream; 2]) -> Result<()> {
    let [left, right] = streams;
    let word = word(node);
    let article = if node.form == AsofForm::Asof { "an" } else { "a" };
    if !left.shape.append_only {
        return Err(Error::not_supported(
            format!("{article} {word} whose left side changes later is not supported"),
            "Join the rows before they are aggregated, or aggregate by windows, whose results do not change.",
        ));
    }
    if !right.shape.append_only {
        return Err(Error::not_supported(
            format!("{article} {word} whose right side changes later is not supported: it has no versions by time"),
            "Use a plain JOIN, whose result follows the changes; or join the stream that the right side is made of.",
        ));
    }
    for (stream, side) in streams.iter().zip(["left", "right"]) {
        if !stream.shape.event_time {
            return Err(Error::not_supported(
                format!("{article} {word} needs event time, which its {side} side does not have"),
                "Declare it in CREATE TABLE: WATERMARK FOR column AS (column - INTERVAL '5 seconds'). The kept result of another \
                 pipeline has none: make a view of that pipeline's query.",
            ));
        }
    }
    Ok(())
}

fn times_of(node: &AsofJoinNode, streams: &[Stream; 2]) -> Result<Times> {
    let (left, right) = (&node.left, &node.right);
    if node.form == AsofForm::Temporal {
        let over_left = node
            .times
            .column_refs()
            .iter()
            .all(|column| left.schema().has_column(column));
        if !over_left {
            return Err(not_by_time(&node.times, "the left side"));
        }
        return Ok(Times {
            at_same_time: true,
            sides: [Some(compared(&node.times, left.schema(), &streams[0])?), None],
        });
    }
    let (one, op, other) = comparison(node)?;
    let at_same_time = match op {
        Operator::GtEq => true,
        Operator::Gt => false,
        _ => {
            return Err(Error::not_supported(
                "an ASOF join with the next row after the time is not supported in a continuous query",
                "Match the last row up to the time: MATCH_CONDITION (a.ts >= b.ts), where a is the left side.",
            ));
        }
    };
    let sides = [
        Some(compared(&one, left.schema(), &streams[0])?),
        Some(compared(&other, right.schema(), &streams[1])?),
    ];
    Ok(Times { at_same_time, sides })
}

/// The comparison of times as `left <op> right`.
fn comparison(node: &AsofJoinNode) -> Result<(Expr, Operator, Expr)> {
    node.comparison().ok_or_else(|| {
        Error::not_supported(
            format!(
                "\"{}\" does not compare a time of each side",
                explain::expression(&node.times)
            ),
            "Compare the event times of the two sides: MATCH_CONDITION (a.ts >= b.ts).",
        )
    })
}

fn compared(expr: &Expr, schema: &DFSchema, stream: &Stream) -> Result<Compared> {
    let physical = physical_expression(expr, schema)?;
    let of = physical.data_type(&stream.shape.schema);
    let is_time = of.is_ok_and(|of| matches!(of, DataType::Timestamp(TimeUnit::Microsecond, _)));
    match stream.times.of(&physical).filter(|_| is_time) {
        Some(distance) => Ok(Compared {
            expr: expr.clone(),
            physical,
            distance,
        }),
        None => Err(not_by_time(expr, "its side")),
    }
}

fn not_by_time(expr: &Expr, of: &str) -> Error {
    Error::not_supported(
        format!(
            "an ASOF join by \"{}\" is not supported in a continuous query: it is not the event time of {of}",
            explain::expression(expr)
        ),
        "Compare the columns of WATERMARK FOR, or these plus or minus a constant interval; that they go on tells when a row can be \
         answered.",
    )
}

fn distance_of(compared: &Option<Compared>) -> Distance {
    compared.as_ref().map_or(Distance::ZERO, |compared| compared.distance)
}

fn output_columns(node: &AsofJoinNode, streams: &[Stream; 2]) -> Vec<JoinColumn> {
    let of = |side, columns: usize| (0..columns).map(move |column| JoinColumn { side, column });
    let left = of(Side::Left, node.left_width());
    let right = of(Side::Right, node.right.schema().fields().len());
    let columns: Vec<JoinColumn> = left.chain(right).collect();
    // Rows of nothing cannot travel.
    if columns.is_empty() && !streams[0].shape.schema.fields().is_empty() {
        return of(Side::Left, 1).collect();
    }
    columns
}

fn output_schema(node: &AsofJoinNode, spec: &AsofJoinSpec, streams: &[Stream; 2]) -> Schema {
    let mut fields: Vec<Field> = Vec::with_capacity(spec.output.len());
    for (at, of) in spec.output.iter().enumerate() {
        let field = streams[of.side.index()].shape.schema.field(of.column);
        let named = node.schema.fields().get(at).map_or(field, |named| named.as_ref());
        let nullable = field.is_nullable() || (node.outer && of.side == Side::Right);
        let typed = named.clone().with_data_type(field.data_type().clone());
        fields.push(typed.with_nullable(nullable));
    }
    Schema::new(fields)
}

fn keys_text(node: &AsofJoinNode) -> String {
    let key = |key: &Expr| match equality(key, &node.left, &node.right) {
        Some((left, right, null_equal)) => {
            let [left, right] = [left, right].map(|expr| explain::expression(&expr));
            let word = if null_equal { "IS NOT DISTINCT FROM" } else { "=" };
            match left == right && !null_equal {
                true => left,
                false => format!("{left} {word} {right}"),
            }
        }
        None => explain::expression(key),
    };
    node.keys.iter().map(key).collect::<Vec<_>>().join(", ")
}

fn description(node: &AsofJoinNode, spec: &AsofJoinSpec) -> String {
    let kind = if node.outer { "left" } else { "inner" };
    let mut text = format!("{kind} on=[{}]", keys_text(node));
    text.push_str(&match (node.form, node.comparison()) {
        (AsofForm::Asof, Some((left, op, right))) => {
            let [left, right] = [left, right].map(|expr| explain::expression(&expr));
            format!(" match=[{left} {op} {right}]")
        }
        _ => format!(" as_of=[{}]", explain::expression(&node.times)),
    });
    if let Some(residual) = &node.residual {
        text.push_str(&format!(" where=[{}]", explain::expression(residual)));
    }
    text.push_str(&match spec.ttl_micros {
        None => " keeps=[one version a key]".to_owned(),
        Some(ttl) => format!(" keeps=[one version a key for {}]", explain::duration(ttl)),
    });
    text
}

/// What decides the state and the results.
fn fingerprint(spec: &AsofJoinSpec, output: &Schema) -> String {
    let types = |schema: &Schema| {
        let types: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| field.data_type().to_string())
            .collect();
        types.join("; ")
    };
    let side = |input: &AsofInput| format!("{:?} {:?} [{}]", input.keys, input.time, types(&input.schema));
    let residual = spec.residual.as_ref().map(|residual| {
        let predicate = expression_fingerprint(&residual.predicate);
        format!("{predicate} {:?}", residual.columns)
    });
    format!(
        "{} | {} | {:?} {} {} {residual:?} {:?} {} {} {:?} [{}]",
        side(&spec.inputs[0]),
        side(&spec.inputs[1]),
        spec.null_equal,
        spec.at_same_time,
        spec.outer,
        spec.output,
        spec.ahead_micros,
        spec.hold_micros,
        spec.ttl_micros,
        types(output),
    )
}
