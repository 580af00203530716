//! Columnar accumulators: one vector an aggregate, indexed by group number.
//!
//! Unlike the expression library's, they can be read without being drained, take rows away again (weights below zero),
//! and write their state as plain typed columns that any later version can read.
//!
//! State columns, also what a partial aggregate sends to the final one ([`state_fields`]):
//!
//! | aggregate | columns |
//! |---|---|
//! | `count(*)`, `count(x)` | count |
//! | `sum`, `avg` of integers and decimals | exact sum as DECIMAL(38), count of values |
//! | `sum`, `avg` of floats | sum, compensation, count of finite values, of NaN, of infinity, of -infinity |
//! | `min`, `max` | the value, NULL when there was none |
//! | `bool_and`, `bool_or` | count of true, count of false |
//! | any other | what its own accumulator hands over |
//!
//! Some calls cannot give a row back from so little: `min` and `max` over an input with retractions, and other functions over
//! retractions or with an ORDER BY. They keep the values of a group in a [`Multiset`] and have no state columns at all. With
//! DISTINCT the values are kept beside the accumulator, in [`DistinctValues`]. Kept values are persisted in a table of their own.
//!
//! Guarantee: the result depends on the multiset of rows alone, not on their order or on how they were cut into chunks;
//! floating-point sums are compensated, but may differ from a naive sum in the last digit. Functions that depend on
//! arrival order by definition (`array_agg` without ORDER BY) keep it on append-only input.

mod bools;
mod count;
pub(crate) mod distinct;
mod exact_sum;
mod extreme;
mod float_sum;
pub(crate) mod multiset;
pub(crate) mod other;
mod retained;

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::error::Error;
use crate::engine::graph::{AggregateCall, AggregateFunction, AggregatePhase, AggregateSpec};
use crate::engine::operator::Result;

pub(crate) use distinct::DistinctValues;
pub(crate) use multiset::Multiset;

/// The column of a partial aggregate's output, right after the keys, that says how many rows went into a group (inserted
/// minus retracted): a final aggregate needs it to know when a group is gone.
pub const ROW_COUNT_COLUMN: &str = "_rows";

/// Rows for accumulators: the group of each and how often it counts (`None`: once).
#[derive(Clone, Copy)]
pub(crate) struct GroupedRows<'a> {
    pub groups: &'a [u32],
    pub weights: Option<&'a [i64]>,
}

impl GroupedRows<'_> {
    #[inline]
    pub fn weight(&self, row: usize) -> i64 {
        self.weights.map_or(1, |weights| weights[row])
    }
}

/// One aggregate for all groups of a table.
pub(crate) trait Accumulator: Send {
    /// Makes room for groups below `groups`; new ones start empty.
    fn resize(&mut self, groups: usize);

    /// Adds the rows to their groups (takes them away where the weight is negative).
    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()>;

    /// Adds states that [`Accumulator::state`] or a partial aggregate made.
    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()>;

    /// The aggregate's value for each of `groups`.
    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef>;

    /// The state columns for each of `groups`.
    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>>;

    /// Adds all that group `from` has to group `into`.
    fn absorb(&mut self, from: u32, into: u32) -> Result<()> {
        let Some(values) = self.multiset() else {
            let states = self.state(&[from])?;
            return self.merge(&states, &[into]);
        };
        let entries = values.entries_of(from)?;
        let rows = GroupedRows {
            groups: &vec![into; entries.groups.len()],
            weights: Some(&entries.counts[0]),
        };
        self.update(&entries.values, rows)
    }

    /// Empties one group.
    fn reset(&mut self, group: u32);

    /// Forgets all groups, keeping memory for the next ones.
    fn clear(&mut self);

    fn memory_bytes(&self) -> usize;

    /// The values kept a group, when the accumulator keeps any.
    fn multiset(&mut self) -> Option<&mut Multiset> {
        None
    }
}

/// Values of groups that a snapshot holds one by one.
pub(crate) trait KeptValues {
    fn types(&self) -> &[DataType];

    /// How many counts a value has.
    fn counts(&self) -> usize;

    /// What changed since the last call, and everything of the groups for which `whole` says so. A value comes once.
    fn drain_changes(&mut self, whole: &dyn Fn(u32) -> bool, any_whole: bool) -> Result<EntryRows>;

    /// Puts values back as a snapshot holds them; later ones replace earlier ones.
    fn restore(&mut self, entries: &EntryRows) -> Result<()>;
}

/// Values on their way to or from a snapshot; where all counts are 0 the value is gone.
pub(crate) struct EntryRows {
    pub groups: Vec<u32>,
    pub values: Vec<ArrayRef>,
    /// One vector for each of the counts.
    pub counts: Vec<Vec<i64>>,
}

/// How a call is computed; decides its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    /// From its state columns alone.
    Columnar,
    /// From its state columns alone, into which each value of [`DistinctValues`] counts once.
    Distinct,
    /// Values are kept and the result is computed from them.
    Retained,
}

fn strategy(call: &AggregateCall, append_only: bool) -> Strategy {
    match &call.function {
        // Repetition changes nothing: DISTINCT is dropped.
        AggregateFunction::BoolAnd | AggregateFunction::BoolOr => Strategy::Columnar,
        AggregateFunction::Min | AggregateFunction::Max if append_only => Strategy::Columnar,
        AggregateFunction::Min | AggregateFunction::Max => Strategy::Retained,
        // DISTINCT is inside the function's own accumulator.
        AggregateFunction::Other(function) if append_only && function.order_bys().is_empty() => Strategy::Columnar,
        AggregateFunction::Other(_) => Strategy::Retained,
        AggregateFunction::CountRows | AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg => {
            if call.distinct {
                Strategy::Distinct
            } else {
                Strategy::Columnar
            }
        }
    }
}

