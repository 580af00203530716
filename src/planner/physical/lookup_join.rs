//! Joins with a lookup table: which side it is, whether the condition covers its key, and what of it is asked for.
//!
//! Filters and projections between the table and the join work on answered rows, so they are part of the join. An equality with
//! a cast of the table's column becomes one with a value of the column's own type: what does not fit that type equals nothing.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Join, LogicalPlan, Operator, TableScan, binary_expr, cast, lit, try_cast, when,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;

use crate::engine::graph::{Exchange, GraphEdge, OperatorSpec, StreamShape};
use crate::engine::lookup_join_spec::LookupJoinSpec;
use crate::error::{ErrorReport, SqlState};
use crate::planner::bind::lookup_tables::LookupTable;
use crate::planner::bind::positions::SourceText;
use crate::planner::error::{Error, Result};
use crate::planner::explain;
use crate::planner::graph::{NewNode, expression_fingerprint};
use crate::planner::physical::join::{KeyPair, condition_of};
use crate::planner::physical::{Lowering, Stream, is_volatile_expression, physical_expression};

/// A side of a join that is a lookup table, behind filters and projections only.
struct LookupSide<'a> {
    table: &'a LookupTable,
    /// The side's columns, over the connector's.
    columns: Vec<Expr>,
    /// Over the connector's columns.
    filters: Vec<Expr>,
}

/// The stream's side of a join and the table's.
struct Sides<'a> {
    stream: &'a LogicalPlan,
    lookup: LookupSide<'a>,
    /// The table comes first in the output.
    swapped: bool,
}

/// The equalities that give the key, in its order, and the rest of the condition.
struct LookupCondition {
    keys: Vec<Expr>,
    /// What the key's values are called.
    names: Vec<String>,
    /// The equalities as they stand in the condition.
    shown: Vec<String>,
    rest: Vec<Expr>,
}

impl Lowering {
    /// `None`: neither side is a lookup table.
    pub(super) fn lookup_join(&mut self, join: &Join) -> Result<Option<Stream>> {
        let (left, right) = (lookup_side(&join.left)?, lookup_side(&join.right)?);
        let sides = match (left, right) {
            (None, None) => return Ok(None),
            (None, Some(lookup)) => Sides {
                stream: &join.left,
                lookup,
                swapped: false,
            },
            (Some(lookup), None) => Sides {
                stream: &join.right,
                lookup,
                swapped: true,
            },
            (Some(left), Some(_)) => {
                return Err(Error::not_supported(
                    format!(
                        "lookup table \"{}\" cannot be joined to another lookup table",
                        left.table.name
                    ),
                    "Join the stream to one, and the result to the other.",
                ));
            }
        };
        let is_left = keeps_all_rows(join, &sides)?;
        let condition = LookupCondition::of(join, &sides)?;
        let input = self.lower(sides.stream)?;
        require_growing(&input, &sides.lookup)?;
        let joined = self.lookup_node(join, &sides, input, condition, is_left)?;
        Ok(Some(if sides.swapped {
            self.turned_round(join, &sides, joined)?
        } else {
            joined
        }))
    }

