//! What a table of a Postgres server is told: where the server is, which table, and how it is used.

use crate::engine::connectors::options::{
    OptionReader, choice_option, duration_option, integer_option, text_option, wrong_value,
};
use crate::engine::connectors::postgres::{invalid, quote_always};
use crate::engine::connectors::{OptionDescription, OptionKind, OptionScope, Result};
use crate::engine::error::Error;
use crate::options::ResolvedOptions;
use crate::postgres::{Address, AddressError, SSL_MODES};

const PORT: u16 = 5432;

/// The parts of an address that a `url` gives as a whole.
const PARTS: [&str; 6] = ["host", "port", "database", "user", "password", "sslmode"];

/// How a table is used; each has its own way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableUse {
    Lookup,
    Sink,
    /// A source of rows with a cursor.
    Poll,
    /// A source of the table and its changes.
    Cdc,
}

const MODES: &[&str] = &["cdc", "poll"];

/// `type = 'lookup'`, a `mode` of reading, or written into.
pub fn table_use(reader: &OptionReader<'_>, given: &ResolvedOptions) -> Result<TableUse> {
    let given = given.get("type").map(|value| value.text.trim().to_lowercase());
    let is_query = reader.text("query").is_some();
    match (given.as_deref(), reader.choice("mode")?) {
        (Some(other @ ("lookup" | "sink")), Some(_)) => Err(invalid(
            &format!("option \"mode\" says how a table is read, and type = '{other}' excludes that"),
            "Leave one of them out.",
        )),
        (Some("lookup"), None) => Ok(TableUse::Lookup),
        (Some("source"), None) => Err(invalid(
            "connector \"postgres\" needs option \"mode\" to read a table",
            "mode = 'cdc': the table and its changes; mode = 'poll': its new rows, by cursor_column.",
        )),
        (_, Some("poll")) if reader.text("cursor_column").is_none() => Err(invalid(
            "mode = 'poll' needs option \"cursor_column\"",
            "Name a column that is greater in every new row, such as a serial number.",
        )),
        (_, Some("poll")) => Ok(TableUse::Poll),
        (_, Some(_)) if is_query => Err(invalid(
            "options \"query\" and mode = 'cdc' exclude each other",
            "Give option table, or use mode = 'poll'.",
        )),
        (_, Some(_)) => Ok(TableUse::Cdc),
        _ if is_query => Err(invalid(
            "a table of connector \"postgres\" with option \"query\" cannot be written to",
            "Say type = 'lookup' to look rows up in it.",
        )),
        _ => Ok(TableUse::Sink),
    }
}

pub fn address_options() -> Vec<OptionDescription> {
    let both = |option: OptionDescription| OptionDescription {
        scope: OptionScope::Both,
        ..option
    };
    let secret = |option: OptionDescription| OptionDescription {
        kind: OptionKind::Secret,
        ..option
    };
    vec![
        both(secret(text_option(
            "url",
            &[],
            None,
            "Where the server is: postgres://user:password@host:port/database?sslmode=..; or say it in parts.",
        ))),
        both(text_option(
            "host",
            &["hostname"],
            None,
            "The server's name or address.",
        )),
        both(integer_option("port", &[], Some("5432"), "The server's port.")),
        both(text_option(
            "database",
            &["dbname"],
            None,
            "The database; by default the one named like the user.",
        )),
        both(text_option("user", &["username"], None, "Who asks.")),
        both(secret(text_option(
            "password",
            &[],
            None,
            "The user's password: give a SECRET.",
        ))),
        both(choice_option(
            "sslmode",
            &[],
            SSL_MODES,
            "Whether the connection is encrypted and the server verified, as in libpq; prefer by default.",
        )),
        both(text_option(
            "sslrootcert",
            &[],
            None,
            "A file with the certificates that the server's must be signed by.",
        )),
    ]
}

pub fn table_options() -> Vec<OptionDescription> {
    vec![
        text_option(
            "table",
            &["table_name"],
            None,
            "The table or view: name or schema.name, spelled as it is.",
        ),
        text_option(
            "query",
            &[],
            None,
            "A SELECT in the database's own SQL, instead of a table.",
        ),
        integer_option(
            "connections",
            &["pool_size"],
            Some("4"),
            "At most this many connections a pipeline.",
        ),
        choice_option(
            "mode",
            &[],
            MODES,
            "Source: cdc, the table and its changes by logical replication; poll, its new rows by cursor_column.",
        ),
        text_option(
            "cursor_column",
            &[],
            None,
            "Source, mode poll: a column that is greater in every new row.",
        ),
        duration_option(
            "poll_interval",
            &[],
            None,
            "Source: how long to wait when there was nothing new; 1 s, and 200 ms in mode cdc.",
        ),
        text_option(
            "publication",
            &[],
            None,
            "Source, mode cdc: a publication of the table that is there already; else one is made.",
        ),
        duration_option(
            "statement_timeout",
            &[],
            Some("30 s"),
            "The server ends a question that takes longer; it is asked again until lookup_timeout.",
        ),
    ]
}

/// `None`: neither a URL nor a host is given.
pub fn address(reader: &OptionReader<'_>) -> Result<Option<Address>> {
    let parts = reader.given_texts(|name| PARTS.contains(&name));
    if let Some(url) = reader.text("url") {
        if let Some((name, _)) = parts.first() {
            let message = format!("options \"url\" and \"{name}\" exclude each other");
            return Err(invalid(&message, "Say everything in the URL, or everything in parts."));
        }
        return Address::parse(url).map(Some).map_err(unusable);
    }
    let Some(host) = reader.text("host") else {
        return Ok(None);
    };
    let mut config = tokio_postgres::Config::new();
    let port = match reader.integer("port", 1)? {
        None => PORT,
        Some(port) => {
            u16::try_from(port).map_err(|_| wrong_value("port", &port.to_string(), "It is at most 65535."))?
        }
    };
    config.host(host).port(port);
    if let Some(database) = reader.text("database") {
        config.dbname(database);
    }
    if let Some(user) = reader.text("user") {
        config.user(user);
    }
    if let Some(password) = reader.text("password") {
        config.password(password);
    }
    let roots = reader.text("sslrootcert").map(str::to_owned);
    Address::new(config, reader.choice("sslmode")?, roots)
        .map(Some)
        .map_err(|reason| invalid(&reason, "They mean what they mean in libpq."))
}

pub fn unusable(error: AddressError) -> Error {
    invalid(
        &format!("invalid address of a Postgres server: {error}"),
        "It looks like postgres://user:password@host:5432/database.",
    )
}

/// What stands in FROM.
pub fn relation(reader: &OptionReader<'_>) -> Result<String> {
    match (reader.text("table"), reader.text("query")) {
        (Some(table), None) => Ok(table.split('.').map(quote_always).collect::<Vec<_>>().join(".")),
        (None, Some(query)) => Ok(format!("({})", query.trim().trim_end_matches(';'))),
        (Some(_), Some(_)) => Err(invalid(
            "options \"table\" and \"query\" exclude each other",
            "Give one of them.",
        )),
        (None, None) => Err(invalid(
            "connector \"postgres\" needs option \"table\" or \"query\"",
            "table = 'schema.name', or query = 'SELECT ..'.",
        )),
    }
}
