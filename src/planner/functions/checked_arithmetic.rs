//! Integer arithmetic, casts to integers and of floats to text as Postgres does them.
//!
//! | expression | Postgres, here | DataFusion |
//! | --- | --- | --- |
//! | sum, difference, product, negation that does not fit | error 22003 | wraps |
//! | double to integer | to the nearest, halves to even | cut off |
//! | numeric to integer | to the nearest, halves away from zero | cut off |
//! | integer that does not fit the type it is cast to | error 22003 | another error |
//! | double and real to text, also where a function or `\|\|` wants text | `3`, `1e+20`, `Infinity` | `3.0`, `1e20`, `inf` |
//!
//! Put into a plan when its types are settled, before anything is folded. The replacements show and name themselves as what
//! they replace. Not covered: sums over rows, which have their own checks where rows are added up.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::kernels::numeric;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, binary_expr,
};

use crate::types::float_text::{double_text, real_text};

/// The plan with checked arithmetic; its types are settled.
pub fn checked(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let mut schema = merge_schema(&node.inputs());
        if let LogicalPlan::TableScan(scan) = &node {
            schema.merge(&scan.projected_schema);
        }
        let names = NamePreserver::new(&node);
        let replaced = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let replaced = checked_parts(expr, &schema)?;
            Ok(replaced.update_data(|expr| name.restore(expr)))
        })?;
        replaced.map_data(LogicalPlan::recompute_schema)
    })
    .data()
}

/// An expression over `schema` with checked arithmetic.
pub fn checked_expression(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    checked_parts(expr, schema).data()
}

/// The expression that a checked one stands for; `None` for other functions.
pub fn replaced(call: &ScalarFunction) -> Option<Expr> {
    let function = call.func.inner().downcast_ref::<CheckedFunction>()?;
    Some(function.replaced(&call.args))
}

fn checked_parts(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| {
        let Some(operation) = Operation::of(&part, schema) else {
            return Ok(Transformed::no(part));
        };
        // Functions such as round() look whether an argument is a literal.
        if let Some(literal) = cast_literal(&part) {
            return Ok(Transformed::yes(literal));
        }
        let arguments = match part {
            Expr::BinaryExpr(binary) => vec![*binary.left, *binary.right],
            Expr::Negative(inner) => vec![*inner],
            Expr::Cast(cast) => vec![*cast.expr],
            other => return Ok(Transformed::no(other)),
        };
        Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::new(ScalarUDF::new_from_impl(CheckedFunction {
                operation,
                signature: Signature::any(arguments.len(), Volatility::Immutable),
            })),
            arguments,
        ))))
    })
}

/// The value of an integer literal that is cast to another integer type that has it.
fn cast_literal(expr: &Expr) -> Option<Expr> {
    let Expr::Cast(Cast { expr, field }) = expr else {
        return None;
    };
    match expr.as_ref() {
        Expr::Literal(value, _) if value.data_type().is_integer() => {
            let value = value.cast_to(field.data_type()).ok()?;
            Some(Expr::Literal(value, None))
        }
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Plus,
    Minus,
    Multiply,
    Negate,
    /// To an integer type.
    Round(DataType),
    /// A float to a text type.
    Text(DataType),
}

impl Operation {
    /// What has to be checked about `expr`.
    fn of(expr: &Expr, schema: &DFSchema) -> Option<Operation> {
        let type_of = |expr: &Expr| expr.get_type(schema).ok();
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let operation = match op {
                    Operator::Plus => Operation::Plus,
                    Operator::Minus => Operation::Minus,
                    Operator::Multiply => Operation::Multiply,
                    _ => return None,
                };
                let (left, right) = (type_of(left)?, type_of(right)?);
                (left.is_integer() && left == right).then_some(operation)
            }
            Expr::Negative(inner) => type_of(inner)?.is_signed_integer().then_some(Operation::Negate),
            Expr::Cast(Cast { expr, field }) if field.data_type().is_integer() => {
                let from = type_of(expr)?;
                let wanted = field.data_type();
                let rounded = from.is_floating() || matches!(from, DataType::Decimal128(_, scale) if scale > 0);
                (rounded || is_narrower(wanted, &from)).then(|| Operation::Round(wanted.clone()))
            }
            Expr::Cast(Cast { expr, field }) if field.data_type().is_string() => {
                let from = type_of(expr)?;
                let is_float = matches!(from, DataType::Float32 | DataType::Float64);
                is_float.then(|| Operation::Text(field.data_type().clone()))
            }
            _ => None,
        }
    }

    fn apply(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [first, others @ ..] = arguments else {
            return Err(DataFusionError::Internal("arithmetic without arguments".into()));
        };
        let second = others.first().unwrap_or(first);
        debug_assert_eq!(first.len(), rows);
        let (result, wanted) = match self {
            Operation::Plus => (numeric::add(first, second), first.data_type()),
            Operation::Minus => (numeric::sub(first, second), first.data_type()),
            Operation::Multiply => (numeric::mul(first, second), first.data_type()),
            Operation::Negate => (numeric::neg(first), first.data_type()),
            Operation::Round(wanted) => (rounded(first, wanted), wanted),
            Operation::Text(wanted) => (float_texts(first, wanted), wanted),
        };
        result.map_err(|error| match error {
            ArrowError::ArithmeticOverflow(_) | ArrowError::CastError(_) => {
                DataFusionError::Execution(format!("{} out of range", type_name(wanted)))
            }
            other => other.into(),
        })
    }
}

