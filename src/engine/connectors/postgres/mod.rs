//! Tables and queries of a Postgres database, to look rows up in.
//!
//! Rows are asked for by key, many keys at a time, on a few connections that are opened when they are needed and again when
//! they broke. Values travel as JSON, in which Postgres writes every type without loss.
//!
//! Not guaranteed: that several questions see one snapshot of the database.
//!
//! - [`lookup`] questions and answers.
//! - [`columns`] the types of both sides, and what fits what.

mod columns;
mod lookup;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use deadpool_postgres::{Object, Pool, PoolError};
use tokio_postgres::Statement;

use crate::engine::connectors::lookup::{Lookup, LookupContext, LookupOptions, lookup_descriptions};
use crate::engine::connectors::options::{
    CommonOptions, OptionReader, choice_option, duration_option, integer_option, text_option, wrong_value,
};
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, OptionDescription, OptionKind,
    OptionScope, Result,
};
use crate::engine::error::Error;
use crate::error::{ErrorReport, Retry, SqlState};
use crate::options::ResolvedOptions;
use crate::postgres::{Address, AddressError, CONNECT_TIMEOUT, SSL_MODES, with_source};

const PORT: u16 = 5432;
const CONNECTIONS_DEFAULT: usize = 4;
const STATEMENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The alias under which the table or query of the user stands in every statement.
const ROWS: &str = "t";

/// The parts of an address that a `url` gives as a whole.
const PARTS: [&str; 6] = ["host", "port", "database", "user", "password", "sslmode"];

pub struct Postgres;

#[async_trait::async_trait]
impl Connector for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn describe(&self) -> ConnectorDescription {
        let mut options = address_options();
        options.extend(table_options());
        options.extend(lookup_descriptions(true));
        ConnectorDescription {
            name: "postgres",
            title: "PostgreSQL",
            summary: "Looks rows up by key in a table or query of a Postgres database.",
            category: "databases",
            direction: Direction::Lookup,
            formats: &[],
            options,
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        Ok(Arc::new(self.table(options, declared)?))
    }

    async fn check_connection(&self, options: &ResolvedOptions) -> Result<()> {
        let description = self.describe();
        let reader = OptionReader::for_connection(&description, options)?;
        let address = address(&reader)?;
        let validate = options.get("validate").is_none_or(|value| value.text.trim() != "false");
        if let Some(address) = address.filter(|_| validate) {
            drop(connection(&pool(address, 1)?).await?);
        }
        Ok(())
    }

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let table = self.table(options, None)?;
        let statement = table.source.describe().await?;
        Ok(Some(columns::inferred(statement.columns())))
    }
}

fn address_options() -> Vec<OptionDescription> {
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

fn table_options() -> Vec<OptionDescription> {
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
        duration_option(
            "statement_timeout",
            &[],
            Some("30 s"),
            "The server ends a question that takes longer; it is asked again until lookup_timeout.",
        ),
    ]
}

impl Postgres {
    fn table(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<PostgresTable> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let Some(mut address) = address(&reader)? else {
            let message = "connector \"postgres\" needs option \"url\" or \"host\"";
            return Err(invalid(message, "Give them to the table or to its connection."));
        };
        let timeout = reader
            .duration("statement_timeout")?
            .unwrap_or(STATEMENT_TIMEOUT_DEFAULT);
        if address.config.get_options().is_none() {
            let milliseconds = timeout.as_millis();
            address.config.options(format!("-c statement_timeout={milliseconds}"));
        }
        let connections = reader.integer("connections", 1)?;
        let connections = connections.and_then(|count| usize::try_from(count).ok());
        Ok(PostgresTable {
            source: Arc::new(TableSource {
                relation: relation(&reader)?,
                shown: reader.text("table").unwrap_or("the query").to_owned(),
                pool: pool(address, connections.unwrap_or(CONNECTIONS_DEFAULT))?,
            }),
            lookup: LookupOptions::read(&reader)?,
            schema: declared,
        })
    }
}

