//! The lengths of VARCHAR(n) and CHAR(n), which Arrow does not carry: a cast cuts text off, a value on its way into a sink's
//! column is refused when it is longer (but for blanks), as in Postgres.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast as cast_array;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::types::SqlType;

/// Refuses text that is longer than a column takes; no text names it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckLength {
    limit: u32,
    /// As messages name the type.
    of: String,
    signature: Signature,
}

/// What checks values for a column of this type; `None` when any length is allowed.
pub fn length_check(of: &SqlType) -> Option<Arc<ScalarUDF>> {
    let (SqlType::Varchar(Some(limit)) | SqlType::Char(Some(limit))) = of else {
        return None;
    };
    Some(Arc::new(ScalarUDF::new_from_impl(CheckLength {
        limit: *limit,
        of: of.postgres_name(),
        signature: Signature::any(1, Volatility::Immutable),
    })))
}

impl ScalarUDFImpl for CheckLength {
    fn name(&self) -> &str {
        "check_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let Some(values) = arrays.first() else {
            return Err(DataFusionError::Internal("check_length without an argument".into()));
        };
        let values = cast_array(values, &DataType::Utf8)?;
        Ok(ColumnarValue::Array(self.checked(&values)?))
    }
}

impl CheckLength {
    fn checked(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let limit = self.limit as usize;
        let texts = values.as_string::<i32>();
        // A text has at most as many characters as bytes: mostly nothing has to be counted.
        if texts.iter().flatten().all(|text| text.len() <= limit) {
            return Ok(Arc::clone(values));
        }
        let kept = texts.iter().map(|text| text.map(|text| self.fitting(text)).transpose());
        Ok(Arc::new(kept.collect::<Result<StringArray>>()?))
    }

    fn fitting<'a>(&self, text: &'a str) -> Result<&'a str> {
        let Some((end, _)) = text.char_indices().nth(self.limit as usize) else {
            return Ok(text);
        };
        let (kept, rest) = text.split_at(end);
        if rest.chars().all(|character| character == ' ') {
            return Ok(kept);
        }
        let message = format!("value too long for type {}", self.of);
        Err(ArrowError::ComputeError(message).into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn checked(values: Vec<Option<&str>>) -> Result<Vec<Option<String>>> {
        let check = CheckLength {
            limit: 3,
            of: "character varying(3)".into(),
            signature: Signature::any(1, Volatility::Immutable),
        };
        let values: ArrayRef = Arc::new(StringArray::from(values));
        let kept = check.checked(&values)?;
        Ok(kept
            .as_string::<i32>()
            .iter()
            .map(|text| text.map(str::to_owned))
            .collect())
    }

    #[test]
    fn characters_are_counted_and_blanks_cut_off() {
        let kept = checked(vec![Some("abc"), None, Some(""), Some("äöü"), Some("ab    ")]).unwrap();
        let texts: Vec<Option<&str>> = kept.iter().map(Option::as_deref).collect();
        assert_eq!(texts, [Some("abc"), None, Some(""), Some("äöü"), Some("ab ")]);
        let error = checked(vec![Some("abcd")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("value too long for type character varying(3)"),
            "{error}"
        );
        assert_eq!(length_check(&SqlType::Varchar(None)), None);
    }
}
