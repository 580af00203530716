//! Which engine answers a query: the batch engine what is kept, a foreground job what is read from connected tables.
//!
//! Tables that end by themselves both can read: a query over them runs as a job, which gives rows at once, unless a job
//! cannot answer it (ORDER BY, joins, results that would change later): then the batch engine reads the tables to their end.

use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::{Object, Table};
use crate::engine::graph::JobGraph;
use crate::error::{Report, SqlState};
use crate::frontend::bounded_tables::{bounded_table, scan_graph};
use crate::frontend::inline_tables;
use crate::frontend::session::Session;
use crate::frontend::sql::statement::QueryText;
use crate::frontend::statements::query::{compile_foreground, relations_read};
use crate::planner::batch::{Classification, classify};

/// Whether the query reads connected tables.
pub(crate) fn reads_streams(session: &Session, query: &ast::Query) -> bool {
    inline_tables::has_any(query)
        || classify(query, &session.snapshot(), &session.planner_settings()) == Classification::Stream
}

/// Who answers the query; its parameters must have values.
pub(crate) fn kind_of(session: &Session, query: &QueryText, source: &str) -> Classification {
    if !reads_streams(session, &query.query) {
        return Classification::Batch;
    }
    let cannot_stream = || match compile_foreground(session, query, source) {
        Ok(compiled) => !compiled.append_only,
        Err(error) => error.code() == SqlState::FEATURE_NOT_SUPPORTED,
    };
    match query.emit.is_none() && can_be_read_to_the_end(session, &query.query) && cannot_stream() {
        true => Classification::Batch,
        false => Classification::Stream,
    }
}

/// Every connected table of the query ends by itself.
pub(crate) fn can_be_read_to_the_end(session: &Session, query: &ast::Query) -> bool {
    if inline_tables::has_any(query) {
        return false;
    }
    let snapshot = session.snapshot();
    let settings = session.planner_settings();
    let coordinator = &session.server().coordinator;
    let tables = connected_tables(session, query);
    !tables.is_empty()
        && tables
            .iter()
            .all(|table| bounded_table(table, coordinator, &snapshot, &settings).is_some())
}

/// The jobs that read the connected tables of a query, for looking at their sources.
pub(crate) fn scans(session: &Session, query: &ast::Query) -> Vec<JobGraph> {
    let (snapshot, settings) = (session.snapshot(), session.planner_settings());
    let tables = connected_tables(session, query);
    tables
        .iter()
        .filter_map(|table| scan_graph(table, &snapshot, &settings))
        .collect()
}

/// Those that the query names, also through views.
fn connected_tables(session: &Session, query: &ast::Query) -> Vec<Table> {
    let snapshot = session.snapshot();
    let read = relations_read(query, &snapshot, &session.search_path()).into_iter();
    let tables = read.filter_map(|object| match object {
        Object::Table(table) if !table.is_internal() => Some(table.clone()),
        _ => None,
    });
    tables.collect()
}
