//! Arithmetic of dates, times and numbers, and comparison of intervals, where Postgres and DataFusion differ.
//!
//! | expression | Postgres, here | DataFusion |
//! | --- | --- | --- |
//! | date ± interval | timestamp | date: hours are lost |
//! | date - date | integer, of days | bigint |
//! | timestamp - timestamp | interval of days and time | duration |
//! | interval < interval | by length, a month having 30 days | by months, then days, then the rest |
//! | numeric / numeric | at least 16 digits behind the point | four more than the left side has |
//!
//! Decided where the SQL planner meets the operator: types are known there, and literals are not yet folded.
//! Not covered: BETWEEN and IN over intervals, ORDER BY an interval.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, Decimal128Array, IntervalMonthDayNanoArray};
use arrow::compute::binary;
use arrow::datatypes::{
    DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawAggregateExpr, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    binary_expr, cast,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::planner::functions::Functions;

/// Digits behind the point that a quotient has at least.
const QUOTIENT_SCALE: i8 = 16;

/// What the division kernel adds to the scale of the left side.
const KERNEL_SCALE: i8 = 4;

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
const DAY_NANOS: i128 = 24 * 60 * 60 * 1_000_000_000;

/// A month as long as Postgres takes it when intervals are compared.
const MONTH_DAYS: i128 = 30;

pub fn register(functions: &mut Functions) {
    functions.expr_planners.insert(0, Arc::new(PostgresOperators));
}

#[derive(Debug)]
struct PostgresOperators;

impl ExprPlanner for PostgresOperators {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        // A parameter whose type is not known yet takes it from its place later.
        let (Ok(left), Ok(right)) = (raw.left.get_type(schema), raw.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(raw));
        };
        let planned = match raw.op {
            BinaryOperator::Plus => plus(&raw, &left, &right),
            BinaryOperator::Minus => minus(&raw, &left, &right),
            BinaryOperator::Divide => divide(&raw, &left, &right),
            _ => comparison(&raw, &left, &right),
        };
        Ok(match planned {
            Some(expr) => PlannerResult::Planned(expr),
            None => PlannerResult::Original(raw),
        })
    }

    /// Differences are averaged and added up as durations, which have no days that could be more than 24 hours.
    fn plan_aggregate(&self, mut raw: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        if matches!(raw.func.name(), "avg" | "sum") {
            for argument in &mut raw.args {
                if let Some(plain) = plain_difference(argument) {
                    *argument = plain;
                }
            }
        }
        Ok(PlannerResult::Original(raw))
    }
}

fn plus(raw: &RawBinaryExpr, left: &DataType, right: &DataType) -> Option<Expr> {
    match (left, right) {
        (DataType::Date32, DataType::Interval(_)) => {
            Some(binary_expr(as_timestamp(&raw.left), Operator::Plus, raw.right.clone()))
        }
        (DataType::Interval(_), DataType::Date32) => {
            Some(binary_expr(raw.left.clone(), Operator::Plus, as_timestamp(&raw.right)))
        }
        _ => None,
    }
}

fn minus(raw: &RawBinaryExpr, left: &DataType, right: &DataType) -> Option<Expr> {
    match (left, right) {
        (DataType::Date32, DataType::Interval(_)) => {
            Some(binary_expr(as_timestamp(&raw.left), Operator::Minus, raw.right.clone()))
        }
        (DataType::Date32, DataType::Date32) => {
            let days = |date: &Expr| cast(date.clone(), DataType::Int32);
            Some(binary_expr(days(&raw.left), Operator::Minus, days(&raw.right)))
        }
        (DataType::Timestamp(..), DataType::Timestamp(..) | DataType::Date32)
        | (DataType::Date32, DataType::Timestamp(..)) => {
            let zoned = [left, right]
                .iter()
                .any(|of| matches!(of, DataType::Timestamp(_, Some(_))));
            let instant = |expr: &Expr| {
                let zone = zoned.then(|| Arc::from("+00:00"));
                cast(expr.clone(), DataType::Timestamp(TimeUnit::Microsecond, zone))
            };
            let arguments = vec![instant(&raw.left), instant(&raw.right)];
            Some(call(&DIFFERENCE, arguments))
        }
        _ => None,
    }
}

fn as_timestamp(date: &Expr) -> Expr {
    cast(date.clone(), DataType::Timestamp(TimeUnit::Microsecond, None))
}

