//! Which values may be put into which columns, as Postgres decides it for INSERT and UPDATE.

use arrow::datatypes::{DataType, Field};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::{ErrorReport, SqlState};
use crate::planner::error::Error;
use crate::types::SqlType;

pub fn mismatch(to: &Field, from: &Field) -> Error {
    let shown = |field: &Field| {
        SqlType::from_arrow_field(field).map_or_else(|| field.data_type().to_string(), |of| of.postgres_name())
    };
    Error::Query(
        ErrorReport::new(
            SqlState::DATATYPE_MISMATCH,
            format!(
                "column \"{}\" is of type {} but expression is of type {}",
                to.name(),
                shown(to),
                shown(from)
            ),
        )
        .with_hint("You will need to rewrite or cast the expression."),
    )
}

/// Postgres's assignment casts: between numbers, between times, anything to text, text to JSON.
pub fn assignable(from: &DataType, to: &DataType) -> bool {
    if from == to || *from == DataType::Null {
        return true;
    }
    let is_time = |of: &DataType| matches!(of, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let is_text = |of: &DataType| matches!(of, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    let is_bytes = |of: &DataType| matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let is_clock = |of: &DataType| matches!(of, DataType::Time32(_) | DataType::Time64(_));
    let is_interval = |of: &DataType| matches!(of, DataType::Interval(_) | DataType::Duration(_));
    match (from, to) {
        _ if is_text(to) => {
            !matches!(from, DataType::Struct(_) | DataType::List(_) | DataType::Map(..)) || is_text(from)
        }
        _ if from.is_numeric() && to.is_numeric() => true,
        _ if is_time(from) && is_time(to) => true,
        _ if is_bytes(from) && is_bytes(to) => true,
        _ if is_clock(from) && is_clock(to) => true,
        _ if is_interval(from) && is_interval(to) => true,
        (DataType::Timestamp(..), to) if is_clock(to) => true,
        (DataType::List(from), DataType::List(to)) => assignable(from.data_type(), to.data_type()),
        (DataType::Struct(from), DataType::Struct(to)) => {
            from.len() == to.len()
                && from
                    .iter()
                    .zip(to)
                    .all(|(from, to)| assignable(from.data_type(), to.data_type()))
        }
        (DataType::Map(from, _), DataType::Map(to, _)) => from.data_type() == to.data_type(),
        _ => false,
    }
}

/// An untyped literal takes the type of its column, as in Postgres.
pub fn is_text_constant(plan: &LogicalPlan, column: usize) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => match projection.expr.get(column) {
            Some(expr) => {
                matches!(expr.clone().unalias(), Expr::Literal(value, _) if value.data_type() == DataType::Utf8)
            }
            None => false,
        },
        LogicalPlan::Values(values) => values
            .values
            .iter()
            .all(|row| matches!(row.get(column), Some(Expr::Literal(value, _)) if value.data_type() == DataType::Utf8)),
        LogicalPlan::SubqueryAlias(alias) => is_text_constant(&alias.input, column),
        _ => false,
    }
}
