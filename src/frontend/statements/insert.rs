//! INSERT INTO sink SELECT outside a pipeline: runs as a pipeline that nobody named, with its checkpoints, so that the sink
//! commits what it got; the client waits for the end of the input.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;

use crate::catalog::change::{Change, NewObject};
use crate::catalog::objects::{Object, ObjectKind, Pipeline};
use crate::catalog::snapshot::QualifiedName;
use crate::engine::coordinator::WaitFor;
use crate::frontend::body::{fresh_sinks, insert_statement};
use crate::frontend::context::ServerContext;
use crate::frontend::error::Result;
use crate::frontend::inline_tables;
use crate::frontend::notice::Notice;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::statement::InsertText;
use crate::frontend::statements::create_pipeline::{
    keep_session_options, new_pipeline, refuse_to_destroy, tell_notices, warn_of_missing_input,
};
use crate::frontend::statements::dml;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};
use crate::planner::body::{Body, PipelineBody};
use crate::planner::compiled::Target;

pub async fn insert(session: &mut Session, insert: &InsertText, source: &str) -> Result<Response> {
    if let ast::TableObject::TableName(name) = &insert.insert.table
        && let Some(table) = dml::internal_table(session, name)
    {
        return Box::pin(dml::insert::insert(session, table, insert, source)).await;
    }
    session.refuse_in_block("INSERT")?;
    let mut body = Body {
        statement: PipelineBody::Inserts(vec![insert_statement(insert)?]),
        emit: insert.emit,
        local_objects: Vec::new(),
        text: source.to_owned(),
    };
    let snapshot = session.snapshot();
    let search_path = session.search_path();
    body.local_objects = fresh_sinks(&body, &snapshot, &search_path);
    if let PipelineBody::Inserts(inserts) = &mut body.statement {
        for insert in inserts {
            body.local_objects
                .extend(inline_tables::take(&mut insert.query, &snapshot, &search_path)?);
        }
    }
    let compiled = crate::planner::compile(&body, Target::Validate, &snapshot, &session.planner_settings())?;
    refuse_to_destroy(&compiled, |_| true)?;
    warn_of_missing_input(session, &compiled.graph).await;
    tell_notices(session, &compiled);
    session.tell(what_it_does(compiled.unbounded));
    let name = session.name_to_create(&QualifiedName::unqualified(format!(
        "insert_{}",
        uuid::Uuid::now_v7().simple()
    )))?;
    // The stored text is parsed again when the job starts: parameters are values in the tree by now.
    let mut pipeline = new_pipeline(session, &name, text_of(insert));
    keep_session_options(session, &mut pipeline.options);
    mark_temporary(&mut pipeline.options);
    let mut depends_on = compiled.depends_on.clone();
    depends_on.retain(|oid| *oid != Oid(0));
    let object = NewObject {
        object: Object::Pipeline(pipeline),
        depends_on,
    };
    let mut changes = vec![Change::Create {
        object,
        if_not_exists: false,
        or_replace: false,
    }];
    let inferred = compiled.inferred_sinks.iter().filter(|sink| sink.table != Oid(0));
    changes.extend(inferred.map(|sink| Change::SetColumns {
        table: sink.table,
        columns: sink.columns.clone(),
    }));
    let server = Arc::clone(&session.server);
    let outcome = session.apply_now(changes).await?;
    let temporary = Temporary {
        server: Arc::clone(&server),
        name,
        gone: false,
    };
    let Some(pipeline) = outcome.applied.created.first().copied() else {
        return Ok(Response::complete("INSERT 0 0"));
    };
    let finished = server.coordinator.wait(pipeline, WaitFor::Finished).await;
    let rows = delivered(&server, pipeline);
    temporary.remove().await?;
    finished?;
    Ok(Response::complete(format!("INSERT 0 {rows}")))
}

fn what_it_does(unbounded: bool) -> Notice {
    match unbounded {
        true => Notice::of("this INSERT runs until it is cancelled")
            .with_hint("CREATE PIPELINE name AS INSERT INTO .. SELECT .. runs without a client."),
        false => Notice::of("CREATE PIPELINE name AS INSERT INTO .. SELECT .. does the same without a client"),
    }
}

fn text_of(insert: &InsertText) -> String {
    let tree = insert.insert.to_string();
    match insert.emit {
        None => tree,
        Some(crate::engine::graph::EmitMode::OnUpdate) => format!("{tree} EMIT ON UPDATE"),
        Some(crate::engine::graph::EmitMode::OnWindowClose) => format!("{tree} EMIT ON WINDOW CLOSE"),
    }
}

/// Rows that the sinks took.
fn delivered(server: &ServerContext, pipeline: Oid) -> u64 {
    let operators = server
        .coordinator
        .job(pipeline)
        .map(|job| job.operators)
        .unwrap_or_default();
    let sinks = operators.iter().filter(|operator| operator.name == "sink");
    sinks.map(|operator| operator.total().rows_in).sum()
}

/// Marks the pipeline of an INSERT. No statement can set an option of this name.
const TEMPORARY: &str = "temporary";

fn mark_temporary(options: &mut RawOptions) {
    let value = RawOptionValue::Text("true".to_owned());
    options.0.push((TEMPORARY.to_owned(), value));
}

/// At server start, before anybody can connect: removes the pipelines of INSERTs whose server was killed. Their clients have
/// been told nothing, and nobody would ever remove them.
pub async fn remove_abandoned(server: &Arc<ServerContext>) {
    let snapshot = server.catalog.snapshot();
    let is_abandoned = |pipeline: &&Pipeline| pipeline.options.get(TEMPORARY).is_some();
    for pipeline in snapshot.pipelines().filter(is_abandoned) {
        let name = QualifiedName {
            schema: pipeline.header.schema.clone(),
            name: pipeline.header.name.clone(),
        };
        match remove(Arc::clone(server), name).await {
            Ok(()) => tracing::info!(
                pipeline = pipeline.header.name,
                "removed the pipeline of an INSERT that was cut off"
            ),
            Err(error) => tracing::warn!(%error, "could not remove the pipeline of an INSERT"),
        }
    }
}

/// The pipeline of one INSERT; removed at its end, also when the client cancels. What is left by a kill, the next server
/// removes.
struct Temporary {
    server: Arc<ServerContext>,
    name: QualifiedName,
    gone: bool,
}

impl Temporary {
    async fn remove(mut self) -> Result<()> {
        self.gone = true;
        remove(Arc::clone(&self.server), self.name.clone()).await
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let (server, name) = (Arc::clone(&self.server), self.name.clone());
        crate::spawn::named("remove insert", async move {
            if let Err(error) = remove(server, name).await {
                tracing::warn!(%error, "could not remove the pipeline of an INSERT");
            }
        });
    }
}

async fn remove(server: Arc<ServerContext>, name: QualifiedName) -> Result<()> {
    let targets = vec![(ObjectKind::Pipeline, name)];
    let before = server.catalog.snapshot();
    let applied = server
        .catalog
        .apply(vec![Change::Drop {
            targets,
            if_exists: true,
            cascade: false,
        }])
        .await?;
    for dropped in &applied.dropped {
        if let Object::Pipeline(pipeline) = dropped {
            server.coordinator.forget(pipeline).await?;
            // The log says what is left.
            server
                .coordinator
                .forget_outside(std::slice::from_ref(pipeline), &before)
                .await;
        }
    }
    Ok(())
}
