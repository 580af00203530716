//! Tables of a Postgres database: rows are read from them, looked up in them and written into them.
//!
//! Connections are opened when they are needed and again when they broke.
//!
//! Guarantee: what a sink writes is there once, whatever crashes: the rows of an epoch and the note that they are there are one
//! transaction of the server. Not guaranteed: that several questions of a lookup see one snapshot of the database.
//!
//! - [`options`] what a table is told, and where the server is.
//! - [`columns`] the types of both sides, and what fits what.
//! - [`lookup`] questions and answers, as JSON, in which Postgres writes every type without loss.
//! - [`source`] what sources share; [`poll`] new rows by a cursor; [`cdc`] the table and its [`changes`], which the server's [`slot`]
//!   keeps and gives as [`pgoutput`], read by way of [`row_json`].
//! - [`sink`] rows of an epoch as [`copy_text`] in a [`committable`]; [`committer`] the transaction, [`target`] the table.

mod cdc;
mod changes;
mod columns;
mod committable;
mod committer;
mod copy_text;
mod lookup;
mod options;
pub(crate) mod pgoutput;
mod poll;
mod row_json;
mod sink;
mod slot;
mod source;
mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use deadpool_postgres::{Object, Pool, PoolError};
use tokio_postgres::Statement;

use crate::engine::connectors::kept_outside::{KeptOutside, PipelineUse};
use crate::engine::connectors::lookup::{Lookup, LookupContext, LookupOptions, lookup_descriptions};
use crate::engine::connectors::options::{CommonOptions, OptionReader};
use crate::engine::connectors::postgres::cdc::CdcReader;
use crate::engine::connectors::postgres::committer::PostgresCommitter;
use crate::engine::connectors::postgres::options::TableUse;
use crate::engine::connectors::postgres::poll::PollReader;
use crate::engine::connectors::postgres::sink::PostgresSink;
use crate::engine::connectors::postgres::slot::SlotSession;
use crate::engine::connectors::postgres::target::Target;
use crate::engine::connectors::{
    Committer, CommitterContext, Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, Result,
    Sink, SinkChangelogSupport, SinkContext, Source, SourceContext, SourceKey,
};
use crate::engine::error::Error;
use crate::engine::graph::SinkChangelog;
use crate::error::{ErrorReport, Retry, SqlState};
use crate::options::ResolvedOptions;
use crate::postgres::{Address, CONNECT_TIMEOUT, with_source};

const CONNECTIONS_DEFAULT: usize = 4;
const STATEMENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The alias under which the table or query of the user stands in every statement.
const ROWS: &str = "t";

/// How long a source waits when there was nothing new.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const CDC_INTERVAL: Duration = Duration::from_millis(200);

/// A slot is used by a connection that is about to end.
const OBJECT_IN_USE: &str = "55006";

/// A server whose machine is gone is known to be so after this time.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub struct Postgres;

