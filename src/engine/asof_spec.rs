//! What an ASOF join does: the part of the job graph that planner and operator agree on.
//!
//! Keys and times are columns of the inputs, every expression having been computed by a `Project` before; so is all that the
//! condition and the output use. Both inputs come by a hash exchange on exactly their keys, in the same order, or the join has one
//! subtask: the hash of the keys decides where a row is found after a restart.

use arrow::datatypes::SchemaRef;

use crate::engine::join_spec::{JoinColumn, Residual};

#[derive(Clone, Debug)]
pub struct AsofJoinSpec {
    pub form: AsofForm,
    /// Rows to be answered, then the versions that answer them.
    pub inputs: [AsofInput; 2],
    /// For each key, whether NULL matches NULL (`IS NOT DISTINCT FROM`).
    pub null_equal: Vec<bool>,
    /// Whether a version answers rows of its own moment, or only later ones.
    pub at_same_time: bool,
    /// Rows that no version answers come out with NULLs.
    pub outer: bool,
    /// What a row and its version must satisfy besides; another version is not looked for.
    pub residual: Option<Residual>,
    pub output: Vec<JoinColumn>,
    /// When the watermark is at w, no row of either side comes any more whose time is before w plus this.
    pub ahead_micros: i64,
    /// Rows come out when the watermark is less than this past their event time; what is told downstream is held back so far.
    pub hold_micros: i64,
    /// A version answers no row later than this after it.
    pub ttl_micros: Option<i64>,
}

/// For people: how it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsofForm {
    /// `FOR SYSTEM_TIME AS OF`.
    Temporal,
    /// `ASOF JOIN`.
    Asof,
}

#[derive(Clone, Debug)]
pub struct AsofInput {
    pub schema: SchemaRef,
    /// As many as the other side has, of the same types.
    pub keys: Vec<usize>,
    /// The column that is compared, Timestamp(Microsecond); `None` for the event time.
    pub time: Option<usize>,
    /// The table whose late rows are kept.
    pub late_rows: Option<String>,
}

impl AsofJoinSpec {
    /// The word that EXPLAIN and metrics use.
    pub fn name(&self) -> &'static str {
        match self.form {
            AsofForm::Temporal => "temporal_join",
            AsofForm::Asof => "asof_join",
        }
    }
}