    fn lookup_node(
        &mut self,
        join: &Join,
        sides: &Sides<'_>,
        input: Stream,
        condition: LookupCondition,
        is_left: bool,
    ) -> Result<Stream> {
        let stream_schema = sides.stream.schema();
        let keys = condition.keys.iter().zip(&condition.names).map(|(key, shown)| {
            let physical = physical_expression(key, stream_schema)?;
            Ok((physical, shown.clone()))
        });
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let (input, keys) = self.with_columns(input, keys)?;
        let asked = Asked::of(&sides.lookup)?;
        let shape = output_shape(join, sides, &input, &asked, is_left)?;
        let combined = match sides.swapped {
            false => stream_schema.join(join.right.schema()),
            true => stream_schema.join(join.left.schema()),
        };
        let combined = combined.map_err(planning)?;
        let residual = conjunction(condition.rest.clone());
        let residual = residual.map(|rest| physical_expression(&rest, &combined)).transpose()?;
        let table = sides.lookup.table;
        let spec = LookupJoinSpec {
            table_name: table.name.clone(),
            table: Arc::clone(&table.table),
            options: table.options,
            left: is_left,
            keys,
            key: Arc::new(
                table
                    .connector_schema
                    .project(&table.key)
                    .map_err(|error| planning(error.into()))?,
            ),
            columns: Arc::clone(&asked.schema),
            filter: asked.filter,
            projection: asked.projection,
            input_columns: stream_schema.fields().len(),
            residual,
        };
        let description = description(&spec, &condition, &sides.lookup);
        let parallelism = self.builder.node(input.node).parallelism;
        let node = self.builder.add(NewNode {
            fingerprint: fingerprint(&spec, table, &shape.schema),
            operator: OperatorSpec::LookupJoin(Box::new(spec)),
            description,
            inputs: vec![GraphEdge {
                from: input.node,
                exchange: Exchange::Forward,
            }],
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        let columns = stream_schema.fields().len();
        let spread = input.spread.and_then(|spread| spread.within_first(columns));
        Ok(Stream {
            node,
            shape,
            bounded: input.bounded,
            spread,
            times: input.times.moved(|column| (column < columns).then_some(column)),
        })
    }

    /// The table's columns first.
    fn turned_round(&mut self, join: &Join, sides: &Sides<'_>, joined: Stream) -> Result<Stream> {
        let stream_columns = sides.stream.schema().fields().len();
        let table_columns = sides.lookup.columns.len();
        let order = (stream_columns..stream_columns + table_columns).chain(0..stream_columns);
        let schema = Arc::clone(&joined.shape.schema);
        let expressions: Vec<Arc<dyn PhysicalExpr>> = order
            .map(|column| Arc::new(PhysicalColumn::new(schema.field(column).name(), column)) as Arc<dyn PhysicalExpr>)
            .collect();
        let planned: SchemaRef = Arc::new(join.schema.as_arrow().clone());
        let texts = planned.fields().iter().map(|field| explain::column_name(field.name()));
        let texts = texts.collect();
        Ok(self.project(joined, expressions, planned, texts))
    }
}

/// What is asked of the table's connector, and what is made of the answer.
struct Asked {
    schema: SchemaRef,
    filter: Option<Arc<dyn PhysicalExpr>>,
    projection: Vec<Arc<dyn PhysicalExpr>>,
}

impl Asked {
    fn of(side: &LookupSide<'_>) -> Result<Asked> {
        let all = &side.table.connector_schema;
        let mut used: Vec<usize> = Vec::new();
        for column in side.columns.iter().chain(&side.filters).flat_map(Expr::column_refs) {
            used.extend(all.index_of(&column.name).ok());
        }
        used.sort_unstable();
        used.dedup();
        if used.is_empty() {
            used.extend(side.table.key.first());
        }
        let schema: SchemaRef = Arc::new(all.project(&used).map_err(|error| planning(error.into()))?);
        let over = DFSchema::try_from(schema.as_ref().clone()).map_err(planning)?;
        let filter = conjunction(side.filters.clone());
        let asked = Asked {
            filter: filter.map(|filter| physical_expression(&filter, &over)).transpose()?,
            projection: side
                .columns
                .iter()
                .map(|column| physical_expression(column, &over))
                .collect::<Result<Vec<_>>>()?,
            schema,
        };
        let volatile = asked
            .projection
            .iter()
            .chain(&asked.filter)
            .find(|expr| is_volatile_expression(expr));
        match volatile {
            Some(expr) => Err(Error::not_supported(
                format!("{expr} over the rows of a lookup table is not supported: an answer serves many rows"),
                "Compute it after the join.",
            )),
            None => Ok(asked),
        }
    }
}

/// The table and what is done to its rows; `None` when the plan has no lookup table at its end.
fn lookup_side(plan: &LogicalPlan) -> Result<Option<LookupSide<'_>>> {
    match plan {
        LogicalPlan::TableScan(scan) => Ok(scanned(scan)),
        LogicalPlan::SubqueryAlias(alias) => lookup_side(&alias.input),
        LogicalPlan::Projection(projection) => {
            let Some(mut side) = lookup_side(&projection.input)? else {
                return Ok(None);
            };
            let over = projection.input.schema();
            let columns = projection
                .expr
                .iter()
                .map(|expr| over_connector(expr, over, &side.columns));
            side.columns = columns.collect::<Result<Vec<_>>>()?;
            Ok(Some(side))
        }
        LogicalPlan::Filter(filter) => {
            let Some(mut side) = lookup_side(&filter.input)? else {
                return Ok(None);
            };
            side.filters
                .push(over_connector(&filter.predicate, filter.input.schema(), &side.columns)?);
            Ok(Some(side))
        }
        _ => Ok(None),
    }
}

/// The lookup table that the rows of `plan` are of, if they are.
pub fn looked_up(plan: &LogicalPlan) -> Option<&LookupTable> {
    match plan {
        LogicalPlan::TableScan(scan) => scan.source.downcast_ref::<LookupTable>(),
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Projection(_) | LogicalPlan::Filter(_) => {
            plan.inputs().first().and_then(|input| looked_up(input))
        }
        _ => None,
    }
}

fn scanned(scan: &TableScan) -> Option<LookupSide<'_>> {
    let table = scan.source.downcast_ref::<LookupTable>()?;
    let columns = match &scan.projection {
        Some(columns) => columns.iter().map(|&column| table.columns[column].clone()).collect(),
        None => table.columns.clone(),
    };
    Some(LookupSide {
        table,
        columns,
        filters: Vec::new(),
    })
}

