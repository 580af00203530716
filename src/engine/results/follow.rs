//! A pipeline that reads the result of another: first all rows of a durable epoch, then what each later one changed.
//!
//! The position is an epoch of the other pipeline, or a place in the difference between two. Only durable epochs are
//! delivered: what the other pipeline takes back in a crash was never seen here. While both run, the changes come from
//! memory; a start, a restart of the other pipeline and a reader that fell behind are bridged by the difference between
//! the rows of the last epoch delivered and those of the newest, both read from their checkpoints.
//!
//! Guarantee: a restart continues where the checkpoint was, whatever the other pipeline did meanwhile; the epochs that
//! are needed for that stay pinned. Not guaranteed: that every durable epoch is delivered by itself.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    ConnectorTable, DeliveryGuarantee, Direction, Source, SourceContext, SourcePoll, SplitOffset, Wake,
};
use crate::engine::error::Error;
use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::engine::operator::Result;
use crate::engine::operators::columns::batch_of;
use crate::engine::results::difference::{WeightedRows, consolidated, difference};
use crate::engine::results::history::{DurableEpoch, PinnedEpoch, PinnedInput, ResultHistory};
use crate::engine::results::subscription::{EpochChanges, Subscription};
use crate::error::{ErrorReport, SqlState};
use crate::ids::{Epoch, Oid};

/// The only split.
const SPLIT: &str = "result";

/// No change has this number.
const NOTHING_DELIVERED: u64 = u64::MAX;

/// Pieces that wait for the reader.
const PIECES_MAX: usize = 4;

/// The kept result of a pipeline as a table of another one.
#[derive(Clone, Debug)]
pub struct FollowedResult {
    pub pipeline: Oid,
    /// `public.totals`, for messages.
    pub name: String,
    pub schema: SchemaRef,
    pub append_only: bool,
    /// The pipeline ends by itself.
    pub bounded: bool,
}

#[async_trait::async_trait]
impl ConnectorTable for FollowedResult {
    fn connector(&self) -> &'static str {
        "pipeline"
    }

    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn direction(&self) -> Direction {
        Direction::Source
    }

    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }

    fn append_only(&self) -> bool {
        self.append_only
    }

    fn bounded(&self) -> bool {
        self.bounded
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        // Whoever needs rows of several subtasks spreads them by key: one reads.
        if context.subtask.0 != 0 {
            return Ok(Box::new(NothingToRead));
        }
        let saved = match context.restored.iter().find(|offset| offset.split == SPLIT) {
            Some(offset) => serde_json::from_str(&offset.offset)
                .map_err(|error| Error::Internal(format!("position \"{}\" in a result: {error}", offset.offset)))?,
            None => SavedPosition::default(),
        };
        let position = saved.pinned(context.results.as_ref(), self.pipeline);
        let changed = context.results.changed(self.pipeline);
        let delivered = Arc::new(AtomicU64::new(NOTHING_DELIVERED));
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let follower = Follower {
            table: self.clone(),
            columns: Columns::of(&self.schema, &context.schema)?,
            history: Arc::clone(&context.results),
            position: position.clone(),
            pieces: sender,
            waker: Arc::clone(&context.waker),
            changed: changed.clone(),
            observed: NOTHING_DELIVERED,
            delivered: Arc::clone(&delivered),
        };
        let _entered = context.runtime.enter();
        Ok(Box::new(ResultSource {
            pipeline: self.pipeline,
            append_only: self.append_only,
            task: crate::spawn::named("result follower", follower.run()),
            pieces,
            position,
            changed,
            delivered,
        }))
    }
}

struct NothingToRead;

impl Source for NothingToRead {
    fn poll(&mut self, _rows_max: usize) -> Result<SourcePoll> {
        Ok(SourcePoll::Finished)
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        Vec::new()
    }
}

/// Everything of `epoch` was delivered, and of the way from there to another epoch so many rows.
#[derive(Clone, Debug, Default)]
struct Position {
    epoch: Option<PinnedEpoch>,
    towards: Option<(PinnedEpoch, usize)>,
}

