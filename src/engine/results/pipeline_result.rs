//! One run's result: what its subtasks have published, and which epoch of it readers see.
//!
//! Subtasks publish an epoch when its barrier reaches them, so at different moments. Readers see the newest epoch that all
//! have published; subscribers get an epoch when it becomes that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;
use tokio::sync::watch;

use crate::engine::error::Error;
use crate::engine::message::Chunk;
use crate::engine::operator::Result;
use crate::engine::operators::keys::key_hashes;
use crate::engine::results::snapshot::{ResultSnapshot, Version};
use crate::engine::results::store::Store;
use crate::engine::results::subscription::{
    EpochChanges, SUBSCRIPTION_BYTES_DEFAULT, Subscriber, Subscription, subscription,
};
use crate::ids::Epoch;
use crate::state::key_group::KeyGroups;

/// What is known of a result before it has rows.
#[derive(Clone, Debug)]
pub struct ResultDescription {
    pub schema: SchemaRef,
    /// Columns that identify a row, when there are such.
    pub key: Option<Vec<usize>>,
    pub append_only: bool,
    /// Subtasks that publish.
    pub parallelism: u32,
    pub key_groups: KeyGroups,
}

pub struct PipelineResult {
    description: ResultDescription,
    published: Mutex<Published>,
    /// The newest epoch that readers see; `None` until every subtask has published.
    latest: watch::Sender<Option<Epoch>>,
}

struct Published {
    slots: Vec<Slot>,
    latest: Option<Epoch>,
    subscribers: Vec<Subscriber>,
    /// By epoch, what subtasks have published of epochs after the latest.
    pending: BTreeMap<Epoch, Vec<Chunk>>,
}