/// The expression with each column replaced by what it is made of.
fn over_connector(expr: &Expr, schema: &DFSchema, columns: &[Expr]) -> Result<Expr> {
    expr.clone()
        .unalias()
        .transform_down(|node| {
            let index = match &node {
                Expr::Column(column) => schema.maybe_index_of_column(column),
                _ => None,
            };
            Ok(match index {
                // What stands there is over other columns: it is not looked at again.
                Some(index) => Transformed::new(columns[index].clone(), true, TreeNodeRecursion::Jump),
                None => Transformed::no(node),
            })
        })
        .data()
        .map_err(planning)
}

fn keeps_all_rows(join: &Join, sides: &Sides<'_>) -> Result<bool> {
    match (join.join_type, sides.swapped) {
        (JoinType::Inner, _) => Ok(false),
        (JoinType::Left, false) | (JoinType::Right, true) => Ok(true),
        _ => Err(Error::not_supported(
            format!(
                "lookup table \"{}\" can only be joined by INNER and LEFT JOIN",
                sides.lookup.table.name
            ),
            "Nobody knows all of its rows: write FROM stream LEFT JOIN table ON .., and filter by IS NULL or IS NOT NULL \
             instead of NOT EXISTS, EXISTS and IN.",
        )),
    }
}

/// What was looked up for a row is not kept, so it could not be taken back with the row.
fn require_growing(input: &Stream, side: &LookupSide<'_>) -> Result<()> {
    if input.shape.append_only {
        return Ok(());
    }
    Err(Error::not_supported(
        format!(
            "lookup table \"{}\" cannot be joined to rows that change later",
            side.table.name
        ),
        "Join it to the stream first and aggregate the result, or keep a copy of the table in a table of Laminar and join that.",
    ))
}

