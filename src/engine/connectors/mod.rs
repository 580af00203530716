//! Connectors: the systems outside. One file or folder each, one line in [`REGISTRY`].
//!
//! A connector describes its options once ([`ConnectorDescription`]); SHOW CONNECTORS, REST, error hints and the manual
//! come from that. Sources are pulled and never block; sinks prepare at a barrier and are committed after the epoch was
//! decided. Neither sees control messages, timers or other operators.
//!
//! Guarantee: a source restored with offsets it reported delivers exactly the rows after them. A prepared committable can
//! be committed any number of times with the effect of once.

pub mod blackhole;
pub(crate) mod files;
pub mod filesystem;
pub mod impulse;
pub mod kafka;
pub mod kept_outside;
pub mod lookup;
pub mod nexmark;
pub mod options;
pub mod postgres;
pub(crate) mod rate;
pub mod single_file;
pub mod stdout;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::clock::Clock;
use crate::engine::connectors::kept_outside::{KeptOutside, PipelineUse};
use crate::engine::connectors::lookup::{Lookup, LookupContext, LookupOptions};
use crate::engine::connectors::options::{CommonOptions, OptionReader};
use crate::engine::error::Error;
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Chunk, Weights};
use crate::engine::results::history::{PinnedInput, ResultHistory};
use crate::ids::{Epoch, Generation, SubtaskIndex};
use crate::options::ResolvedOptions;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A kind of outside system.
#[async_trait::async_trait]
pub trait Connector: Send + Sync {
    /// As in `WITH (connector = '..')`.
    fn name(&self) -> &'static str;

    fn describe(&self) -> ConnectorDescription;

    /// Checks and types the options of a table; no network and no disk. `declared` are the columns that the statement
    /// gives (`None` when it leaves them to the connector).
    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>>;

    /// Checks the options of a connection and, unless the user said `validate = false`, reaches out to the system.
    async fn check_connection(&self, options: &ResolvedOptions) -> Result<()> {
        OptionReader::for_connection(&self.describe(), options).map(|_| ())
    }

    /// The columns of a source declared without any: from a sample, a file's footer, the connector's fixed schema.
    /// May do I/O. `None`: this connector cannot tell.
    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        self.known_schema(options)
    }

    /// The columns of a source or sink declared without any, where the options alone say them: a schema of the format's.
    fn known_schema(&self, _options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        Ok(None)
    }
}

/// A table of a connector with its options typed and checked.
#[async_trait::async_trait]
pub trait ConnectorTable: Send + Sync + fmt::Debug {
    fn connector(&self) -> &'static str;

    /// Every column that a source can deliver, metadata columns included, or that a sink takes. A sink without declared
    /// columns gives `None` and takes those of its query.
    fn schema(&self) -> Option<SchemaRef>;

    fn direction(&self) -> Direction;

    /// The options that every table has: what becomes of bad rows, event time, watermarks.
    fn common(&self) -> CommonOptions;

    /// The column of [`ConnectorTable::schema`] that is event time when the user names none; rows of a split come in its
    /// order.
    fn event_time_column(&self) -> Option<&'static str> {
        None
    }

    /// Whether a source ends by itself.
    fn bounded(&self) -> bool {
        false
    }

    /// Whether a source only adds rows. One that also takes rows away answers [`SourcePoll::Changes`].
    fn append_only(&self) -> bool {
        true
    }

    /// What a source does with the PRIMARY KEY of its table.
    fn source_key(&self) -> SourceKey {
        SourceKey::Unused
    }

    /// The most subtasks that may write; `Some(1)` for a single file.
    fn sink_parallelism_max(&self) -> Option<u32> {
        None
    }

    /// Whether a sink can take retractions, and how; the planner refuses others with a hint.
    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        let _ = primary_key;
        SinkChangelogSupport::AppendOnly
    }

    fn guarantee(&self) -> DeliveryGuarantee;

    /// What the user should hear before the table is read, such as that there is no file; asked by statements, never at a
    /// restart.
    async fn input_warning(&self) -> Option<String> {
        None
    }

    /// What a fresh start of the sink would destroy although nobody declared it to be a sink's: the path of a file that
    /// has content. Asked when a statement first names the table as a target, never at a restart.
    fn would_destroy(&self) -> Option<String> {
        None
    }

    /// Why a source that is read again from its start would not give the rows that it gave; `None`: it does.
    fn cannot_replay(&self) -> Option<String> {
        None
    }

    /// Whether a sink that starts without a position drops what it has written before, so that nothing is there twice.
    fn sink_begins_anew(&self) -> bool {
        false
    }

    fn open_source(&self, _context: SourceContext) -> Result<Box<dyn Source>> {
        Err(Error::NoSource {
            connector: self.connector(),
        })
    }

    fn open_sink(&self, _context: SinkContext) -> Result<Box<dyn Sink>> {
        Err(Error::NoSink {
            connector: self.connector(),
        })
    }

    /// How the table is used when rows are looked up in it; `None`: they cannot be.
    fn lookup_options(&self) -> Option<LookupOptions> {
        None
    }

    /// Whether the table outside has the declared columns, of which `key` are the primary key; asked by CREATE TABLE of a lookup
    /// table, never at a restart.
    async fn check_lookup(&self, key: &[String]) -> Result<()> {
        let _ = key;
        Ok(())
    }

    /// What answers the keys of one subtask. No network and no disk yet.
    fn open_lookup(&self, _context: LookupContext) -> Result<Arc<dyn Lookup>> {
        Err(Error::NoLookup {
            connector: self.connector(),
        })
    }

    /// Whether what is outside fits the declared columns, of which `key` are the primary key; asked by CREATE TABLE of tables that
    /// are no lookup tables, never at a restart.
    async fn check_outside(&self, key: &[String]) -> Result<()> {
        let _ = key;
        Ok(())
    }

    /// What commits the sink's committables; one for all subtasks, used on the I/O runtime. No network and no disk yet.
    async fn open_committer(&self, _context: CommitterContext) -> Result<Box<dyn Committer>> {
        Ok(Box::new(NothingToCommit))
    }

    /// What a pipeline that uses the table so keeps outside beside its rows, for good; `None`: nothing. No network and no disk.
    fn kept_outside(&self, _by: &PipelineUse) -> Option<KeptOutside> {
        None
    }

    /// Removes that. The pipeline is gone and will not come back, though the last of its connections may be about to end. Idempotent.
    async fn forget(&self, _by: &PipelineUse) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Source,
    Sink,
    /// Source and sink.
    Both,
    /// Only asked by key; connectors that can do more have options of this direction.
    Lookup,
}