/// Whether every call can be computed in two steps, `Partial` then `Final`.
pub fn decomposable(aggregates: &[AggregateCall], append_only_input: bool) -> bool {
    aggregates
        .iter()
        .all(|call| strategy(call, append_only_input) == Strategy::Columnar)
}

/// Whether the accumulator of `call` is to be given each value once; see [`DistinctValues`].
pub(crate) fn is_distinct(call: &AggregateCall, append_only_input: bool) -> bool {
    strategy(call, append_only_input) == Strategy::Distinct
}

/// The state columns of `call` over `input`, the schema of the rows it aggregates.
pub fn state_fields(call: &AggregateCall, input: &Schema, append_only_input: bool) -> Result<Vec<Field>> {
    if strategy(call, append_only_input) == Strategy::Retained {
        return Ok(Vec::new());
    }
    let named = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    Ok(match &call.function {
        AggregateFunction::CountRows | AggregateFunction::Count => vec![named("count", DataType::Int64)],
        AggregateFunction::Sum | AggregateFunction::Avg => match argument_type(call, input)? {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => float_sum::state_fields(),
            other => exact_sum::state_fields(&other),
        },
        AggregateFunction::Min | AggregateFunction::Max => vec![named("value", argument_type(call, input)?)],
        AggregateFunction::BoolAnd | AggregateFunction::BoolOr => {
            vec![named("trues", DataType::Int64), named("falses", DataType::Int64)]
        }
        AggregateFunction::Other(function) => function
            .state_fields()?
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect(),
    })
}

/// The schema that the `Partial` phase of `spec` puts out: the keys, [`ROW_COUNT_COLUMN`], the state columns of every
/// aggregate in order (named `<aggregate>.<column>`).
pub fn partial_schema(spec: &AggregateSpec, input: &Schema) -> Result<SchemaRef> {
    let mut fields: Vec<Field> = spec.keys.iter().map(|&key| input.field(key).clone()).collect();
    fields.push(Field::new(ROW_COUNT_COLUMN, DataType::Int64, false));
    for (at, call) in spec.aggregates.iter().enumerate() {
        for field in state_fields(call, input, spec.append_only_input)? {
            let name = format!("{at}.{}", field.name());
            fields.push(field.with_name(name));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// An accumulator for `call` over `input`: the aggregated rows, or in the `Final` phase the partial output.
pub(crate) fn build(
    call: &AggregateCall,
    input: &Schema,
    phase: AggregatePhase,
    append_only_input: bool,
) -> Result<Box<dyn Accumulator>> {
    let strategy = strategy(call, append_only_input);
    if phase != AggregatePhase::Single && strategy != Strategy::Columnar {
        return Err(Error::Internal(format!(
            "{} cannot be computed in two phases",
            call.label
        )));
    }
    match strategy {
        Strategy::Columnar | Strategy::Distinct => columnar(call, input),
        Strategy::Retained => retained(call, input),
    }
}

fn columnar(call: &AggregateCall, input: &Schema) -> Result<Box<dyn Accumulator>> {
    Ok(match &call.function {
        AggregateFunction::CountRows => Box::new(count::Count::rows()),
        AggregateFunction::Count => Box::new(count::Count::values()),
        AggregateFunction::Sum | AggregateFunction::Avg => {
            let average = matches!(call.function, AggregateFunction::Avg);
            let first = argument_type(call, input)?;
            match first {
                DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                    Box::new(float_sum::FloatSum::new(average, &call.return_type)?)
                }
                // In the final phase this is the state's decimal, also for integers.
                other => Box::new(exact_sum::ExactSum::new(
                    average,
                    &other,
                    &call.return_type,
                    &call.label,
                )?),
            }
        }
        AggregateFunction::Min => extreme::build(extreme::Side::Min, &argument_type(call, input)?)?,
        AggregateFunction::Max => extreme::build(extreme::Side::Max, &argument_type(call, input)?)?,
        AggregateFunction::BoolAnd => Box::new(bools::Bools::all()),
        AggregateFunction::BoolOr => Box::new(bools::Bools::any()),
        AggregateFunction::Other(function) => Box::new(other::Other::new(Arc::clone(function), &call.return_type)?),
    })
}

fn retained(call: &AggregateCall, input: &Schema) -> Result<Box<dyn Accumulator>> {
    Ok(match &call.function {
        AggregateFunction::Min => Box::new(retained::RetainedExtreme::new(
            extreme::Side::Min,
            argument_type(call, input)?,
        )?),
        AggregateFunction::Max => Box::new(retained::RetainedExtreme::new(
            extreme::Side::Max,
            argument_type(call, input)?,
        )?),
        AggregateFunction::Other(function) => Box::new(retained::RetainedOther::new(
            Arc::clone(function),
            input,
            &call.return_type,
        )?),
        _ => return Err(Error::Internal(format!("{} needs no kept values", call.label))),
    })
}

fn argument_type(call: &AggregateCall, input: &Schema) -> Result<DataType> {
    let argument = call
        .arguments
        .first()
        .ok_or_else(|| Error::Internal(format!("{} has no argument", call.label)))?;
    Ok(input.field(*argument).data_type().clone())
}