impl LookupCondition {
    fn of(join: &Join, sides: &Sides<'_>) -> Result<LookupCondition> {
        let (pairs, mut rest) = condition_of(join)?;
        let (stream, table) = if sides.swapped { (1, 0) } else { (0, 1) };
        let lookup_schema = [&join.left, &join.right][table].schema();
        let mut found: Vec<Option<(Expr, String)>> = vec![None; sides.lookup.table.key.len()];
        let mut names = vec![String::new(); found.len()];
        for pair in pairs {
            let column = over_connector(&pair.sides[table], lookup_schema, &sides.lookup.columns)?;
            let place = (!pair.null_equal)
                .then(|| key_place(&column, sides.lookup.table))
                .flatten();
            match place.filter(|place| found[*place].is_none()) {
                Some(place) => {
                    let value = key_value(&pair.sides[stream], &column, sides)?;
                    names[place] = explain::expression(&pair.sides[stream]);
                    found[place] = Some((value, pair.text()));
                }
                None => rest.push(as_condition(&pair)),
            }
        }
        let missing = found.iter().position(Option::is_none);
        if let Some(missing) = missing {
            return Err(uncovered(sides.lookup.table, missing));
        }
        let (keys, shown) = found.into_iter().flatten().unzip();
        Ok(LookupCondition {
            keys,
            names,
            shown,
            rest,
        })
    }
}

/// The pair as it stood in the condition.
fn as_condition(pair: &KeyPair) -> Expr {
    let [left, right] = pair.sides.clone();
    let operator = if pair.null_equal {
        Operator::IsNotDistinctFrom
    } else {
        Operator::Eq
    };
    binary_expr(left, operator, right)
}

/// Which column of the key it is, also behind a cast to a wider type.
fn key_place(column: &Expr, table: &LookupTable) -> Option<usize> {
    let column = match column {
        Expr::Cast(cast) => cast.expr.as_ref(),
        plain => plain,
    };
    let Expr::Column(column) = column else {
        return None;
    };
    let index = table.connector_schema.index_of(&column.name).ok()?;
    table.key.iter().position(|key| *key == index)
}

/// The stream's value in the type of the key's column, NULL when nothing of that type equals it.
fn key_value(value: &Expr, column: &Expr, sides: &Sides<'_>) -> Result<Expr> {
    let table = sides.lookup.table;
    let Some(place) = key_place(column, table) else {
        return Err(Error::Internal("a key of a lookup table is not one".into()));
    };
    let field = table.connector_schema.field(table.key[place]);
    let compared = value.get_type(sides.stream.schema().as_ref()).map_err(planning)?;
    if compared == *field.data_type() {
        return Ok(value.clone());
    }
    if !keeps_values_apart(field.data_type(), &compared) {
        return Err(Error::not_supported(
            format!(
                "column \"{}\" of lookup table \"{}\" cannot be looked up by a value of another type",
                field.name(),
                table.name
            ),
            format!("Cast the value to the column's type: value::{}.", shown_type(field)),
        ));
    }
    let narrowed = try_cast(value.clone(), field.data_type().clone());
    let same = cast(narrowed.clone(), compared).eq(value.clone());
    when(same, narrowed)
        .otherwise(lit(ScalarValue::try_from(field.data_type()).map_err(planning)?))
        .map_err(planning)
}

fn shown_type(field: &Field) -> String {
    crate::types::SqlType::from_arrow_field(field).map_or_else(|| "TEXT".to_owned(), |of| of.to_sql())
}

/// Whether two different values of `from` are different as `to`.
fn keeps_values_apart(from: &DataType, to: &DataType) -> bool {
    let bits = |of: &DataType| match of {
        DataType::Int8 | DataType::UInt8 => Some(8),
        DataType::Int16 | DataType::UInt16 => Some(16),
        DataType::Int32 | DataType::UInt32 => Some(32),
        DataType::Int64 | DataType::UInt64 => Some(64),
        _ => None,
    };
    match (bits(from), to) {
        (Some(_), DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale)) => *scale >= 0,
        (Some(from), to) => bits(to).is_some_and(|to| to >= from),
        (None, DataType::Float64) => *from == DataType::Float32,
        (None, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
            matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        }
        (None, DataType::Timestamp(_, _)) => *from == DataType::Date32,
        (None, DataType::Decimal128(_, to)) => matches!(from, DataType::Decimal128(_, from) if to >= from),
        _ => false,
    }
}