/// A position in a checkpoint.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedPosition {
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    towards: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    rows: usize,
}

fn is_zero(rows: &usize) -> bool {
    *rows == 0
}

impl SavedPosition {
    fn of(position: &Position) -> SavedPosition {
        SavedPosition {
            epoch: position.epoch.as_ref().map(|pinned| pinned.epoch.0),
            towards: position.towards.as_ref().map(|(pinned, _)| pinned.epoch.0),
            rows: position.towards.as_ref().map_or(0, |(_, rows)| *rows),
        }
    }

    fn pinned(&self, history: &dyn ResultHistory, pipeline: Oid) -> Position {
        Position {
            epoch: self.epoch.map(|epoch| history.pin(pipeline, Epoch(epoch))),
            towards: self
                .towards
                .map(|epoch| (history.pin(pipeline, Epoch(epoch)), self.rows)),
        }
    }
}

/// Rows for the reader, and where it stands after them.
struct Piece {
    changes: Option<WeightedRows>,
    position: Position,
}

enum Told {
    Piece(Piece),
    Ended,
}

struct ResultSource {
    pipeline: Oid,
    append_only: bool,
    pieces: mpsc::Receiver<Result<Told>>,
    position: Position,
    changed: watch::Receiver<u64>,
    /// As of which change everything has been delivered.
    delivered: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for ResultSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source for ResultSource {
    fn poll(&mut self, _rows_max: usize) -> Result<SourcePoll> {
        loop {
            let piece = match self.pieces.try_recv() {
                Ok(Ok(Told::Piece(piece))) => piece,
                Ok(Ok(Told::Ended)) => return Ok(SourcePoll::Finished),
                Ok(Err(error)) => return Err(error),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(SourcePoll::Pending(None)),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    return Err(Error::Internal("the follower of a result is gone".into()));
                }
            };
            self.position = piece.position;
            let Some(changes) = piece.changes.filter(|changes| changes.len() > 0) else {
                continue;
            };
            let (split, rows, weights) = (0, changes.rows, changes.weights);
            return Ok(if self.append_only {
                SourcePoll::Rows { split, rows }
            } else {
                SourcePoll::Changes { split, rows, weights }
            });
        }
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = serde_json::to_string(&SavedPosition::of(&self.position)).unwrap_or_default();
        vec![SplitOffset {
            split: SPLIT.into(),
            offset,
        }]
    }

    fn inputs(&self) -> Vec<PinnedInput> {
        let towards = self.position.towards.as_ref().map(|(pinned, _)| pinned);
        let pinned = self.position.epoch.iter().chain(towards);
        let input = |pinned: &PinnedEpoch| PinnedInput {
            pipeline: self.pipeline,
            pinned: pinned.clone(),
        };
        pinned.map(input).collect()
    }

    fn is_behind(&self) -> bool {
        self.delivered.load(Ordering::Acquire) != *self.changed.borrow() || !self.pieces.is_empty()
    }
}

/// Picks the reader's columns.
struct Columns {
    indices: Vec<usize>,
    schema: SchemaRef,
}

impl Columns {
    fn of(all: &SchemaRef, wanted: &SchemaRef) -> Result<Columns> {
        let index = |field: &Arc<arrow::datatypes::Field>| Ok(all.index_of(field.name())?);
        Ok(Columns {
            indices: wanted.fields().iter().map(index).collect::<Result<_>>()?,
            schema: Arc::clone(wanted),
        })
    }

    /// Types that mean the same and are laid out otherwise, as in a result kept by an older version, are cast.
    fn select(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let column = |(&index, field): (&usize, &Arc<arrow::datatypes::Field>)| {
            let column = rows.column(index);
            Ok(if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                cast(column, field.data_type())?
            })
        };
        let columns = self.indices.iter().zip(self.schema.fields()).map(column);
        batch_of(&self.schema, columns.collect::<Result<_>>()?, rows.num_rows())
    }
}

/// The reader has gone.
struct Gone;

