//! Statements that look: SHOW, DESCRIBE, EXPLAIN, SUBSCRIBE, FLUSH, WAIT.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::frontend::error::{Error, Result};
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::{
    Envelope, Explain, ExplainFormat, ExplainStage, ExplainTarget, Show, Statement, Subscribe, SubscribeTarget,
    WaitForPipeline, WaitUntil,
};
use crate::frontend::sql::{body, create, objects, options, session};
use crate::options::RawOptionValue;

/// What can be listed, and the view of schema `laminar` that has it.
pub(crate) const LISTS: &[(&[&str], &str)] = &[
    (&["MATERIALIZED", "VIEWS"], "materialized_views"),
    (&["PIPELINES"], "pipelines"),
    (&["TABLES"], "tables"),
    (&["VIEWS"], "views"),
    (&["SCHEMAS"], "schemas"),
    (&["DATABASES"], "databases"),
    (&["CONNECTIONS"], "connections"),
    (&["CONNECTORS"], "connectors"),
    (&["SECRETS"], "secrets"),
    (&["FUNCTIONS"], "functions"),
    (&["JOBS"], "jobs"),
    (&["CHECKPOINTS"], "checkpoints"),
    (&["OPERATORS"], "operators"),
    (&["TASKS"], "tasks"),
    (&["WORKERS"], "workers"),
    (&["DEAD", "LETTERS"], "dead_letters"),
    (&["SESSIONS"], "sessions"),
    (&["PROCESSLIST"], "sessions"),
    (&["EVENTS"], "events"),
    (&["FRESHNESS"], "freshness"),
    (&["SINKS"], "sinks"),
    (&["SPLITS"], "splits"),
];

pub fn show(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["SHOW"])?;
    if cursor.take(&["CREATE"]) {
        let (kind, _) = objects::kind(cursor)?;
        let name = cursor.qualified_name()?;
        return Ok(Statement::Show(Show::Create { kind, name }));
    }
    if cursor.take(&["COLUMNS", "FROM"]) || cursor.take(&["COLUMNS", "IN"]) {
        return Ok(Statement::Show(Show::Columns {
            relation: cursor.qualified_name()?,
        }));
    }
    let start = cursor.index();
    let list = LISTS.iter().find(|(words, _)| cursor.take(words));
    let goes_on = cursor.at_end()
        || ["FROM", "IN", "LIKE", "WHERE", "FOR"]
            .iter()
            .any(|word| cursor.sees(&[word]));
    match list {
        Some((_, view)) if goes_on => show_list(cursor, view),
        _ => {
            cursor.back_to(start);
            session::show_setting(cursor)
        }
    }
}

fn show_list(cursor: &mut Cursor<'_>, view: &'static str) -> Result<Statement> {
    let mut filter = None;
    if cursor.take(&["FOR", "PIPELINE"]) {
        // `SHOW CHECKPOINTS FOR PIPELINE p`.
        let pipeline = cursor.qualified_name()?;
        filter = Some(format!(
            "pipeline = {}",
            super::identifier::quote_literal(&pipeline.name)
        ));
    }
    let schema = match cursor.take(&["FROM"]) || cursor.take(&["IN"]) {
        true => Some(cursor.name()?),
        false => None,
    };
    let like = match cursor.take(&["LIKE"]) {
        true => Some(cursor.string()?),
        false => None,
    };
    if cursor.take(&["WHERE"]) {
        filter = Some(cursor.expression_text()?);
    }
    Ok(Statement::Show(Show::Objects {
        view,
        schema,
        like,
        filter,
    }))
}

pub fn describe(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.skip(1);
    let _ = cursor.take(&["EXTENDED"])
        || ["TABLE", "VIEW", "PIPELINE"]
            .iter()
            .any(|word| is_kind_before_name(cursor, word));
    Ok(Statement::Describe {
        name: cursor.qualified_name()?,
    })
}

fn is_kind_before_name(cursor: &mut Cursor<'_>, word: &str) -> bool {
    matches!(cursor.peek_at(1), Some(Token::Word(_))) && cursor.take(&[word])
}

