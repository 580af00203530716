//! Scalar functions written for one row: what is called a few times, or costs more than the loop around it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::types::SqlType;

/// What a function sees of one row.
pub struct Row<'a> {
    pub values: &'a [ScalarValue],
    /// The arguments' types, which tell JSON from text.
    pub fields: &'a [FieldRef],
}

impl Row<'_> {
    /// Text argument `index`; `None` for NULL, for a missing argument and for other types.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.values.get(index)?.try_as_str().flatten()
    }

    /// Argument `index` as an OID: a number, or its digits as text.
    pub fn oid(&self, index: usize) -> Option<u32> {
        match self.values.get(index)? {
            ScalarValue::UInt32(value) => *value,
            ScalarValue::Int64(value) => u32::try_from((*value)?).ok(),
            ScalarValue::Int32(value) => u32::try_from((*value)?).ok(),
            ScalarValue::Int16(value) => u32::try_from((*value)?).ok(),
            ScalarValue::UInt64(value) => u32::try_from((*value)?).ok(),
            other => other.try_as_str().flatten()?.trim().parse().ok(),
        }
    }

    pub fn integer(&self, index: usize) -> Option<i64> {
        match self.values.get(index)?.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(value)) => value,
            _ => None,
        }
    }

    pub fn flag(&self, index: usize) -> Option<bool> {
        match self.values.get(index)? {
            ScalarValue::Boolean(value) => *value,
            other => other
                .try_as_str()
                .flatten()
                .map(|text| matches!(text, "t" | "true" | "on")),
        }
    }
}

type Body = Arc<dyn Fn(&Row<'_>) -> Result<ScalarValue> + Send + Sync>;

/// A function of any arguments whose number is between two bounds.
pub struct RowFunction {
    name: &'static str,
    returns: SqlType,
    signature: Signature,
    /// NULL in gives NULL out without a call.
    strict: bool,
    body: Body,
}

impl RowFunction {
    pub fn new(
        name: &'static str,
        arguments: std::ops::RangeInclusive<usize>,
        returns: SqlType,
        body: impl Fn(&Row<'_>) -> Result<ScalarValue> + Send + Sync + 'static,
    ) -> RowFunction {
        let counts = arguments.map(|count| match count {
            0 => TypeSignature::Nullary,
            count => TypeSignature::Any(count),
        });
        RowFunction {
            name,
            returns,
            signature: Signature::one_of(counts.collect(), Volatility::Immutable),
            strict: false,
            body: Arc::new(body),
        }
    }

    /// Of any number of arguments.
    pub fn variadic(
        name: &'static str,
        returns: SqlType,
        body: impl Fn(&Row<'_>) -> Result<ScalarValue> + Send + Sync + 'static,
    ) -> RowFunction {
        let signatures = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        RowFunction {
            name,
            returns,
            signature: Signature::one_of(signatures, Volatility::Immutable),
            strict: false,
            body: Arc::new(body),
        }
    }

    pub fn strict(mut self) -> RowFunction {
        self.strict = true;
        self
    }

    /// Answers may change from statement to statement.
    pub fn stable(mut self) -> RowFunction {
        self.signature.volatility = Volatility::Stable;
        self
    }

    pub fn into_udf(self) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(self))
    }
}

impl fmt::Debug for RowFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for RowFunction {
    fn eq(&self, other: &RowFunction) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for RowFunction {}

impl Hash for RowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for RowFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.to_arrow())
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(self.returns.to_arrow_field(self.name, true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of = self.returns.to_arrow();
        let all_scalar = arguments
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { arguments.number_rows };
        let mut values: Vec<ScalarValue> = Vec::with_capacity(arguments.args.len());
        let mut results: Vec<ScalarValue> = Vec::with_capacity(rows);
        for row in 0..rows {
            values.clear();
            for argument in &arguments.args {
                values.push(match argument {
                    ColumnarValue::Scalar(value) => value.clone(),
                    ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row)?,
                });
            }
            let result = if self.strict && values.iter().any(ScalarValue::is_null) {
                ScalarValue::Null
            } else {
                (self.body)(&Row {
                    values: &values,
                    fields: &arguments.arg_fields,
                })?
            };
            results.push(typed(result, &of)?);
        }
        match (all_scalar, results.pop()) {
            (true, Some(only)) => Ok(ColumnarValue::Scalar(only)),
            (_, last) => {
                results.extend(last);
                match results.is_empty() {
                    true => Ok(ColumnarValue::Array(arrow::array::new_empty_array(&of))),
                    false => Ok(ColumnarValue::Array(ScalarValue::iter_to_array(results)?)),
                }
            }
        }
    }
}

fn typed(value: ScalarValue, of: &DataType) -> Result<ScalarValue> {
    match value {
        ScalarValue::Null => ScalarValue::try_from(of),
        value if value.data_type() == *of => Ok(value),
        value => value.cast_to(of),
    }
}

/// An error that reaches the client with its code.
pub fn failed(error: crate::planner::error::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Text, or NULL.
pub fn text(value: Option<impl Into<String>>) -> ScalarValue {
    ScalarValue::Utf8(value.map(Into::into))
}