/// How a source tells which row a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKey {
    /// Rows are what they are: one that goes is equal to one that came.
    Unused,
    /// With a key, a row that comes replaces the one of its key, and one that goes need have nothing but its key: whoever
    /// opens the source gives it a key only if it sorts that out. Without one, as [`SourceKey::Unused`].
    Used,
    /// The same, and without a key it cannot be read.
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkChangelogSupport {
    AppendOnly,
    /// Without a PRIMARY KEY rows that only come; updates need one.
    AppendUnlessKeyed,
    Any(SinkChangelog),
    /// Upserts, if the table has a PRIMARY KEY.
    NeedsKey,
}

/// What a sink promises when the server crashes; shown in SHOW TABLES, REST and a NOTICE when it is less than exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryGuarantee {
    ExactlyOnce,
    AtLeastOnce,
    AtMostOnce,
}

impl DeliveryGuarantee {
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryGuarantee::ExactlyOnce => "exactly-once",
            DeliveryGuarantee::AtLeastOnce => "at-least-once",
            DeliveryGuarantee::AtMostOnce => "at-most-once",
        }
    }
}

/// What a source is opened with.
pub struct SourceContext {
    pub subtask: SubtaskIndex,
    pub parallelism: u32,
    /// The columns to deliver, a subset of [`ConnectorTable::schema`] in any order.
    pub schema: SchemaRef,
    /// Which of them are the key by which rows replace each other (see [`SourceKey`]). A row that goes may be NULL in all
    /// others, whatever the schema says: see [`keyed_schema`].
    pub key: Option<Vec<usize>>,
    /// The offsets that all subtasks reported at the restored checkpoint; empty on a fresh start. Splits are assigned by
    /// the source: it takes those that belong to `subtask` of `parallelism`.
    pub restored: Vec<SplitOffset>,
    /// For I/O; the shard thread must not block.
    pub runtime: tokio::runtime::Handle,
    /// Wakes the shard when something arrived after [`SourcePoll::Pending`].
    pub waker: Arc<dyn Wake>,
    pub clock: Arc<dyn Clock>,
    pub bad_rows: Arc<dyn BadRowHandler>,
    /// Of the pipelines of this server.
    pub results: Arc<dyn ResultHistory>,
    /// Names the reader in the world and for good: the pipeline's public id and the table's name. `None`: of a job that is never
    /// restored, which must leave nothing behind.
    pub reader: Option<String>,
}

/// Wakes the shard that runs a source or a sink; cheap, callable from any thread.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// Told of every row that could not be decoded; decides by the table's `bad_data` option.
pub trait BadRowHandler: Send + Sync {
    /// `Ok`: the row is left out (and counted, and kept when the policy is `dead_letter`). `Err`: the job fails.
    fn bad_row(&self, row: BadRow<'_>) -> Result<()>;
}

/// A row that could not be decoded.
#[derive(Clone, Copy, Debug)]
pub struct BadRow<'a> {
    /// Such as a file name and the line's byte offset.
    pub place: &'a str,
    pub offset: u64,
    pub raw: &'a [u8],
    pub reason: &'a str,
}