/// The left side gets the digits that the quotient shall have.
fn divide(raw: &RawBinaryExpr, left: &DataType, right: &DataType) -> Option<Expr> {
    let is_decimal = |of: &DataType| matches!(of, DataType::Decimal128(..));
    if !(is_decimal(left) && (is_decimal(right) || right.is_integer()) || left.is_integer() && is_decimal(right)) {
        return None;
    }
    let scale = match left {
        DataType::Decimal128(_, scale) => *scale,
        _ => 0,
    };
    let wanted = QUOTIENT_SCALE - KERNEL_SCALE;
    if scale >= wanted {
        return None;
    }
    let widened = cast(raw.left.clone(), DataType::Decimal128(38, wanted));
    Some(binary_expr(widened, Operator::Divide, raw.right.clone()))
}

fn comparison(raw: &RawBinaryExpr, left: &DataType, right: &DataType) -> Option<Expr> {
    let operator = match raw.op {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    };
    let is_span = |of: &DataType| matches!(of, DataType::Interval(_) | DataType::Duration(_));
    let is_text = |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(_), _));
    let spans = is_span(left) && (is_span(right) || is_text(&raw.right)) || is_text(&raw.left) && is_span(right);
    if !spans {
        return None;
    }
    let length = |expr: &Expr| {
        let interval = cast(expr.clone(), DataType::Interval(IntervalUnit::MonthDayNano));
        call(&LENGTH, vec![interval])
    };
    Some(binary_expr(length(&raw.left), operator, length(&raw.right)))
}

fn call(function: &LazyLock<Arc<ScalarUDF>>, arguments: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), arguments))
}

/// A difference as the subtraction that it is made of.
fn plain_difference(expr: &Expr) -> Option<Expr> {
    let Expr::ScalarFunction(function) = expr else {
        return None;
    };
    match function.args.as_slice() {
        [left, right] if function.name() == DIFFERENCE.name() => {
            Some(binary_expr(left.clone(), Operator::Minus, right.clone()))
        }
        _ => None,
    }
}

static DIFFERENCE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| TimeFunction::Difference.into_udf());
static LENGTH: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| TimeFunction::Length.into_udf());

/// Functions that no text names: the planner above puts them where they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TimeFunction {
    /// Of two timestamps in microseconds: whole days and the rest, both with the sign of the whole.
    Difference,
    /// Of an interval: a number that orders intervals.
    Length,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeUdf {
    function: TimeFunction,
    signature: Signature,
}

impl TimeFunction {
    fn into_udf(self) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(TimeUdf {
            function: self,
            // The planner has cast the arguments.
            signature: Signature::variadic_any(Volatility::Immutable),
        }))
    }
}

impl ScalarUDFImpl for TimeUdf {
    fn name(&self) -> &str {
        match self.function {
            TimeFunction::Difference => "timestamp_difference",
            TimeFunction::Length => "interval_length",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            TimeFunction::Difference => DataType::Interval(IntervalUnit::MonthDayNano),
            TimeFunction::Length => DataType::Decimal128(38, 0),
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = arguments
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let result = match (self.function, arrays.as_slice()) {
            (TimeFunction::Difference, [left, right]) => difference(left, right)?,
            (TimeFunction::Length, [interval]) => length(interval)?,
            _ => return plan_err!("{} has other arguments", self.name()),
        };
        match all_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

fn difference(left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
    let (left, right) = (
        left.as_primitive::<TimestampMicrosecondType>(),
        right.as_primitive::<TimestampMicrosecondType>(),
    );
    let interval = |left: i64, right: i64| {
        // Timestamps that clients can write are far from where this would saturate.
        let micros = left.saturating_sub(right);
        let days = i32::try_from(micros / DAY_MICROS).unwrap_or(i32::MAX);
        IntervalMonthDayNano::new(0, days, (micros % DAY_MICROS) * 1_000)
    };
    let intervals: IntervalMonthDayNanoArray = binary(left, right, interval)?;
    Ok(Arc::new(intervals))
}

fn length(intervals: &ArrayRef) -> Result<ArrayRef> {
    let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
    let nanoseconds = |interval: IntervalMonthDayNano| {
        let days = i128::from(interval.months) * MONTH_DAYS + i128::from(interval.days);
        days * DAY_NANOS + i128::from(interval.nanoseconds)
    };
    let lengths: Decimal128Array = intervals.unary(nanoseconds);
    Ok(Arc::new(lengths.with_precision_and_scale(38, 0)?))
}
