//! Statements of Postgres and of other streaming databases that Laminar does not have: each answers 0A000 with what to use
//! instead. Those that clients send by habit and that would change nothing are accepted.

use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::Statement;

/// First words, and what to use instead.
const UNSUPPORTED: &[(&[&str], &str)] = &[
    (
        &["CREATE", "SOURCE"],
        "Use CREATE TABLE name (..) WITH (connector = '..', type = 'source').",
    ),
    (
        &["CREATE", "SINK"],
        "Use CREATE TABLE name WITH (connector = '..', type = 'sink') and CREATE PIPELINE .. AS INSERT INTO name SELECT.",
    ),
    (
        &["CREATE", "STREAM"],
        "Use CREATE TABLE for a stream from outside, CREATE PIPELINE for a computed one.",
    ),
    (&["CREATE", "SUBSCRIPTION"], "Use SUBSCRIBE name."),
    (&["CREATE", "PUBLICATION"], "Use SUBSCRIBE name."),
    (&["CREATE", "INDEX"], "A pipeline's result is indexed by its key."),
    (
        &["CREATE", "UNIQUE", "INDEX"],
        "A pipeline's result is indexed by its key.",
    ),
    (&["CREATE", "FUNCTION"], "Use the functions that SHOW FUNCTIONS lists."),
    (
        &["CREATE", "OR", "REPLACE", "FUNCTION"],
        "Use the functions that SHOW FUNCTIONS lists.",
    ),
    (&["CREATE", "AGGREGATE"], "Use the functions that SHOW FUNCTIONS lists."),
    (&["CREATE", "PROCEDURE"], "Use CREATE PIPELINE."),
    (&["CREATE", "TRIGGER"], "Use CREATE PIPELINE."),
    (&["CREATE", "ROLE"], "The server's configuration names its users."),
    (&["CREATE", "USER"], "The server's configuration names its users."),
    (&["CREATE", "DATABASE"], "Use CREATE SCHEMA."),
    (
        &["CREATE", "TYPE"],
        "Write STRUCT<..> or ARRAY<..> where the type is used.",
    ),
    (&["CREATE", "DOMAIN"], "Write the type where it is used."),
    (&["CREATE", "SEQUENCE"], "Compute a key from the row's columns."),
    (
        &["CREATE", "TEMP"],
        "Use CREATE VIEW, or WITH name AS (..) in the query.",
    ),
    (
        &["CREATE", "TEMPORARY"],
        "Use CREATE VIEW, or WITH name AS (..) in the query.",
    ),
    (&["CREATE", "UNLOGGED"], "Use CREATE TABLE."),
    (&["CREATE", "RECURSIVE"], "Use WITH RECURSIVE in a query."),
    (&["CREATE", "CLUSTER"], "Use ALTER PIPELINE name SET (parallelism = n)."),
    (
        &["CREATE", "OR", "REPLACE", "TABLE"],
        "Use DROP TABLE IF EXISTS and CREATE TABLE.",
    ),
    (&["CREATE", "POLICY"], "The server's configuration names its users."),
    (&["CREATE", "RULE"], "Use CREATE VIEW or CREATE PIPELINE."),
    (&["CREATE", "FOREIGN"], "Use CREATE TABLE .. WITH (connector = '..')."),
    (&["CREATE", "SERVER"], "Use CREATE CONNECTION."),
    (
        &["ALTER", "SYSTEM"],
        "Set it in laminar.toml or the server's environment.",
    ),
    (&["ALTER", "DATABASE"], "Use SET in the session."),
    (
        &["ALTER", "ROLE"],
        "Use SET in the session; the server's configuration names its users.",
    ),
    (
        &["ALTER", "USER"],
        "Use SET in the session; the server's configuration names its users.",
    ),
    (&["ALTER", "SOURCE"], "Use ALTER TABLE."),
    (&["ALTER", "SINK"], "Use ALTER TABLE."),
    (&["ALTER", "DEFAULT"], "The server's configuration names its users."),
    (&["DROP", "SOURCE"], "Use DROP TABLE."),
    (&["DROP", "SINK"], "Use DROP TABLE."),
    (
        &["DROP", "INDEX"],
        "A pipeline's result is indexed by its key; there are no other indexes.",
    ),
    (&["DROP", "FUNCTION"], "There are no functions to drop."),
    (&["DROP", "ROLE"], "The server's configuration names its users."),
    (&["DROP", "USER"], "The server's configuration names its users."),
    (&["DROP", "DATABASE"], "Use DROP SCHEMA."),
    (&["DROP", "TYPE"], "There are no types to drop."),
    (&["DROP", "OWNED"], "Use DROP SCHEMA .. CASCADE."),
    (
        &["GRANT"],
        "The server's configuration names its users; each may do everything.",
    ),
    (
        &["REVOKE"],
        "The server's configuration names its users; each may do everything.",
    ),
    (&["REASSIGN"], "The server's configuration names its users."),
    (
        &["MERGE"],
        "Use INSERT .. ON CONFLICT, UPDATE .. FROM and DELETE .. USING.",
    ),
    (&["CALL"], "There are no procedures."),
    (&["DO"], "There are no procedural languages."),
    (&["LISTEN"], "Use SUBSCRIBE name."),
    (&["NOTIFY"], "Use SUBSCRIBE name."),
    (&["SELECT", "INTO"], "Use CREATE PIPELINE name AS SELECT."),
    (&["PREPARE", "TRANSACTION"], "Use COMMIT."),
    (&["COMMIT", "PREPARED"], "Use COMMIT."),
    (&["ROLLBACK", "PREPARED"], "Use ROLLBACK."),
    (&["PAUSE"], "Use STOP PIPELINE name."),
    (&["RESUME"], "Use START PIPELINE name."),
    (&["SECURITY"], "The server's configuration names its users."),
    (
        &["IMPORT"],
        "Use CREATE TABLE .. WITH (connector = '..') without columns: they are inferred.",
    ),
];

/// Words, command tag, and what the client is told.
const ACCEPTED: &[(&[&str], &str, Option<&str>)] = &[
    (
        &["CREATE", "EXTENSION"],
        "CREATE EXTENSION",
        Some("extensions do nothing here; the functions of Laminar are built in"),
    ),
    (&["DROP", "EXTENSION"], "DROP EXTENSION", None),
    (&["ANALYZE"], "ANALYZE", None),
    (&["VACUUM"], "VACUUM", None),
    (&["REINDEX"], "REINDEX", None),
    (&["CLUSTER"], "CLUSTER", None),
    (&["LOCK"], "LOCK TABLE", None),
    (&["UNLISTEN"], "UNLISTEN", None),
    (
        &["REFRESH", "MATERIALIZED", "VIEW"],
        "REFRESH MATERIALIZED VIEW",
        Some("a materialized view is kept up to date by itself"),
    ),
];

/// The statement, when it is one of these; all of its words are read.
pub fn statement(cursor: &mut Cursor<'_>) -> Option<Statement> {
    if let Some((_, tag, notice)) = ACCEPTED.iter().find(|(words, ..)| cursor.sees(words)) {
        cursor.skip(cursor.count());
        return Some(Statement::Accepted { tag, notice: *notice });
    }
    let (words, hint) = UNSUPPORTED.iter().find(|(words, _)| cursor.sees(words))?;
    cursor.skip(cursor.count());
    Some(Statement::Unsupported {
        what: words.join(" "),
        hint,
    })
}