/// A pulled input.
pub trait Source: Send {
    /// The next rows, at most about `rows_max`. Never blocks: with nothing at hand it answers `Pending` and wakes the
    /// shard through its context when that changes.
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll>;

    /// A barrier passes behind what `poll` returned so far.
    fn at_barrier(&mut self, _epoch: Epoch) {}

    /// The checkpoint of that barrier counts: a restart will not go back behind it.
    fn epoch_decided(&mut self, _epoch: Epoch) {}

    /// Where each split of this subtask stands after what `poll` returned so far: the next row to read.
    fn offsets(&self) -> Vec<SplitOffset>;

    /// Epochs of other pipelines' results without which `offsets` would mean nothing.
    fn inputs(&self) -> Vec<PinnedInput> {
        Vec::new()
    }

    /// It answered `Pending` although it knows of more.
    fn is_behind(&self) -> bool {
        false
    }

    /// Bytes taken from outside so far, for metrics.
    fn bytes_read(&self) -> u64 {
        0
    }

    /// Asked now and then.
    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }
}

/// How a source stands, for those who watch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// Of splits in the order of [`Source::offsets`]; shorter where nothing is known of the rest.
    pub lags: Vec<SplitLag>,
    /// What [`SplitLag::lag`] counts: `records`, `bytes`.
    pub unit: &'static str,
    /// What of the outside holds it up, in words; the shard is woken when that changes.
    pub waits_for: Option<String>,
}

/// How far a split is behind, as far as the system outside has said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitLag {
    /// The end of the split, written as its offset is.
    pub end: Option<String>,
    pub lag: Option<u64>,
}

pub enum SourcePoll {
    /// Rows of one split; splits are numbered by the source, stably within one run.
    Rows {
        split: usize,
        rows: RecordBatch,
    },
    /// Rows that came (+1) and went (-1), a weight a row; only of tables that are not
    /// [`append_only`](ConnectorTable::append_only).
    Changes {
        split: usize,
        rows: RecordBatch,
        weights: ScalarBuffer<i64>,
    },
    /// Nothing now: wait for the waker, or until the given time.
    Pending(Option<Instant>),
    /// The split has ended (bounded input): it no longer holds back the watermark.
    SplitFinished {
        split: usize,
    },
    Finished,
}

impl SourcePoll {
    /// What a decoder gave.
    pub fn decoded(split: usize, rows: RecordBatch, weights: Weights) -> SourcePoll {
        match weights {
            Weights::AllInsert => SourcePoll::Rows { split, rows },
            Weights::Signed(weights) => SourcePoll::Changes { split, rows, weights },
        }
    }
}

/// A position that survives: the split's stable name and an opaque offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitOffset {
    pub split: String,
    /// JSON text, so that checkpoints can be read by people.
    pub offset: String,
}

/// What a sink is opened with.
pub struct SinkContext {
    pub subtask: SubtaskIndex,
    pub parallelism: u32,
    /// The columns it gets.
    pub schema: SchemaRef,
    pub changelog: SinkChangelog,
    /// What [`Prepared::position`] of this sink's subtasks was at the restored checkpoint; empty on a fresh start.
    pub restored: Vec<String>,
    /// As [`CommitterContext::sink`].
    pub sink: String,
    /// The run; those before it had smaller ones.
    pub generation: Generation,
    pub runtime: tokio::runtime::Handle,
    pub waker: Arc<dyn Wake>,
    pub clock: Arc<dyn Clock>,
}

/// A pushed output.
pub trait Sink: Send {
    /// Whether `write` would take rows now; when not, the shard is woken later and asks again.
    fn ready(&mut self) -> bool {
        true
    }

    fn write(&mut self, chunk: &Chunk) -> Result<()>;

    /// Whether `prepare` would do now; when not, the shard is woken later and asks again.
    fn can_prepare(&mut self) -> bool {
        true
    }

    /// The next `prepare` is the last one: the input has ended, or the pipeline stops. What would have stayed invisible until
    /// more comes belongs into it.
    fn stopping(&mut self) {}

    /// Makes what was written since the last call durable but, if the system can, invisible. Runs on the shard: work that
    /// waits goes into the returned [`Prepared::work`].
    fn prepare(&mut self, epoch: Epoch) -> Result<Prepared>;

    /// At a tick: push buffered rows out when the system behind has no transactions.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn bytes_written(&self) -> u64 {
        0
    }
}

/// What a sink has ready at a barrier.
#[derive(Default)]
pub struct Prepared {
    /// Goes into the checkpoint and to [`Committer::commit`] after the epoch was decided.
    pub committable: Option<Bytes>,
    /// Goes into the checkpoint and back to the sink at restore: JSON text, such as a file's length.
    pub position: Option<String>,
    /// Blocking work that must succeed before the checkpoint may complete, such as an fsync; runs on the I/O side.
    pub work: Option<Box<dyn FnOnce() -> Result<()> + Send>>,
}