#[async_trait::async_trait]
impl Connector for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn describe(&self) -> ConnectorDescription {
        let mut options = options::address_options();
        options.extend(options::table_options());
        options.extend(lookup_descriptions(true));
        ConnectorDescription {
            name: "postgres",
            title: "PostgreSQL",
            summary: "Reads a table of a Postgres database and its changes, writes rows into it, or looks rows up in it by key.",
            category: "databases",
            direction: Direction::Both,
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
        let address = options::address(&reader)?;
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

impl Postgres {
    fn table(&self, given: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<PostgresTable> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, given)?;
        let Some(mut address) = options::address(&reader)? else {
            let message = "connector \"postgres\" needs option \"url\" or \"host\"";
            return Err(invalid(message, "Give them to the table or to its connection."));
        };
        let using = options::table_use(&reader, given)?;
        let timeout = reader.duration("statement_timeout")?;
        let timeout = timeout.or((using == TableUse::Lookup).then_some(STATEMENT_TIMEOUT_DEFAULT));
        if let (None, Some(timeout)) = (address.config.get_options(), timeout) {
            let milliseconds = timeout.as_millis();
            address.config.options(format!("-c statement_timeout={milliseconds}"));
        }
        address
            .config
            .keepalives_idle(SILENCE_MAX)
            .tcp_user_timeout(SILENCE_MAX);
        let connections = reader.integer("connections", 1)?;
        let connections = connections.and_then(|count| usize::try_from(count).ok());
        let interval = reader.duration("poll_interval")?;
        Ok(PostgresTable {
            using,
            interval: interval.unwrap_or(if using == TableUse::Cdc {
                CDC_INTERVAL
            } else {
                POLL_INTERVAL
            }),
            cursor: reader.text("cursor_column").unwrap_or_default().to_owned(),
            publication: reader.text("publication").map(str::to_owned),
            source: Arc::new(TableSource {
                relation: options::relation(&reader)?,
                shown: reader.text("table").unwrap_or("the query").to_owned(),
                pool: pool(address, connections.unwrap_or(CONNECTIONS_DEFAULT))?,
            }),
            lookup: LookupOptions::read(&reader)?,
            schema: declared,
        })
    }
}

/// Words that mean something to the server are names here.
fn quote_always(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn invalid(message: &str, hint: &str) -> Error {
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}

fn pool(address: Address, connections: usize) -> Result<Pool> {
    address.pool(connections).map_err(options::unusable)
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
    let passes = ["08", "40", "53", "57", "58", OBJECT_IN_USE]
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
    using: TableUse,
    /// Of sources, as the next two.
    interval: Duration,
    cursor: String,
    publication: Option<String>,
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
        match self.using {
            TableUse::Lookup => Direction::Lookup,
            TableUse::Sink => Direction::Sink,
            TableUse::Poll | TableUse::Cdc => Direction::Source,
        }
    }

    fn append_only(&self) -> bool {
        self.using != TableUse::Cdc
    }

    fn source_key(&self) -> SourceKey {
        match self.using {
            TableUse::Cdc => SourceKey::Required,
            _ => SourceKey::Unused,
        }
    }

    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        match primary_key {
            Some(key) => SinkChangelogSupport::Any(SinkChangelog::Upsert { key: key.to_vec() }),
            None => SinkChangelogSupport::AppendUnlessKeyed,
        }
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

    async fn check_outside(&self, key: &[String]) -> Result<()> {
        let statement = self.source.describe().await?;
        let named = self.source.named();
        let Some(declared) = &self.schema else {
            return Ok(());
        };
        match self.using {
            TableUse::Sink => columns::check_sink(declared, statement.columns(), &named)?,
            _ => columns::check(declared, &[], statement.columns(), &named)?,
        }
        if self.using == TableUse::Poll {
            return poll::check_cursor(&self.cursor, statement.columns(), &named);
        }
        let client = connection(&self.source.pool).await?;
        let target = Target::look(&client, &self.source.relation, !key.is_empty()).await?;
        if self.using == TableUse::Cdc {
            let session = SlotSession {
                client: &client,
                named: &named,
            };
            return session.check(&target, key).await;
        }
        let names: Vec<String> = declared.fields().iter().map(|field| field.name().clone()).collect();
        target.check(&names, key, &named)
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let (named, table) = (self.source.named(), Arc::clone(&self.source));
        let schema = Arc::clone(&context.schema);
        if self.using == TableUse::Poll {
            let make = |restored, _| PollReader::new(table, schema, self.cursor.clone(), self.interval, restored);
            return source::open(&context, named, false, make);
        }
        let make = |restored: Option<String>, durable| {
            let offset = restored.as_deref().map(cdc::parse_offset).transpose()?;
            Ok(CdcReader {
                source: table,
                schema,
                key: context.key.clone().unwrap_or_default(),
                slot: context.reader.as_deref().map(slot::slot_name),
                publication: self.publication.clone(),
                interval: self.interval,
                begun_before: offset.as_ref().is_some_and(|offset| offset.in_snapshot),
                offset,
                durable,
                log_end: None,
            })
        };
        source::open(&context, named, true, make)
    }

    fn open_sink(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        Ok(Box::new(PostgresSink::new(&context)))
    }

    async fn open_committer(&self, context: CommitterContext) -> Result<Box<dyn Committer>> {
        Ok(Box::new(PostgresCommitter::new(
            self.source.pool.clone(),
            self.source.relation.clone(),
            self.source.named(),
            context,
        )))
    }

    fn kept_outside(&self, by: &PipelineUse) -> Option<KeptOutside> {
        match (self.using, by) {
            (TableUse::Cdc, PipelineUse::Source(reader)) => Some(slot::kept(&slot::slot_name(reader))),
            (TableUse::Sink, PipelineUse::Sink(sink)) => Some(committer::kept(sink, &self.source.named())),
            _ => None,
        }
    }

    async fn forget(&self, by: &PipelineUse) -> Result<()> {
        match (self.using, by) {
            (TableUse::Cdc, PipelineUse::Source(reader)) => {
                let client = connection(&self.source.pool).await?;
                let named = self.source.named();
                let session = SlotSession {
                    client: &client,
                    named: &named,
                };
                session.forget(&slot::slot_name(reader)).await
            }
            (TableUse::Sink, PipelineUse::Sink(sink)) => {
                let client = connection(&self.source.pool).await?;
                committer::forget(&client, &self.source.relation, &self.source.named(), sink).await
            }
            _ => Ok(()),
        }
    }

    fn open_lookup(&self, context: LookupContext) -> Result<Arc<dyn Lookup>> {
        Ok(Arc::new(lookup::PostgresLookup::new(Arc::clone(&self.source), context)))
    }
}

#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;
