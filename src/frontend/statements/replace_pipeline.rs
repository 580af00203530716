//! CREATE OR REPLACE of a pipeline that exists, and EXPLAIN REPLACE, which tells what that would do.
//!
//! Which state is kept is decided in `engine/coordinator/evolution.rs`; here it is told.

use arrow::datatypes::SchemaRef;

use crate::catalog::objects::{Object, Pipeline};
use crate::catalog::snapshot::QualifiedName;
use crate::engine::coordinator::evolution::{Evolution, Fate, objection};
use crate::engine::coordinator::replace::Replacement;
use crate::engine::graph::{GraphNode, OperatorSpec};
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::Notice;
use crate::frontend::pipeline_options::{self, PipelineOptions};
use crate::frontend::response::{Response, RowsTag, text_schema};
use crate::frontend::session::{Outcome, Session, left_behind, uninterrupted};
use crate::frontend::sql::statement::CreatePipeline;
use crate::frontend::statements::create_pipeline::{
    compile, definition, inferred_sinks, refuse_to_destroy, respond, tell_notices, warn_of_missing_input,
};
use crate::frontend::statements::explain::compiled_pipeline;
use crate::planner::compiled::Compiled;

pub(crate) fn schema() -> SchemaRef {
    text_schema(&["operator", "state", "what happens"])
}

/// `None`: there is no such pipeline, and it is created.
pub(crate) fn to_be_replaced(
    session: &Session,
    create: &CreatePipeline,
    name: &QualifiedName,
) -> Result<Option<Pipeline>> {
    let snapshot = session.snapshot();
    let is_view = |materialized: bool| match materialized {
        true => "materialized view",
        false => "pipeline",
    };
    match snapshot.resolve_relation(name, &[]) {
        None => Ok(None),
        Some(Object::Pipeline(old)) if old.materialized_view == create.materialized_view => Ok(Some(old.clone())),
        Some(other) => Err(Error::WrongKind {
            name: name.name.clone(),
            expected: is_view(create.materialized_view),
            hint: match other {
                Object::Pipeline(old) => Some(format!("It is a {}.", is_view(old.materialized_view))),
                _ => None,
            },
        }),
    }
}

/// The new definition, read and compiled.
struct Prepared {
    options: PipelineOptions,
    compiled: Compiled,
    evolution: Evolution,
}

async fn prepare(session: &Session, create: &CreatePipeline, old: &Pipeline) -> Result<Prepared> {
    let options = pipeline_options::read(&create.options)?;
    check_key_groups(create, &options, old)?;
    let compiled = compile(session, &create.body, &options.kept)?;
    let evolution = session
        .server
        .coordinator
        .evolution(old.header.oid, &compiled.graph)
        .await?;
    Ok(Prepared {
        options,
        compiled,
        evolution,
    })
}

fn check_key_groups(create: &CreatePipeline, options: &PipelineOptions, old: &Pipeline) -> Result<()> {
    if create.options.get("key_groups").is_some() && options.key_groups != old.key_groups {
        return Err(Error::not_supported(
            format!("changing key_groups from {} to {}", old.key_groups, options.key_groups),
            "They are fixed when a pipeline is created: drop it and create it again.",
        ));
    }
    match options.parallelism {
        Some(parallelism) if parallelism > u32::from(old.key_groups) => Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!(
                "parallelism {parallelism} is more than the {} key groups of pipeline \"{}\"",
                old.key_groups, old.header.name
            ),
        )),
        _ => Ok(()),
    }
}

pub(crate) async fn replace(
    session: &mut Session,
    create: &CreatePipeline,
    name: &QualifiedName,
    old: Pipeline,
) -> Result<Response> {
    session.refuse_in_block("CREATE OR REPLACE of a pipeline that exists")?;
    let Prepared {
        options,
        compiled,
        evolution,
    } = prepare(session, create, &old).await?;
    // What the pipeline has written itself it may begin anew.
    refuse_to_destroy(&compiled, |node| fate_of(&compiled, &evolution, node) == Fate::New)?;
    warn_of_missing_input(session, &compiled.graph).await;
    let (mut pipeline, depends_on) = definition(session, create, name, &options, &compiled)?;
    pipeline.header.oid = old.header.oid;
    let replacement = Replacement {
        pipeline,
        depends_on,
        also: inferred_sinks(&compiled).collect(),
        graph: compiled.graph.clone(),
        anyway: options.anyway,
        seen_at_micros: old.header.updated_at_micros,
    };
    let coordinator = session.server.coordinator.clone();
    let replaced = uninterrupted("replace pipeline", async move {
        Ok(coordinator.replace(replacement).await?)
    })
    .await?;
    for leftover in replaced.leftovers {
        session.tell(left_behind(leftover, "replaced"));
    }
    tell_notices(session, &compiled);
    session.tell(summary(&old.header.name, &compiled, &evolution));
    let outcome = Outcome {
        started: replaced.job.map(|job| (old.header.oid, job)).into_iter().collect(),
        ..Outcome::default()
    };
    respond(session, create, name, &options, &outcome).await
}

