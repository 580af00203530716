//! What happens to rows between sources and sinks: one file an operator, all synchronous state machines.
//!
//! [`build`] makes the operator of a graph node. Stateless: `filter`, `project`, `unnest`, `union`. Aggregation:
//! `updating_aggregate`, `window_aggregate`, `session_aggregate`, and before an exchange `partial_aggregate`, all on a `group_table` (keys to
//! dense numbers, [`accumulators`] by number) that `group_state` writes and reads; `allowed_lateness` says how long windows
//! take late rows. `join` and `asof` have two inputs, `lookup_join` one and a system outside.
//! `top_n` keeps the first rows by rank. `over` computes window functions in order of event time. `upsert_normalise` makes changes
//! out of rows that replace each other. `materialize` keeps a result readable.
//!
//! Rules that hold for all: hashes of the last exchange are never passed on (`keys` says why); a chunk put out has
//! exactly the schema of the stream; an error in the data is [`Error::Data`] with a code.

pub mod accumulators;
mod aggregates;
mod allowed_lateness;
mod asof;
pub(crate) mod bits;
pub(crate) mod changes;
mod closed_upto;
pub(crate) mod columns;
mod filter;
pub(crate) mod group_state;
mod group_table;
mod join;
pub(crate) mod keys;
pub(crate) mod lookup_join;
mod materialize;
pub(crate) mod net_rows;
mod over;
mod partial_aggregate;
mod project;
pub(crate) mod row_order;
pub(crate) mod row_store;
mod session_aggregate;
mod slice_blocks;
pub(crate) mod top_n;
mod union;
mod unnest;
mod updating_aggregate;
mod upsert_normalise;
mod window;
mod window_aggregate;

pub(crate) use upsert_normalise::can_keep;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::clock::Clock;
use crate::engine::dead_letters::DeadLetters;
use crate::engine::error::Error;
use crate::engine::graph::{AggregatePhase, OperatorSpec, StreamShape, WindowSpec};
use crate::engine::job_context::Outside;
use crate::engine::operator::{Operator, Result};
use crate::engine::over_spec::OverWork;
use crate::engine::results::Results;
use crate::ids::SubtaskIndex;
use crate::state::key_group::KeyGroups;

/// Where an operator instance runs and what it may reach.
#[derive(Clone)]
pub struct BuildContext {
    pub subtask: SubtaskIndex,
    /// Of the operator, not of the job.
    pub parallelism: u32,
    pub key_groups: KeyGroups,
    pub clock: Arc<dyn Clock>,
    /// `None` where nothing outside can be asked: in tests of other operators.
    pub outside: Option<Outside>,
    pub results: Results,
    pub dead_letters: DeadLetters,
}

/// Makes the operator of a node that is neither source (VALUES is one) nor sink. `input` is the shape of its input; of the
/// first, for a union, whose inputs agree in types.
pub fn build(
    spec: &OperatorSpec,
    input: Option<&StreamShape>,
    output: &StreamShape,
    context: &BuildContext,
) -> Result<Box<dyn Operator>> {
    let schema = &output.schema;
    Ok(match spec {
        OperatorSpec::Filter { predicate } => Box::new(filter::Filter::new(Arc::clone(predicate))),
        OperatorSpec::Project { expressions } => Box::new(project::Project::new(expressions, schema)),
        OperatorSpec::Unnest(unnest) => Box::new(unnest::Unnest::new(unnest, schema)),
        OperatorSpec::Union => Box::new(union::Union::new(schema)),
        OperatorSpec::UpsertNormalise(spec) => Box::new(upsert_normalise::UpsertNormalise::new(spec, output)?),
        OperatorSpec::UpdatingAggregate(spec) if spec.phase == AggregatePhase::Partial => Box::new(
            partial_aggregate::PartialAggregate::new(spec, None, input_schema(input)?, schema)?,
        ),
        OperatorSpec::UpdatingAggregate(spec) => Box::new(updating_aggregate::UpdatingAggregate::new(
            spec,
            input_schema(input)?,
            schema,
            context,
        )?),
        OperatorSpec::WindowAggregate(spec) if spec.aggregate.phase == AggregatePhase::Partial => {
            let (aggregate, window) = (&spec.aggregate, Some(spec.window));
            let input = input_schema(input)?;
            Box::new(partial_aggregate::PartialAggregate::new(
                aggregate, window, input, schema,
            )?)
        }
        OperatorSpec::WindowAggregate(spec) => {
            let late = spec.late_rows.as_deref();
            let kept = late.map(|table| context.dead_letters.late_rows(table, Arc::clone(&context.clock)));
            let input = input_schema(input)?;
            match spec.window {
                WindowSpec::Session { .. } => {
                    Box::new(session_aggregate::SessionAggregate::new(spec, input, schema)?.keeping_late_rows(kept))
                }
                _ => Box::new(window_aggregate::WindowAggregate::new(spec, input, schema)?.keeping_late_rows(kept)),
            }
        }
        OperatorSpec::Over(spec) => {
            let late = spec.late_rows.as_deref();
            let kept = late.map(|table| context.dead_letters.late_rows(table, Arc::clone(&context.clock)));
            let input = input_schema(input)?;
            match spec.work {
                OverWork::Ordered { .. } => Box::new(over::Over::new(spec, input, schema)?.keeping_late_rows(kept)),
                OverWork::Whole { .. } => {
                    Box::new(over::whole::OverWindow::new(spec, input, schema)?.keeping_late_rows(kept))
                }
                OverWork::Changing { .. } => Box::new(over::changing::OverChanging::new(spec, input, schema, context)?),
            }
        }
        OperatorSpec::Join(spec) => Box::new(join::Join::new(spec, output, context)?),
        OperatorSpec::LookupJoin(spec) => Box::new(lookup_join::LookupJoin::new(spec, output, context)?),
        OperatorSpec::AsofJoin(spec) => Box::new(asof::AsofJoin::new(spec, output, context)?),
        OperatorSpec::TopN(spec) => Box::new(top_n::TopN::new(spec, input_schema(input)?, schema, context)?),
        OperatorSpec::Materialize(spec) => Box::new(materialize::Materialize::new(spec, schema, context)?),
        OperatorSpec::Source(_)
        | OperatorSpec::Values(_)
        | OperatorSpec::Sink(_)
        | OperatorSpec::ClientOutput { .. } => {
            return Err(Error::Internal(format!(
                "{} is not an operator of its own",
                spec.name()
            )));
        }
    })
}

fn input_schema(input: Option<&StreamShape>) -> Result<&SchemaRef> {
    input
        .map(|shape| &shape.schema)
        .ok_or_else(|| Error::Internal("the operator has no input".into()))
}

#[cfg(test)]
mod tests;