/// One subtask's.
#[derive(Default)]
struct Slot {
    /// Oldest first: the one that readers see, and newer ones.
    versions: VecDeque<Arc<Version>>,
    store: Option<Arc<RwLock<Store>>>,
    state: SlotState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SlotState {
    #[default]
    Vacant,
    Taken,
    /// The subtask is gone; its last version stays.
    Closed,
}

/// A subtask's hold on its slot. Dropping it says that no more epochs follow.
pub(crate) struct Publisher {
    result: Arc<PipelineResult>,
    subtask: usize,
}

impl PipelineResult {
    pub(super) fn new(description: ResultDescription) -> PipelineResult {
        let slots = (0..description.parallelism.max(1)).map(|_| Slot::default()).collect();
        PipelineResult {
            description,
            published: Mutex::new(Published {
                slots,
                latest: None,
                subscribers: Vec::new(),
                pending: BTreeMap::new(),
            }),
            latest: watch::channel(None).0,
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.description.schema
    }

    /// The columns that identify a row; [`PipelineResult::lookup`] takes their values in this order.
    pub fn key(&self) -> Option<&[usize]> {
        self.description.key.as_deref()
    }

    pub fn append_only(&self) -> bool {
        self.description.append_only
    }

    /// The newest epoch that every subtask has published; epoch 0 is what a run restored or began with.
    pub fn latest_epoch(&self) -> Epoch {
        self.latest.borrow().unwrap_or_default()
    }

    /// Every subtask has published: there is something to read, if only that there are no rows.
    pub fn is_ready(&self) -> bool {
        self.latest.borrow().is_some()
    }

    /// Changes with [`PipelineResult::latest_epoch`]; its sender goes with the result.
    pub fn epochs(&self) -> watch::Receiver<Option<Epoch>> {
        self.latest.subscribe()
    }

    /// The result at the latest epoch.
    pub fn snapshot(&self) -> ResultSnapshot {
        self.snapshot_of(&self.lock())
    }

    /// The row with these values in the key columns, at the latest epoch: none, or a batch of one row.
    pub fn lookup(&self, key: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let columns = self.key_arrays(key)?;
        let hash = key_hashes(&columns, 1, None)[0];
        let key_groups = self.description.key_groups;
        let owner = key_groups.owner_of(key_groups.group_of(hash), self.description.parallelism.max(1));
        let store = self.lock().slots[owner as usize].store.as_ref().map(Arc::clone);
        let Some(store) = store else {
            return Ok(None);
        };
        // The store is held still while the epoch is read, so the row is that of this epoch or of none before it.
        let store = store.read().unwrap_or_else(PoisonError::into_inner);
        let found = store.lookup(&columns, self.latest_epoch());
        Ok(found.map(|(rows, at)| rows.slice(at, 1)))
    }

    fn key_arrays(&self, key: &[ScalarValue]) -> Result<Vec<ArrayRef>> {
        let columns = self.key().unwrap_or_default();
        if columns.is_empty() || columns.len() != key.len() {
            return Err(Error::Internal(format!(
                "a look-up by {} values in a result with {} key columns",
                key.len(),
                columns.len()
            )));
        }
        let array = |(value, &column): (&ScalarValue, &usize)| {
            Ok(value.cast_to(self.schema().field(column).data_type())?.to_array()?)
        };
        key.iter().zip(columns).map(array).collect()
    }

    /// Every change after the latest epoch, before them (`with_snapshot`) the rows as they are.
    pub fn subscribe(&self, with_snapshot: bool) -> Subscription {
        self.subscribe_bounded(with_snapshot, SUBSCRIPTION_BYTES_DEFAULT)
    }

    /// The same with the bytes that may wait for the reader.
    pub fn subscribe_bounded(&self, with_snapshot: bool, limit: usize) -> Subscription {
        let mut published = self.lock();
        let initial = with_snapshot.then(|| self.snapshot_of(&published));
        let (subscriber, subscription) = subscription(initial, limit);
        if !published.is_over() {
            published.subscribers.push(subscriber);
        }
        subscription
    }

    /// Every change after the epoch that is given with it.
    pub fn subscribe_from(&self) -> (Epoch, Subscription) {
        let mut published = self.lock();
        let (subscriber, subscription) = subscription(None, SUBSCRIPTION_BYTES_DEFAULT);
        if !published.is_over() {
            published.subscribers.push(subscriber);
        }
        (published.latest.unwrap_or_default(), subscription)
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot_of(&self, published: &Published) -> ResultSnapshot {
        let versions = match published.latest {
            Some(_) => published
                .slots
                .iter()
                .filter_map(|slot| slot.versions.front())
                .map(Arc::clone)
                .collect(),
            None => Vec::new(),
        };
        ResultSnapshot {
            schema: Arc::clone(&self.description.schema),
            epoch: published.latest.unwrap_or_default(),
            versions,
        }
    }

    /// Whether a run with this description and a subtask of this number can be part of the same run.
    pub(super) fn accepts(&self, description: &ResultDescription, subtask: u32) -> bool {
        let published = self.lock();
        let none_closed = published.slots.iter().all(|slot| slot.state != SlotState::Closed);
        let vacant = published
            .slots
            .get(subtask as usize)
            .is_some_and(|slot| slot.state == SlotState::Vacant);
        let own = &self.description;
        none_closed
            && vacant
            && own.parallelism == description.parallelism
            && own.schema == description.schema
            && own.key == description.key
    }

    pub(super) fn attach(self: &Arc<Self>, subtask: u32, store: &Arc<RwLock<Store>>) -> Publisher {
        let slot = &mut self.lock().slots[subtask as usize];
        slot.state = SlotState::Taken;
        slot.store = Some(Arc::clone(store));
        Publisher {
            result: Arc::clone(self),
            subtask: subtask as usize,
        }
    }
}

impl Publisher {
    pub fn parallelism(&self) -> u32 {
        self.result.description.parallelism
    }

    /// The epoch that readers see.
    pub fn visible_epoch(&self) -> Epoch {
        self.result.latest_epoch()
    }

    /// Publishes what the subtask has at `version`'s epoch and how it came from its last one.
    pub fn publish(&self, version: Version, changes: Vec<Chunk>) {
        let mut guard = self.result.lock();
        let published = &mut *guard;
        let epoch = version.epoch;
        let slot = &mut published.slots[self.subtask];
        slot.versions.push_back(Arc::new(version));
        published.pending.entry(epoch).or_default().extend(changes);
        let newest = published
            .slots
            .iter()
            .map(|slot| slot.versions.back().map(|version| version.epoch));
        // None as long as a subtask has not published anything.
        let Some(complete) = newest.min().flatten() else {
            return;
        };
        if published.latest.is_some_and(|latest| complete <= latest) {
            return;
        }
        for slot in &mut published.slots {
            while slot.versions.get(1).is_some_and(|next| next.epoch <= complete) {
                slot.versions.pop_front();
            }
        }
        let is_first = published.latest.is_none();
        published.latest = Some(complete);
        let later = published.pending.split_off(&complete.next());
        for (epoch, mut chunks) in std::mem::replace(&mut published.pending, later) {
            if is_first && epoch == complete {
                // Whoever subscribed before there was anything was given nothing to begin with.
                chunks = published.all_rows();
            }
            let changes = EpochChanges {
                epoch,
                chunks: chunks.into(),
                progress: true,
            };
            published.subscribers.retain(|subscriber| subscriber.send(&changes));
        }
        published.end_when_over();
        self.result.latest.send_replace(Some(complete));
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut published = self.result.lock();
        published.slots[self.subtask].state = SlotState::Closed;
        published.end_when_over();
    }
}

impl Published {
    /// No further epoch can become complete: a subtask that is gone has published none after the latest.
    fn is_over(&self) -> bool {
        self.slots.iter().any(|slot| {
            let newest = slot.versions.back().map(|version| version.epoch);
            slot.state == SlotState::Closed && newest <= self.latest
        })
    }

    fn end_when_over(&mut self) {
        if self.is_over() {
            self.subscribers.clear();
        }
    }

    /// Every row that readers see.
    fn all_rows(&self) -> Vec<Chunk> {
        if self.subscribers.is_empty() {
            return Vec::new();
        }
        let segments = self
            .slots
            .iter()
            .filter_map(|slot| slot.versions.front())
            .flat_map(|version| &version.segments);
        segments
            .filter_map(|segment| segment.rows().ok())
            .map(Chunk::insert)
            .collect()
    }
}