/// `EXPLAIN REPLACE PIPELINE p [WITH (..)] AS body`, `EXPLAIN [ANALYZE] [(option, ..)] statement`, `EXPLAIN ANALYZE PIPELINE p`, `EXPLAIN PIPELINE p`.
pub fn explain(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["EXPLAIN"])?;
    if cursor.sees(&["REPLACE"]) {
        return create::replaced(cursor).map(|create| Statement::ExplainReplace(Box::new(create)));
    }
    let mut explain = ExplainOptions {
        stage: ExplainStage::All,
        format: ExplainFormat::Text,
        analyze: false,
    };
    if cursor.take(&["ANALYZE"]) {
        explain.analyze = true;
    }
    cursor.take(&["VERBOSE"]);
    if sees_explain_options(cursor) {
        explain_options(cursor, &mut explain)?;
    }
    if let Some(stage) = stage_word(cursor) {
        explain.stage = stage;
        cursor.take(&["PLAN"]);
        cursor.take(&["FOR"]);
    }
    let target = if cursor.take(&["PIPELINE"]) || cursor.take(&["MATERIALIZED", "VIEW"]) {
        let name = cursor.qualified_name()?;
        if explain.analyze {
            return Ok(Statement::ExplainAnalyzePipeline { name });
        }
        ExplainTarget::Pipeline(name)
    } else {
        explained(cursor)?
    };
    let ExplainOptions { stage, format, analyze } = explain;
    Ok(Statement::Explain(Explain {
        stage,
        format,
        analyze,
        target,
    }))
}

struct ExplainOptions {
    stage: ExplainStage,
    format: ExplainFormat,
    analyze: bool,
}

/// `EXPLAIN (SELECT 1)` has a query in its parentheses, not options.
fn sees_explain_options(cursor: &Cursor<'_>) -> bool {
    let query_begins = ["SELECT", "WITH", "VALUES", "TABLE"]
        .iter()
        .any(|word| matches!(cursor.peek_at(1), Some(Token::Word(next)) if next.value.eq_ignore_ascii_case(word)));
    cursor.sees_token(&Token::LParen) && matches!(cursor.peek_at(1), Some(Token::Word(_))) && !query_begins
}

fn stage_word(cursor: &mut Cursor<'_>) -> Option<ExplainStage> {
    match cursor.take_one_of(&["LOGICAL", "REWRITTEN", "PHYSICAL", "GRAPH"])? {
        "LOGICAL" => Some(ExplainStage::Logical),
        "REWRITTEN" => Some(ExplainStage::Rewritten),
        "PHYSICAL" => Some(ExplainStage::Physical),
        _ => Some(ExplainStage::Graph),
    }
}

fn explain_options(cursor: &mut Cursor<'_>, explain: &mut ExplainOptions) -> Result<()> {
    cursor.expect_token(&Token::LParen)?;
    loop {
        if let Some(stage) = stage_word(cursor) {
            explain.stage = stage;
        } else if cursor.take(&["FORMAT"]) {
            explain.format = match cursor.take_one_of(&["TEXT", "JSON", "DOT"]) {
                Some("TEXT") => ExplainFormat::Text,
                Some("JSON") => ExplainFormat::Json,
                Some(_) => ExplainFormat::Dot,
                None => return Err(cursor.unexpected("TEXT, JSON or DOT")),
            };
        } else if cursor.take(&["ANALYZE"]) {
            explain.analyze = boolean(cursor)?;
        } else {
            // Postgres's other options change what is measured, which is all or nothing here.
            let known = [
                "VERBOSE",
                "COSTS",
                "SETTINGS",
                "BUFFERS",
                "WAL",
                "TIMING",
                "SUMMARY",
                "GENERIC_PLAN",
            ];
            if !known.iter().any(|word| cursor.take(&[word])) {
                return Err(cursor.unexpected("LOGICAL, REWRITTEN, PHYSICAL, GRAPH, FORMAT or ANALYZE"));
            }
            boolean(cursor)?;
        }
        if cursor.take_token(&Token::Comma) {
            continue;
        }
        return cursor.expect_token(&Token::RParen);
    }
}

/// `true`, `off`, `1`; nothing means true.
fn boolean(cursor: &mut Cursor<'_>) -> Result<bool> {
    if matches!(cursor.peek(), Some(Token::Comma | Token::RParen) | None) {
        return Ok(true);
    }
    match options::value(cursor)? {
        RawOptionValue::Text(text) => boolean_word(&text).ok_or_else(|| cursor.unexpected("true or false")),
        RawOptionValue::Secret(_) => Err(cursor.unexpected("true or false")),
    }
}