/// What a committer is opened with.
pub struct CommitterContext {
    /// Names the sink in the world and for good: the pipeline's public id and the operator's (a pipeline may write twice into one
    /// table). Epochs of one name only grow, so a system that remembers the last one of each name can tell what it has already,
    /// and refuse a run that was replaced.
    pub sink: String,
}

/// Finishes what sinks prepared.
#[async_trait::async_trait]
pub trait Committer: Send {
    /// Idempotent: also called again after a crash with the same arguments, before any source starts.
    async fn commit(&mut self, epoch: Epoch, committables: Vec<Bytes>) -> Result<()>;
}

/// For sinks whose prepared output needs no second phase.
pub struct NothingToCommit;

#[async_trait::async_trait]
impl Committer for NothingToCommit {
    async fn commit(&mut self, _epoch: Epoch, _committables: Vec<Bytes>) -> Result<()> {
        Ok(())
    }
}

/// A connector as SHOW CONNECTORS, `GET /connectors`, hints and the manual present it.
#[derive(Clone, Debug)]
pub struct ConnectorDescription {
    pub name: &'static str,
    /// `Kafka`, `Single file`.
    pub title: &'static str,
    /// One sentence.
    pub summary: &'static str,
    pub category: &'static str,
    pub direction: Direction,
    pub formats: &'static [&'static str],
    pub options: Vec<OptionDescription>,
}

impl ConnectorDescription {
    /// Whether its tables may have `type = 'lookup'`.
    pub fn can_look_up(&self) -> bool {
        self.options.iter().any(|option| option.direction == Direction::Lookup)
    }
}

#[derive(Clone, Debug)]
pub struct OptionDescription {
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: &'static [&'static str],
    pub kind: OptionKind,
    pub required: bool,
    pub default: Option<&'static str>,
    /// Whether the option belongs to connections, to tables, or to both.
    pub scope: OptionScope,
    pub direction: Direction,
    /// One sentence.
    pub summary: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionScope {
    Connection,
    Table,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    Text,
    Secret,
    Boolean,
    Integer,
    Number,
    Duration,
    Enum(&'static [&'static str]),
}

/// Field metadata that marks a column as filled by the connector, not by the record: its value is the key of
/// `METADATA FROM 'key'`, such as `file`. [`ConnectorTable::schema`] ends with such fields, named `_key`; a declared
/// column that carries it is filled likewise.
pub const METADATA_FIELD: &str = "laminar:metadata";

/// The schema of what a source delivers whose rows replace each other by `key`.
pub fn keyed_schema(schema: &SchemaRef, key: Option<&[usize]>) -> SchemaRef {
    let Some(key) = key else { return Arc::clone(schema) };
    let field = |(at, field): (usize, &Arc<Field>)| field.as_ref().clone().with_nullable(!key.contains(&at));
    Arc::new(Schema::new(
        schema.fields().iter().enumerate().map(field).collect::<Vec<_>>(),
    ))
}

/// Every connector, by name.
pub static REGISTRY: &[&dyn Connector] = &[
    &blackhole::Blackhole,
    &filesystem::Filesystem,
    &impulse::Impulse,
    &kafka::Kafka,
    &nexmark::Nexmark,
    &postgres::Postgres,
    &single_file::SingleFile,
    &stdout::Stdout,
];

/// The connector called `name`.
pub fn find(name: &str) -> Result<&'static dyn Connector> {
    REGISTRY
        .iter()
        .copied()
        .find(|c| c.name() == name)
        .ok_or_else(|| Error::UnknownConnector {
            name: name.to_owned(),
            nearest: crate::error::nearest(name, REGISTRY.iter().map(|c| c.name())).map(str::to_owned),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_complete() {
        for connector in REGISTRY {
            let description = connector.describe();
            assert_eq!(description.name, connector.name());
            assert!(description.summary.ends_with('.'), "{}", description.name);
            let mut names: Vec<_> = description
                .options
                .iter()
                .flat_map(|option| std::iter::once(option.name).chain(option.aliases.iter().copied()))
                .collect();
            for option in &description.options {
                assert!(option.summary.ends_with('.'), "{} {}", description.name, option.name);
            }
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{} has two options of one name", description.name);
        }
    }

    #[test]
    fn unknown_connectors_have_a_nearest() {
        use crate::error::Report;
        let error = find("nexmrk").err().map(|error| error.report().hint);
        assert_eq!(
            error.flatten().as_deref(),
            Some("Perhaps you meant \"nexmark\"; SHOW CONNECTORS lists them.")
        );
        assert!(find("single_file").is_ok());
    }
}
