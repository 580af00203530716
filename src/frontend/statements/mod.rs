//! What statements do, one file a family. Every one reads as: look at the catalog, check, change, answer.

pub mod alter;
pub mod connections;
pub mod copy;
pub mod create_pipeline;
pub mod create_table;
pub mod create_view;
pub mod cursors;
pub mod describe;
pub mod dml;
pub mod drop;
pub mod envelope;
pub mod explain;
pub mod insert;
pub mod internal_table;
pub mod pipelines;
pub mod prepared;
pub mod query;
pub mod query_kind;
pub mod replace_pipeline;
pub mod secrets;
pub mod settings;
pub mod show;
pub mod show_create;
pub mod subscribe;
pub mod transactions;

use datafusion::sql::sqlparser::ast;

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::Notice;
use crate::frontend::parameter::Parameter;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::placeholders;
use crate::frontend::sql::statement::{CopyDirection, ParsedStatement, Show, Statement};

/// Runs a statement.
pub(crate) async fn execute(
    session: &mut Session,
    parsed: &ParsedStatement,
    parameters: &[Parameter],
) -> Result<Response> {
    let bound = placeholders::bind(parsed, parameters)?;
    let parsed = bound.as_ref().unwrap_or(parsed);
    let source = &parsed.source;
    match &parsed.statement {
        Statement::CreateConnection(create) => connections::create(session, create).await,
        Statement::ValidateConnection { name } => connections::validate(session, name).await,
        Statement::CreateSecret(create) => secrets::create(session, create).await,
        Statement::CreateTable(create) => create_table::create(session, create, source).await,
        Statement::CreatePipeline(create) => create_pipeline::create(session, create).await,
        Statement::CreateView(create) => create_view::create(session, create, source).await,
        Statement::CreateSchema { if_not_exists, name } => {
            create_view::create_schema(session, *if_not_exists, name).await
        }
        Statement::Alter(alter) => alter::alter(session, alter).await,
        Statement::StartPipeline { name } => pipelines::start(session, name).await,
        Statement::StopPipeline { name, mode } => pipelines::stop(session, name, *mode).await,
        Statement::RestartPipeline { name, from_checkpoint } => {
            pipelines::restart(session, name, *from_checkpoint).await
        }
        Statement::Checkpoint { pipeline, label } => pipelines::checkpoint(session, pipeline, label.as_deref()).await,
        Statement::WaitForPipeline(wait) => pipelines::wait(session, wait).await,
        Statement::Flush => pipelines::flush(session).await,
        Statement::Drop(drop) => drop::drop_objects(session, drop).await,
        Statement::Comment(comment) => alter::comment(session, comment).await,
        Statement::Show(Show::Create { kind, name }) => show_create::show_create(session, *kind, name),
        Statement::Show(Show::Columns { relation }) | Statement::Describe { name: relation } => {
            describe::describe(session, relation)
        }
        Statement::Show(show) => show::show(session, show).await,
        Statement::Explain(explain) => explain::explain(session, explain).await,
        Statement::ExplainAnalyzePipeline { name } => explain::analyze_pipeline(session, name),
        Statement::ExplainReplace(create) => replace_pipeline::explain(session, create).await,
        Statement::Query(query) => query::select(session, query, source, parameters).await,
        Statement::Insert(insert) => insert::insert(session, insert, source).await,
        Statement::Subscribe(subscribe) => subscribe::subscribe(session, subscribe, source).await,
        Statement::Copy(copy) => copy::copy(session, copy, source).await,
        Statement::Set(set) => settings::set(session, set),
        Statement::ShowSetting { name } => settings::show(session, name),
        Statement::ShowAllSettings => settings::show_all(session),
        Statement::Reset { name } => settings::reset(session, name.as_deref()),
        Statement::Discard { what } => settings::discard(session, *what),
        Statement::Transaction(transaction) => transactions::run(session, transaction).await,
        Statement::Prepare(prepare) => prepared::prepare(session, prepare),
        Statement::Execute { name, arguments } => prepared::execute(session, name, arguments).await,
        Statement::Deallocate { name } => prepared::deallocate(session, name.as_deref()),
        Statement::Declare(declare) => cursors::declare(session, declare, source).await,
        Statement::Fetch(fetch) => cursors::fetch(session, fetch).await,
        Statement::Close { name } => cursors::close(session, name.as_deref()),
        Statement::Accepted { tag, notice } => Ok(accepted(session, tag, *notice)),
        Statement::Unsupported { what, hint } => Err(Error::not_supported(what.clone(), *hint)),
        Statement::Sql(tree) => change_rows(session, tree, parsed).await,
    }
}

/// Whether a read-only transaction must not run it.
pub(crate) fn changes_something(statement: &Statement) -> bool {
    match statement {
        Statement::CreateConnection(_)
        | Statement::CreateSecret(_)
        | Statement::CreateTable(_)
        | Statement::CreatePipeline(_)
        | Statement::CreateView(_)
        | Statement::CreateSchema { .. }
        | Statement::Alter(_)
        | Statement::StartPipeline { .. }
        | Statement::StopPipeline { .. }
        | Statement::RestartPipeline { .. }
        | Statement::Checkpoint { .. }
        | Statement::Drop(_)
        | Statement::Comment(_)
        | Statement::Insert(_) => true,
        Statement::Sql(tree) => matches!(
            tree.as_ref(),
            // A query of the parser underneath that is none of ours: UPDATE or DELETE behind WITH.
            ast::Statement::Update(_)
                | ast::Statement::Delete(_)
                | ast::Statement::Truncate(_)
                | ast::Statement::Query(_)
        ),
        Statement::Copy(copy) => copy.direction == CopyDirection::FromClient,
        _ => false,
    }
}

fn accepted(session: &mut Session, tag: &str, notice: Option<&str>) -> Response {
    if let Some(notice) = notice {
        session.tell(Notice::warning(SqlState::WARNING, notice));
    }
    Response::complete(tag)
}

async fn change_rows(session: &mut Session, tree: &ast::Statement, parsed: &ParsedStatement) -> Result<Response> {
    if let ast::Statement::Truncate(truncate) = tree {
        return dml::change::truncate(session, truncate, &parsed.source).await;
    }
    match dml::change::read(session, tree)? {
        Some(statement) => {
            query::wait_for_read_results(session, tree).await;
            dml::change::change(session, statement, &parsed.source).await
        }
        None => Err(unknown(&parsed.text)),
    }
}

/// A statement that parses but that nothing here knows.
fn unknown(text: &str) -> Error {
    let words: Vec<String> = text.split_whitespace().take(2).map(str::to_uppercase).collect();
    Error::not_supported(
        words.join(" "),
        "Laminar's statements are listed in the manual: CREATE, ALTER, DROP, SHOW, SELECT, SUBSCRIBE, ..",
    )
}

#[cfg(test)]
mod tests;