/// Not every value of one integer type is one of the other.
fn is_narrower(wanted: &DataType, from: &DataType) -> bool {
    let (Some(wanted_width), Some(width)) = (wanted.primitive_width(), from.primitive_width()) else {
        return false;
    };
    let holds_signs = wanted.is_signed_integer() || from.is_unsigned_integer();
    let needs_a_bit = usize::from(wanted.is_signed_integer() && from.is_unsigned_integer());
    from.is_integer() && !(holds_signs && wanted_width >= width + needs_a_bit)
}

fn rounded(values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let whole: ArrayRef = match values.data_type() {
        DataType::Decimal128(precision, _) => cast(values, &DataType::Decimal128(*precision, 0))?,
        from if from.is_integer() => Arc::clone(values),
        _ => {
            let doubles = cast(values, &DataType::Float64)?;
            let nearest = doubles
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(f64::round_ties_even);
            Arc::new(nearest)
        }
    };
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(&whole, wanted, &options)
}

fn float_texts(values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let mut texts = StringBuilder::new();
    let mut text = Vec::new();
    for row in 0..values.len() {
        if values.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        match values.data_type() {
            DataType::Float32 => real_text(values.as_primitive::<Float32Type>().value(row), &mut text),
            _ => double_text(values.as_primitive::<Float64Type>().value(row), &mut text),
        }
        texts.append_value(String::from_utf8_lossy(&text));
    }
    let texts: ArrayRef = Arc::new(texts.finish());
    cast(&texts, wanted)
}

/// As Postgres calls it in messages.
fn type_name(of: &DataType) -> &'static str {
    match of {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => "smallint",
        DataType::Int32 | DataType::UInt32 => "integer",
        _ => "bigint",
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedFunction {
    operation: Operation,
    signature: Signature,
}

impl CheckedFunction {
    /// What this stands for.
    fn replaced(&self, arguments: &[Expr]) -> Expr {
        let argument = |at: usize| {
            arguments
                .get(at)
                .cloned()
                .unwrap_or(Expr::Literal(ScalarValue::Null, None))
        };
        match &self.operation {
            Operation::Plus => binary_expr(argument(0), Operator::Plus, argument(1)),
            Operation::Minus => binary_expr(argument(0), Operator::Minus, argument(1)),
            Operation::Multiply => binary_expr(argument(0), Operator::Multiply, argument(1)),
            Operation::Negate => Expr::Negative(Box::new(argument(0))),
            Operation::Round(wanted) | Operation::Text(wanted) => {
                Expr::Cast(Cast::new(Box::new(argument(0)), wanted.clone()))
            }
        }
    }
}

impl ScalarUDFImpl for CheckedFunction {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Plus => "checked_plus",
            Operation::Minus => "checked_minus",
            Operation::Multiply => "checked_multiply",
            Operation::Negate => "checked_negate",
            Operation::Round(_) => "round_to_integer",
            Operation::Text(_) => "float_to_text",
        }
    }

    fn display_name(&self, arguments: &[Expr]) -> Result<String> {
        Ok(self.replaced(arguments).to_string())
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        Ok(self.replaced(arguments).schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match (&self.operation, arguments.first()) {
            (Operation::Round(wanted) | Operation::Text(wanted), _) => Ok(wanted.clone()),
            (_, Some(first)) => Ok(first.clone()),
            (_, None) => Err(DataFusionError::Internal("arithmetic without arguments".into())),
        }
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = call.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { call.number_rows };
        let arguments = call.args.iter().map(|value| value.to_array(rows));
        let result = self.operation.apply(&arguments.collect::<Result<Vec<_>>>()?, rows)?;
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Decimal128Array, Float64Array, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn integers(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let most = integers(&[Some(i64::MAX), None]);
        let one = integers(&[Some(1), Some(1)]);
        for (operation, arguments) in [
            (Operation::Plus, vec![Arc::clone(&most), Arc::clone(&one)]),
            (Operation::Multiply, vec![Arc::clone(&most), integers(&[Some(2), None])]),
            (
                Operation::Minus,
                vec![integers(&[Some(i64::MIN), None]), Arc::clone(&one)],
            ),
            (Operation::Negate, vec![integers(&[Some(i64::MIN), None])]),
        ] {
            let error = operation.apply(&arguments, 2).unwrap_err();
            assert_eq!(
                error.strip_backtrace(),
                "Execution error: bigint out of range",
                "{operation:?}"
            );
        }
        let sum = Operation::Plus.apply(&[integers(&[Some(1), None]), one], 2).unwrap();
        assert_eq!(sum.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(2), None]));
    }

    #[test]
    fn doubles_and_numerics_round_differently() {
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5, -2.5, -0.6]));
        let whole = Operation::Round(DataType::Int64).apply(&[doubles], 5).unwrap();
        assert_eq!(whole.as_primitive::<Int64Type>().values(), &[0, 2, 2, -2, -1]);
        let numerics = Decimal128Array::from(vec![25, 24, -25, 15]).with_precision_and_scale(10, 1);
        let numerics: ArrayRef = Arc::new(numerics.unwrap());
        let whole = Operation::Round(DataType::Int64).apply(&[numerics], 4).unwrap();
        assert_eq!(whole.as_primitive::<Int64Type>().values(), &[3, 2, -3, 2]);
        let huge: ArrayRef = Arc::new(Float64Array::from(vec![1e10]));
        let error = Operation::Round(DataType::Int32).apply(&[huge], 1).unwrap_err();
        assert_eq!(error.strip_backtrace(), "Execution error: integer out of range");
        let nan: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN]));
        assert!(Operation::Round(DataType::Int32).apply(&[nan], 1).is_err());
    }
}