/// What Postgres reads as a Boolean.
pub fn boolean_word(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "on" | "yes" | "1" | "t" | "y" => Some(true),
        "false" | "off" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// A body, or a statement that has one.
fn explained(cursor: &mut Cursor<'_>) -> Result<ExplainTarget> {
    if !cursor.sees(&["CREATE"]) {
        return body::body(cursor).map(ExplainTarget::Body);
    }
    let start = cursor.index();
    let whole_body = cursor.sees(&["CREATE", "TABLE"]) || cursor.sees(&["CREATE", "VIEW"]);
    if whole_body {
        return body::body(cursor).map(ExplainTarget::Body);
    }
    match super::parse_statement(cursor)? {
        Statement::CreatePipeline(create) => Ok(ExplainTarget::NewPipeline(create.body, create.options)),
        _ => {
            cursor.back_to(start);
            Err(Error::not_supported(
                "EXPLAIN of this statement",
                "It explains queries, INSERT .. SELECT and CREATE PIPELINE.",
            ))
        }
    }
}

pub fn subscribe_statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    subscribe(cursor).map(|subscribe| Statement::Subscribe(Box::new(subscribe)))
}

/// `SUBSCRIBE [TO] name | (query) [WITH (..)] [AS OF EPOCH n] [ENVELOPE UPSERT (KEY (..)) | DEBEZIUM (KEY (..))]`; the
/// clauses come in any order.
pub fn subscribe(cursor: &mut Cursor<'_>) -> Result<Subscribe> {
    cursor.expect(&["SUBSCRIBE"])?;
    cursor.take(&["TO"]);
    let target = if cursor.sees_token(&Token::LParen) {
        let close = cursor.closing()?;
        let query = cursor.part(cursor.index() + 1..close - 1).rest_as_query()?;
        cursor.skip(close - cursor.index());
        SubscribeTarget::Query(query)
    } else {
        SubscribeTarget::Relation(cursor.qualified_name()?)
    };
    let mut subscribe = Subscribe {
        target,
        snapshot: true,
        progress: false,
        as_of_epoch: None,
        envelope: Envelope::None,
    };
    while subscribe_clause(cursor, &mut subscribe)? {}
    Ok(subscribe)
}

fn subscribe_clause(cursor: &mut Cursor<'_>, subscribe: &mut Subscribe) -> Result<bool> {
    if cursor.take(&["WITH"]) {
        cursor.expect_token(&Token::LParen)?;
        loop {
            if cursor.take(&["SNAPSHOT"]) {
                cursor.take_token(&Token::Eq);
                subscribe.snapshot = boolean(cursor)?;
            } else if cursor.take(&["PROGRESS"]) {
                cursor.take_token(&Token::Eq);
                subscribe.progress = boolean(cursor)?;
            } else {
                return Err(cursor.unexpected("snapshot or progress"));
            }
            if !cursor.take_token(&Token::Comma) {
                cursor.expect_token(&Token::RParen)?;
                return Ok(true);
            }
        }
    }
    if cursor.take(&["AS", "OF"]) {
        cursor.take(&["EPOCH"]);
        subscribe.as_of_epoch = Some(cursor.integer()?);
        return Ok(true);
    }
    if cursor.take(&["ENVELOPE"]) {
        let word = cursor.take_one_of(&["UPSERT", "DEBEZIUM", "NONE"]);
        subscribe.envelope = match word {
            Some("UPSERT") => Envelope::Upsert(envelope_key(cursor)?),
            Some("DEBEZIUM") => Envelope::Debezium(envelope_key(cursor)?),
            Some(_) => Envelope::None,
            None => return Err(cursor.unexpected("UPSERT, DEBEZIUM or NONE")),
        };
        return Ok(true);
    }
    Ok(false)
}

/// `(KEY (a, b))`.
fn envelope_key(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
    cursor.expect_token(&Token::LParen)?;
    cursor.expect(&["KEY"])?;
    let names = cursor.name_list()?;
    cursor.expect_token(&Token::RParen)?;
    Ok(names)
}

pub fn flush(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["FLUSH"])?;
    Ok(Statement::Flush)
}

/// `WAIT FOR PIPELINE p [RUNNING | CAUGHT UP | FINISHED] [TIMEOUT '10 s']`.
pub fn wait(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["WAIT", "FOR"])?;
    let _ = cursor.take(&["PIPELINE"]) || cursor.take(&["MATERIALIZED", "VIEW"]);
    let name = cursor.qualified_name()?;
    let until = if cursor.take(&["RUNNING"]) {
        WaitUntil::Running
    } else if cursor.take(&["FINISHED"]) {
        WaitUntil::Finished
    } else {
        cursor.take(&["CAUGHT", "UP"]);
        WaitUntil::CaughtUp
    };
    let timeout = match cursor.take(&["TIMEOUT"]) {
        true => Some(match options::value(cursor)? {
            RawOptionValue::Text(text) => text,
            RawOptionValue::Secret(_) => return Err(cursor.unexpected("a duration")),
        }),
        false => None,
    };
    Ok(Statement::WaitForPipeline(WaitForPipeline { name, until, timeout }))
}
