//! `tumble`: a mark in a query that the window rewrite replaces; it is never evaluated.
//!
//! `tumble(size)` windows by the table's event time, `tumble(ts, size)` names it. Both give a struct of `start` and `end`.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::planner::functions::Functions;

pub const TUMBLE: &str = "tumble";
pub const START: &str = "start";
pub const END: &str = "end";

static TUMBLE_FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(TumbleMark::default())));

/// The type of a window.
pub fn window_type() -> DataType {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    DataType::Struct(Fields::from(vec![
        Field::new(START, time.clone(), true),
        Field::new(END, time, true),
    ]))
}

pub fn register(functions: &mut Functions) {
    functions.add_scalar(Arc::clone(&TUMBLE_FUNCTION));
}

/// `TUMBLE_START` is the field `start` of a window.
pub fn field_function(name: &str) -> Option<&'static str> {
    match name {
        "tumble_start" => Some(START),
        "tumble_end" => Some(END),
        _ => None,
    }
}

/// What to say of window functions that are not there.
pub fn not_yet(name: &str) -> Option<&'static str> {
    match name {
        "hop" | "hop_start" | "hop_end" | "slide" => Some("HOP windows are not supported"),
        "session" | "session_start" | "session_end" => Some("SESSION windows are not supported"),
        "cumulate" => Some("CUMULATE windows are not supported"),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TumbleMark {
    signature: Signature,
}

impl Default for TumbleMark {
    fn default() -> TumbleMark {
        TumbleMark {
            // Arguments are checked where the window is made, with messages of our own.
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for TumbleMark {
    fn name(&self) -> &str {
        TUMBLE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        if arguments.is_empty() || arguments.len() > 2 {
            return plan_err!("TUMBLE takes the window's size, or a time column and the size");
        }
        Ok(window_type())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(DataFusionError::Internal("a window was not rewritten".into()))
    }
}