fn uncovered(table: &LookupTable, missing: usize) -> Error {
    let key: Vec<&str> = table
        .key
        .iter()
        .map(|&column| table.connector_schema.field(column).name().as_str())
        .collect();
    let message = format!(
        "the join's condition does not give column \"{}\" of the primary key of lookup table \"{}\"",
        key[missing], table.name
    );
    let hint = format!(
        "Rows are looked up by the whole key ({}): join ON stream.column = table.column for each of its columns; other \
         conditions may stand beside that.",
        key.join(", ")
    );
    Error::Query(ErrorReport::new(SqlState::INVALID_COLUMN_REFERENCE, message).with_hint(hint))
}

fn output_shape(join: &Join, sides: &Sides<'_>, input: &Stream, asked: &Asked, is_left: bool) -> Result<StreamShape> {
    let named = if sides.swapped { &join.left } else { &join.right }.schema();
    let stream_columns = sides.stream.schema().fields().len();
    let mut fields: Vec<Field> = input.shape.schema.fields()[..stream_columns]
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    for (at, expression) in asked.projection.iter().enumerate() {
        let field = expression
            .return_field(&asked.schema)
            .map_err(planning)?
            .as_ref()
            .clone();
        let nullable = field.is_nullable() || is_left;
        fields.push(field.with_name(named.field(at).name()).with_nullable(nullable));
    }
    Ok(StreamShape {
        schema: Arc::new(Schema::new(fields)),
        append_only: true,
        // Nobody keeps the system outside from having several rows of a key.
        unique_key: None,
        event_time: input.shape.event_time,
    })
}

fn description(spec: &LookupJoinSpec, condition: &LookupCondition, side: &LookupSide<'_>) -> String {
    let kind = if spec.left { "left" } else { "inner" };
    let mut text = format!("{kind} {} on=[{}]", spec.table_name, condition.shown.join(", "));
    let mut rest: Vec<String> = side
        .filters
        .iter()
        .flat_map(split_conjunction)
        .map(explain::expression)
        .collect();
    rest.extend(condition.rest.iter().map(explain::expression));
    if !rest.is_empty() {
        text.push_str(&format!(" where=[{}]", rest.join(", ")));
    }
    let names: Vec<&str> = spec
        .columns
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    text.push_str(&format!(" columns=[{}]", names.join(", ")));
    let micros = |of: std::time::Duration| explain::duration(i64::try_from(of.as_micros()).unwrap_or(i64::MAX));
    let ttl = micros(spec.options.cache_ttl);
    text.push_str(&match spec.options.cache_rows {
        _ if spec.options.held => format!(" cache=[all rows, {ttl}]"),
        0 => " cache=[]".to_owned(),
        keys => format!(" cache=[{keys} keys, {ttl}]"),
    });
    text
}

fn fingerprint(spec: &LookupJoinSpec, table: &LookupTable, output: &Schema) -> String {
    let expressions = spec.projection.iter().chain(&spec.filter).chain(&spec.residual);
    let expressions: Vec<String> = expressions.map(expression_fingerprint).collect();
    let types: Vec<String> = output
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    let table = match table.oid.0 {
        0 => format!("local {}", table.name),
        oid => format!("oid {oid}"),
    };
    format!(
        "{table} left={} {:?} {:?} [{}] {} {} [{}]",
        spec.left,
        spec.keys,
        spec.columns
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect::<Vec<_>>(),
        expressions.join("; "),
        spec.filter.is_some(),
        spec.residual.is_some(),
        types.join("; "),
    )
}

fn planning(error: datafusion::common::DataFusionError) -> Error {
    SourceText("").error(error)
}

/// For a lookup table that is not the side of a join.
pub fn alone(table: &LookupTable) -> Error {
    Error::not_supported(
        format!("lookup table \"{}\" can only be joined to a stream", table.name),
        "Its rows are looked up by key: FROM stream JOIN table ON stream.column = table.key. To read all rows, declare a \
         table with type = 'source' where the connector has that.",
    )
}
