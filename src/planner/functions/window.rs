//! `tumble`, `hop`, `session`: marks in a query that the window rewrite replaces; they are never evaluated.
//!
//! `tumble(size)` windows by the table's event time, `tumble(ts, size)` names it; likewise `hop(slide, size)` and
//! `session(gap)`. All give a struct of `start` and `end`.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::planner::functions::Functions;

pub const TUMBLE: &str = "tumble";
pub const HOP: &str = "hop";
pub const SESSION: &str = "session";
pub const START: &str = "start";
pub const END: &str = "end";

static MARKS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let mark = |name| Arc::new(ScalarUDF::new_from_impl(WindowMark::new(name)));
    [TUMBLE, HOP, SESSION].map(mark).to_vec()
});

/// The type of a window.
pub fn window_type() -> DataType {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    DataType::Struct(Fields::from(vec![
        Field::new(START, time.clone(), true),
        Field::new(END, time, true),
    ]))
}

pub fn register(functions: &mut Functions) {
    for mark in MARKS.iter() {
        functions.add_scalar(Arc::clone(mark));
    }
}

pub fn is_window(name: &str) -> bool {
    [TUMBLE, HOP, SESSION].contains(&name)
}

/// `TUMBLE_START` is the field `start` of a window `TUMBLE`.
pub fn field_function(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "tumble_start" => (TUMBLE, START),
        "tumble_end" => (TUMBLE, END),
        "hop_start" => (HOP, START),
        "hop_end" => (HOP, END),
        "session_start" => (SESSION, START),
        "session_end" => (SESSION, END),
        _ => return None,
    })
}

/// What a window function takes, for messages.
pub fn usage(name: &str) -> &'static str {
    match name {
        TUMBLE => "TUMBLE takes the window's size, or a time column and the size",
        HOP => "HOP takes the slide and the window's size, or a time column, the slide and the size",
        _ => "SESSION takes the gap, or a time column and the gap",
    }
}

/// Durations that a window function takes.
pub fn durations(name: &str) -> usize {
    if name == HOP { 2 } else { 1 }
}

/// What to say of window functions that are not there.
pub fn not_yet(name: &str) -> Option<&'static str> {
    match name {
        "cumulate" => Some("CUMULATE windows are not supported"),
        "slide" => Some("SLIDE is called HOP"),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowMark {
    name: &'static str,
    signature: Signature,
}

impl WindowMark {
    fn new(name: &'static str) -> WindowMark {
        WindowMark {
            name,
            // Arguments are checked where the window is made, with messages of our own.
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for WindowMark {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let durations = durations(self.name);
        if arguments.len() != durations && arguments.len() != durations + 1 {
            return plan_err!("{}", usage(self.name));
        }
        Ok(window_type())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(DataFusionError::Internal("a window was not rewritten".into()))
    }
}