fn fate_of(compiled: &Compiled, evolution: &Evolution, node: &GraphNode) -> Fate {
    let mut fates = compiled.graph.nodes.iter().zip(&evolution.fates);
    fates
        .find(|(of, _)| of.id == node.id)
        .map_or(Fate::New, |(_, fate)| *fate)
}

fn summary(name: &str, compiled: &Compiled, evolution: &Evolution) -> Notice {
    let count = |wanted: &[Fate]| evolution.fates.iter().filter(|fate| wanted.contains(fate)).count();
    let message = format!(
        "pipeline \"{name}\" is replaced: {} operators keep their state, {} are computed again, {} are new, {} are dropped",
        count(&[Fate::Kept, Fate::Repeated]),
        count(&[Fate::Rebuilt]),
        count(&[Fate::New]),
        evolution.dropped.len(),
    );
    let nodes = compiled.graph.nodes.iter().zip(&evolution.fates);
    let read_again: Vec<&str> = nodes
        .filter_map(|(node, fate)| match &node.operator {
            OperatorSpec::Source(source) if *fate == Fate::Rebuilt => Some(source.table_name.as_str()),
            _ => None,
        })
        .collect();
    let mut notice = Notice::of(message);
    if !read_again.is_empty() {
        notice.report.detail = Some(format!("Read again from the start: {}.", read_again.join(", ")));
    }
    notice
}

/// EXPLAIN REPLACE.
pub async fn explain(session: &mut Session, create: &CreatePipeline) -> Result<Response> {
    let name = session.name_to_create(&create.name)?;
    let Some(old) = to_be_replaced(session, create, &name)? else {
        // Says that it does not exist.
        session.pipeline(&name)?;
        return Err(Error::Internal(format!("\"{}\" is there and is not", name.name)));
    };
    let Prepared {
        compiled, evolution, ..
    } = prepare(session, create, &old).await?;
    let nodes = compiled.graph.nodes.iter().zip(&evolution.fates);
    let mut rows: Vec<[String; 3]> = nodes
        .map(|(node, fate)| [shown(node), word(*fate).to_owned(), what_happens(node, *fate)])
        .collect();
    rows.extend(dropped(session, &old, &evolution));
    let rows: Vec<Vec<Option<String>>> = rows.into_iter().map(|row| row.map(Some).to_vec()).collect();
    let tag = RowsTag::Fixed("EXPLAIN".to_owned());
    Ok(Response::text_table(schema(), &rows, tag)?)
}

fn dropped(session: &Session, old: &Pipeline, evolution: &Evolution) -> Vec<[String; 3]> {
    // Only for its descriptions; a query that no longer compiles has to be replaced all the more.
    let before = compiled_pipeline(session, old).ok();
    let nodes = before.as_ref().map_or(&[][..], |compiled| &compiled.graph.nodes);
    let row = |id: &crate::ids::OperatorId| {
        let node = nodes.iter().find(|node| node.id == *id);
        let happens = match node.map(|node| &node.operator) {
            Some(OperatorSpec::Source(_)) => "is not read any more",
            Some(OperatorSpec::Sink(_)) => "is not written any more; what is in it stays",
            _ => "its state is forgotten",
        };
        let shown = node.map_or_else(|| id.0.clone(), shown);
        [shown, "dropped".to_owned(), happens.to_owned()]
    };
    evolution.dropped.iter().map(row).collect()
}

fn shown(node: &GraphNode) -> String {
    match node.description.as_str() {
        "" => node.operator.name().to_owned(),
        description => format!("{}: {description}", node.operator.name()),
    }
}

fn word(fate: Fate) -> &'static str {
    match fate {
        Fate::Stateless => "stateless",
        Fate::Kept | Fate::Repeated => "kept",
        Fate::Rebuilt => "rebuilt",
        Fate::New => "new",
    }
}

fn what_happens(node: &GraphNode, fate: Fate) -> String {
    if fate == Fate::Rebuilt
        && let Some(objection) = objection(node)
    {
        return format!("only WITH (rebuild = 'anyway'): {objection}");
    }
    let text = match (&node.operator, fate) {
        (_, Fate::Stateless) => "has nothing to keep",
        (OperatorSpec::Source(_), Fate::Kept | Fate::Repeated) => "goes on from its offsets",
        (OperatorSpec::Source(_), Fate::Rebuilt) => "is read again from the start",
        (OperatorSpec::Source(_), Fate::New) => "is read from the start",
        (OperatorSpec::Sink(_), Fate::Kept | Fate::Repeated) => "goes on after what it has written",
        (OperatorSpec::Sink(_), Fate::Rebuilt) => "begins anew: what it has written goes",
        (OperatorSpec::Sink(_), Fate::New) => "is written from the first row on",
        (OperatorSpec::Materialize(_), Fate::Kept | Fate::Repeated) => "the result stays",
        (OperatorSpec::Materialize(_), Fate::Rebuilt | Fate::New) => "the result begins empty and grows again",
        (_, Fate::Kept) => "goes on with its state",
        (_, Fate::Repeated) => "goes on with its state, which feeds what is new",
        (_, Fate::Rebuilt | Fate::New) => "its state is computed from the start",
    };
    text.to_owned()
}