/// Why following stopped for the moment.
enum Stop {
    Gone,
    Failed(Error),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

struct Follower {
    table: FollowedResult,
    columns: Columns,
    history: Arc<dyn ResultHistory>,
    position: Position,
    pieces: mpsc::Sender<Result<Told>>,
    waker: Arc<dyn Wake>,
    changed: watch::Receiver<u64>,
    /// The change that was there when the newest epoch was last asked for.
    observed: u64,
    delivered: Arc<AtomicU64>,
}

impl Follower {
    async fn run(mut self) {
        match self.follow().await {
            Ok(()) => {
                // The reader may have gone; nobody is left to tell.
                let _ = self.tell(Ok(Told::Ended)).await;
            }
            Err(Stop::Failed(error)) => {
                let _ = self.tell(Err(error)).await;
            }
            Err(Stop::Gone) => {}
        }
        // Until the source is dropped it must not look as if this had been lost.
        self.pieces.closed().await;
    }

    async fn tell(&self, told: Result<Told>) -> Result<(), Gone> {
        let sent = self.pieces.send(told).await.map_err(|_| Gone);
        self.waker.wake();
        sent
    }

    /// Until the last epoch of the pipeline was delivered.
    async fn follow(&mut self) -> Result<(), Stop> {
        loop {
            let run = self.history.result(self.table.pipeline);
            let subscribed = run.as_ref().map(|result| result.subscribe_from());
            drop(run);
            let mut known = None;
            // Until the subscription has every change after the epoch that was delivered.
            let subscription = loop {
                let newest = self.newest().await?;
                let epoch = newest.pinned.epoch;
                self.come_to(newest.pinned).await?;
                if newest.is_final {
                    return Ok(());
                }
                let begun = *known.get_or_insert(epoch);
                match &subscribed {
                    None => {}
                    Some((from, _)) if from.0 > 0 && epoch >= *from => break subscribed,
                    // What an epoch of 0 stands for is not known: any that this run has decided comes after.
                    Some(_) if epoch > begun => break subscribed,
                    Some(_) => {}
                }
                self.wait().await?;
                if subscribed.is_none() {
                    break None;
                }
            };
            if let Some((_, subscription)) = subscription
                && self.live(subscription).await?
            {
                return Ok(());
            }
        }
    }

    /// The newest durable epoch, once there is one.
    async fn newest(&mut self) -> Result<DurableEpoch, Stop> {
        loop {
            self.observed = *self.changed.borrow_and_update();
            if let Some(newest) = self.history.newest(self.table.pipeline).await? {
                return Ok(newest);
            }
            self.wait().await?;
        }
    }

    /// Everything was delivered: until there is more.
    async fn wait(&mut self) -> Result<(), Stop> {
        self.delivered.store(self.observed, Ordering::Release);
        self.waker.wake();
        // The other end goes with the server.
        self.changed.changed().await.map_err(|_| Stop::Gone)
    }

    /// Delivers the difference to `newest`, the one that was begun before first.
    async fn come_to(&mut self, newest: PinnedEpoch) -> Result<(), Stop> {
        if let Some((towards, rows)) = self.position.towards.clone() {
            self.deliver_difference(towards, rows).await?;
        }
        if self.position.epoch.as_ref().map(|pinned| pinned.epoch) == Some(newest.epoch) {
            return Ok(());
        }
        self.deliver_difference(newest, 0).await
    }

    async fn deliver_difference(&mut self, towards: PinnedEpoch, delivered: usize) -> Result<(), Stop> {
        let before = match &self.position.epoch {
            Some(pinned) => self.rows(pinned.epoch).await?,
            None => Vec::new(),
        };
        let after = self.rows(towards.epoch).await?;
        let mut at = 0;
        for changes in difference(&before, &after)? {
            self.check(&changes)?;
            for start in (0..changes.len()).step_by(CHUNK_ROWS_TARGET) {
                let length = CHUNK_ROWS_TARGET.min(changes.len() - start);
                at += length;
                if at <= delivered {
                    continue;
                }
                let position = Position {
                    epoch: self.position.epoch.clone(),
                    towards: Some((towards.clone(), at)),
                };
                let part = WeightedRows {
                    rows: changes.rows.slice(start, length),
                    weights: changes.weights.slice(start, length),
                };
                self.deliver(Some(part), position).await?;
            }
        }
        let position = Position {
            epoch: Some(towards),
            towards: None,
        };
        self.deliver(None, position).await
    }