/// `None`: neither a URL nor a host is given.
fn address(reader: &OptionReader<'_>) -> Result<Option<Address>> {
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

fn unusable(error: AddressError) -> Error {
    invalid(
        &format!("invalid address of a Postgres server: {error}"),
        "It looks like postgres://user:password@host:5432/database.",
    )
}

fn invalid(message: &str, hint: &str) -> Error {
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}

/// What stands in FROM.
fn relation(reader: &OptionReader<'_>) -> Result<String> {
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

/// Words that mean something to the server are names here.
fn quote_always(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn pool(address: Address, connections: usize) -> Result<Pool> {
    address.pool(connections).map_err(unusable)
}

async fn connection(pool: &Pool) -> Result<Object> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) => failed("could not connect to the Postgres server", &error),
        PoolError::Timeout(_) => unreachable_server(&format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
        other => unreachable_server(&other.to_string()),
    })
}

fn unreachable_server(reason: &str) -> Error {
    Error::External {
        code: SqlState::CONNECTION_FAILURE,
        message: format!("could not connect to the Postgres server: {reason}"),
        hint: None,
        retry: Retry::Backoff,
    }
}

/// The server's own words, and whether the same may go well later.
fn failed(what: &str, error: &tokio_postgres::Error) -> Error {
    let Some(database) = error.as_db_error() else {
        return Error::External {
            code: SqlState::CONNECTION_FAILURE,
            message: format!("{what}: {}", with_source(error)),
            hint: None,
            retry: Retry::Backoff,
        };
    };
    // 08 connection, 40 conflict with others, 53 no resources, 57 shut down, starting, or a statement took too long, 58 disk.
    let passes = ["08", "40", "53", "57", "58"]
        .iter()
        .any(|class| database.code().code().starts_with(class));
    Error::External {
        code: SqlState::from_code(database.code().code()),
        message: format!("{what}: {}", database.message()),
        hint: database.hint().map(str::to_owned),
        retry: if passes { Retry::Backoff } else { Retry::Never },
    }
}

/// Where rows are asked for.
struct TableSource {
    relation: String,
    /// As the user named it, for messages.
    shown: String,
    pool: Pool,
}

impl TableSource {
    /// Which columns the server has, without asking for rows.
    async fn describe(&self) -> Result<Statement> {
        let connection = connection(&self.pool).await?;
        let sql = format!("SELECT * FROM {} AS {ROWS}", self.relation);
        let prepared = connection.prepare(&sql).await;
        prepared.map_err(|error| failed(&format!("could not look at {}", self.named()), &error))
    }

    fn named(&self) -> String {
        if self.relation.starts_with('(') {
            "the query on the Postgres server".to_owned()
        } else {
            format!("table \"{}\" of the Postgres server", self.shown)
        }
    }
}

struct PostgresTable {
    source: Arc<TableSource>,
    lookup: LookupOptions,
    schema: Option<SchemaRef>,
}

impl fmt::Debug for PostgresTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresTable({})", self.source.relation)
    }
}

#[async_trait::async_trait]
impl ConnectorTable for PostgresTable {
    fn connector(&self) -> &'static str {
        "postgres"
    }

    fn schema(&self) -> Option<SchemaRef> {
        self.schema.clone()
    }

    fn direction(&self) -> Direction {
        Direction::Lookup
    }

    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn lookup_options(&self) -> Option<LookupOptions> {
        Some(self.lookup)
    }

    async fn check_lookup(&self, key: &[String]) -> Result<()> {
        let statement = self.source.describe().await?;
        match &self.schema {
            Some(declared) => columns::check(declared, key, statement.columns(), &self.source.named()),
            None => Ok(()),
        }
    }

    fn open_lookup(&self, context: LookupContext) -> Result<Arc<dyn Lookup>> {
        Ok(Arc::new(lookup::PostgresLookup::new(Arc::clone(&self.source), context)))
    }
}

#[cfg(test)]
mod tests;
