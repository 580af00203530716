//! The mark that stands in the condition of a join for what makes it an ASOF join, until `rewrites::asof` takes it out; it is never
//! evaluated, and its name cannot be written.
//!
//! Arguments: the form (`asof` or `temporal`); the comparison of times, or the time of the left row; where it is in the statement.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

pub const MARK: &str = "lm asof";
pub const ASOF: &str = "asof";
pub const TEMPORAL: &str = "temporal";

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(AsofMark {
        signature: Signature::variadic_any(Volatility::Immutable),
    }))
});

/// The mark, when it is what `name` says.
pub fn mark(name: &str) -> Option<Arc<ScalarUDF>> {
    (name == MARK).then(|| Arc::clone(&FUNCTION))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsofMark {
    signature: Signature,
}

impl ScalarUDFImpl for AsofMark {
    fn name(&self) -> &str {
        MARK
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(DataFusionError::Internal("an ASOF join was not rewritten".into()))
    }
}