    async fn rows(&self, epoch: Epoch) -> Result<Vec<RecordBatch>, Stop> {
        let rows = self.history.rows(self.table.pipeline, epoch).await?;
        Ok(rows
            .iter()
            .map(|rows| self.columns.select(rows))
            .collect::<Result<Vec<_>>>()?)
    }

    async fn deliver(&mut self, changes: Option<WeightedRows>, position: Position) -> Result<(), Stop> {
        self.position = position.clone();
        Ok(self.tell(Ok(Told::Piece(Piece { changes, position }))).await?)
    }

    /// A result that only grows may have gone back to an older checkpoint, by hand: then rows were delivered that it no
    /// longer has.
    fn check(&self, changes: &WeightedRows) -> Result<()> {
        if !self.table.append_only || !changes.takes_rows_away() {
            return Ok(());
        }
        let report = ErrorReport::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("\"{}\" no longer has rows that were read from it", self.table.name),
        );
        Err(Error::Option(report.with_hint(
            "It was started again from an older checkpoint. Start this pipeline over: RESTART PIPELINE name FROM CHECKPOINT 0.",
        )))
    }

    /// Delivers epoch by epoch what the subscription has, as the epochs become durable. True: the last was delivered;
    /// false: the run ended, or fell behind.
    async fn live(&mut self, mut subscription: Subscription) -> Result<bool, Stop> {
        let mut ahead = VecDeque::new();
        loop {
            self.wait().await?;
            let newest = self.newest().await?;
            let delivered = self.position.epoch.as_ref().map(|pinned| pinned.epoch);
            if delivered != Some(newest.pinned.epoch) {
                let Some(changes) = upto(&mut subscription, &mut ahead, newest.pinned.epoch).await else {
                    return Ok(false);
                };
                let after = |changes: &&EpochChanges| delivered.is_none_or(|delivered| changes.epoch > delivered);
                let chunks: Vec<_> = changes
                    .iter()
                    .filter(after)
                    .flat_map(|c| c.chunks.iter().cloned())
                    .collect();
                self.deliver_live(&chunks, newest.pinned).await?;
            }
            if newest.is_final {
                return Ok(true);
            }
        }
    }

    /// All of an epoch's changes in one go: their order is not one that a restart would find again.
    async fn deliver_live(
        &mut self,
        chunks: &[crate::engine::message::Chunk],
        pinned: PinnedEpoch,
    ) -> Result<(), Stop> {
        let parts = consolidated(chunks)?;
        let mut rows = Vec::with_capacity(parts.len());
        let mut weights = Vec::new();
        for part in &parts {
            self.check(part)?;
            rows.push(self.columns.select(&part.rows)?);
            weights.extend_from_slice(&part.weights);
        }
        let changes = WeightedRows {
            rows: arrow::compute::concat_batches(&self.columns.schema, &rows).map_err(Error::from)?,
            weights: weights.into(),
        };
        let position = Position {
            epoch: Some(pinned),
            towards: None,
        };
        self.deliver(Some(changes), position).await
    }
}

/// What the subscription has up to `epoch`; later ones wait in `ahead`. `None`: it has ended before.
async fn upto(
    subscription: &mut Subscription,
    ahead: &mut VecDeque<EpochChanges>,
    epoch: Epoch,
) -> Option<Vec<EpochChanges>> {
    let mut taken = Vec::new();
    loop {
        let next = match ahead.pop_front() {
            Some(next) => next,
            // An end, and an error, which says that too much was waiting, are both mended by the difference.
            None => subscription.next().await?.ok()?,
        };
        if next.epoch > epoch {
            ahead.push_front(next);
            return Some(taken);
        }
        let complete = next.epoch == epoch && next.progress;
        taken.push(next);
        if complete {
            return Some(taken);
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Told::Piece(_) => "piece",
            Told::Ended => "ended",
        })
    }
}
