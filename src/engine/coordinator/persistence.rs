//! Between the parts that drivers hand over and the checkpoints of `state`: the only file here that knows both forms.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::engine::coordinator::evolution::SavedLineages;
use crate::engine::error::Error;
use crate::engine::graph::JobGraph;
use crate::engine::job_context::{NothingSaved, OperatorPart, PartContent, RestorePoint};
use crate::engine::message::BarrierKind;
use crate::engine::results::history::PinnedInput;
use crate::ids::{Epoch, Generation, OperatorId, SubtaskIndex};
use crate::state::key_group::KeyGroups;
use crate::state::manifest::{CheckpointKind, Manifest};
use crate::state::restore::{RestoredState, read_committables};
use crate::state::snapshot::{CheckpointHeader, SubtaskSnapshot, load_manifest, write_checkpoint};
use crate::state::storage::CheckpointStorage;
use crate::state::table::StateReader;

/// What a checkpoint is written under.
#[derive(Clone)]
pub struct CheckpointIdentity {
    pub epoch: Epoch,
    pub generation: Generation,
    pub kind: BarrierKind,
    pub key_groups: KeyGroups,
    /// The checkpoint that unchanged state is taken from.
    pub parent: Option<Arc<Manifest>>,
    pub created_at_micros: i64,
    /// The operators that keep state, with their lineages.
    pub lineages: Arc<SavedLineages>,
}

/// Output that a sink prepared for an epoch which was aborted: it becomes part of the next one, or it would be lost.
#[derive(Clone, Debug)]
pub struct CarriedOutput {
    operator: OperatorId,
    subtask: SubtaskIndex,
    parallelism: u32,
    committable: Bytes,
}

/// The epochs of other pipelines that the parts continue from.
pub fn take_inputs(parts: &mut [OperatorPart]) -> Vec<PinnedInput> {
    let inputs = parts.iter_mut().filter_map(|part| match &mut part.content {
        PartContent::Input(offsets) => Some(std::mem::take(&mut offsets.inputs)),
        PartContent::State(_) | PartContent::Sink { .. } => None,
    });
    inputs.flatten().collect()
}

/// In the form that is written; `carried` output comes before that of the epoch itself.
pub fn snapshots(parts: Vec<OperatorPart>, carried: &[CarriedOutput]) -> Vec<SubtaskSnapshot> {
    let own: Vec<SubtaskSnapshot> = parts.into_iter().map(snapshot).collect();
    let carry = |output: &CarriedOutput| {
        let now = own
            .iter()
            .find(|part| part.operator == output.operator && part.subtask == output.subtask);
        SubtaskSnapshot {
            operator: output.operator.clone(),
            subtask: output.subtask,
            parallelism: output.parallelism,
            tables: Vec::new(),
            committable: Some(output.committable.clone()),
            sink_position: None,
            // Only the output is of the past.
            watermark: now.and_then(|part| part.watermark),
            finished: now.is_some_and(|part| part.finished),
        }
    };
    let carried: Vec<SubtaskSnapshot> = carried.iter().map(carry).collect();
    carried.into_iter().chain(own).collect()
}

/// All output in `snapshots`, for the epoch after one that was aborted.
pub fn output_to_carry(snapshots: &[SubtaskSnapshot]) -> Vec<CarriedOutput> {
    let output = snapshots.iter().filter_map(|snapshot| {
        Some(CarriedOutput {
            operator: snapshot.operator.clone(),
            subtask: snapshot.subtask,
            parallelism: snapshot.parallelism,
            committable: snapshot.committable.clone()?,
        })
    });
    output.collect()
}

fn snapshot(part: OperatorPart) -> SubtaskSnapshot {
    let (tables, committable, sink_position) = match part.content {
        PartContent::Input(offsets) => (vec![offsets.into_table()], None, None),
        PartContent::State(tables) => (tables, None, None),
        PartContent::Sink { committable, position } => (Vec::new(), committable, position),
    };
    SubtaskSnapshot {
        operator: part.operator,
        subtask: part.subtask,
        parallelism: part.parallelism,
        tables,
        committable,
        sink_position,
        watermark: part.watermark,
        finished: part.ended,
    }
}

/// Writes all files of a checkpoint; gives the manifest and where it is. Nothing is decided by that.
pub async fn save(
    storage: &CheckpointStorage,
    pipeline_path: &str,
    identity: &CheckpointIdentity,
    snapshots: Vec<SubtaskSnapshot>,
) -> Result<(Manifest, String), Error> {
    let header = CheckpointHeader {
        epoch: identity.epoch,
        generation: identity.generation,
        parent: identity.parent.as_deref(),
        key_groups: identity.key_groups,
        kind: match identity.kind {
            BarrierKind::Tick | BarrierKind::Checkpoint => CheckpointKind::Checkpoint,
            BarrierKind::Savepoint => CheckpointKind::Savepoint,
            BarrierKind::Stop => CheckpointKind::Stop,
        },
        created_at_micros: identity.created_at_micros,
        lineages: identity
            .lineages
            .0
            .iter()
            .map(|(id, lineage)| (id.0.clone(), lineage.clone()))
            .collect(),
    };
    Ok(write_checkpoint(storage, pipeline_path, header, snapshots).await?)
}

/// A checkpoint all of whose files are there and undamaged, ready to start from.
pub struct OpenCheckpoint {
    pub manifest: Arc<Manifest>,
    pub restored: Arc<dyn RestorePoint>,
}

/// Reads and checks every file of the checkpoint; what is damaged is told before anything is decoded.
pub fn open_checkpoint<'a>(
    storage: &'a CheckpointStorage,
    path: &'a str,
    runtime: tokio::runtime::Handle,
) -> BoxFuture<'a, Result<OpenCheckpoint, Error>> {
    // Boxed with its type said: the compiler does not see through the streams inside.
    Box::pin(async move {
        let manifest = load_manifest(storage, path).await?;
        let state = RestoredState::open(storage, manifest.clone()).await?;
        Ok(OpenCheckpoint {
            manifest: Arc::new(manifest),
            restored: Arc::new(Restored { state, runtime }),
        })
    })
}

/// The manifest alone.
pub async fn load(storage: &CheckpointStorage, path: &str) -> Result<Manifest, Error> {
    Ok(load_manifest(storage, path).await?)
}

/// What the operators of a checkpoint were. One that an older version wrote does not say: nothing is equal to that.
pub fn saved_lineages(manifest: &Manifest) -> SavedLineages {
    if manifest.lineages.is_empty() {
        let unknown = |id: OperatorId| (id, String::new());
        return SavedLineages(manifest.operators().into_iter().map(unknown).collect());
    }
    let known = |(id, lineage): (&String, &String)| (OperatorId(id.clone()), lineage.clone());
    SavedLineages(manifest.lineages.iter().map(known).collect())
}

/// The part of a checkpoint that another definition goes on with.
pub struct PartOfCheckpoint {
    whole: Arc<dyn RestorePoint>,
    nothing: NothingSaved,
    /// Whose state is used, and whether it is put out once more.
    used: BTreeMap<OperatorId, bool>,
}

impl PartOfCheckpoint {
    pub fn new(whole: Arc<dyn RestorePoint>, key_groups: KeyGroups, used: BTreeMap<OperatorId, bool>) -> Self {
        PartOfCheckpoint {
            whole,
            nothing: NothingSaved { key_groups },
            used,
        }
    }

    fn of(&self, operator: &OperatorId) -> &dyn RestorePoint {
        match self.used.contains_key(operator) {
            true => self.whole.as_ref(),
            false => &self.nothing,
        }
    }
}

impl RestorePoint for PartOfCheckpoint {
    fn reader(&self, operator: &OperatorId, subtask: SubtaskIndex, parallelism: u32) -> Box<dyn StateReader> {
        self.of(operator).reader(operator, subtask, parallelism)
    }

    fn sink_positions(&self, operator: &OperatorId) -> Vec<String> {
        self.of(operator).sink_positions(operator)
    }

    fn watermark(&self, operator: &OperatorId) -> Option<i64> {
        self.of(operator).watermark(operator)
    }

    fn repeats(&self, operator: &OperatorId) -> bool {
        self.used.get(operator).copied().unwrap_or(false)
    }
}

/// What the sinks of an epoch have to commit, by operator, in the order of subtasks.
pub type Committables = BTreeMap<OperatorId, Vec<Bytes>>;

pub fn committables(snapshots: &[SubtaskSnapshot]) -> Committables {
    let prepared = snapshots.iter().filter_map(|snapshot| {
        let bytes = snapshot.committable.clone()?;
        Some((&snapshot.operator, snapshot.subtask, bytes))
    });
    let mut prepared: Vec<_> = prepared.collect();
    // What was carried over stays before what came later.
    prepared.sort_by_key(|(_, subtask, _)| subtask.0);
    let mut found = Committables::new();
    for (operator, _, bytes) in prepared {
        found.entry(operator.clone()).or_default().push(bytes);
    }
    found
}

/// The same from a checkpoint of an earlier run.
pub async fn load_committables(storage: &CheckpointStorage, path: &str) -> Result<Committables, Error> {
    let manifest = load_manifest(storage, path).await?;
    Ok(read_committables(storage, &manifest).await?)
}

struct Restored {
    state: RestoredState,
    runtime: tokio::runtime::Handle,
}

impl RestorePoint for Restored {
    fn reader(&self, operator: &OperatorId, subtask: SubtaskIndex, parallelism: u32) -> Box<dyn StateReader> {
        self.state.reader(operator, subtask, parallelism, self.runtime.clone())
    }

    fn sink_positions(&self, operator: &OperatorId) -> Vec<String> {
        self.state.sink_positions(operator)
    }

    fn watermark(&self, operator: &OperatorId) -> Option<i64> {
        self.state.watermark(operator)
    }
}

/// Why `manifest` cannot be the start of `graph`; `None` when it can. State is found again by operator id: an operator
/// that keeps something must be there under the same id in both.
pub fn mismatch(manifest: &Manifest, graph: &JobGraph) -> Option<String> {
    let saved: BTreeSet<OperatorId> = manifest.operators().into_iter().collect();
    let missing: Vec<&str> = graph
        .nodes
        .iter()
        .filter(|node| node.operator.keeps_state() && !saved.contains(&node.id))
        .map(|node| node.operator.name())
        .collect();
    let present: BTreeSet<&OperatorId> = graph.nodes.iter().map(|node| &node.id).collect();
    let kept = |table: &&crate::state::manifest::TableEntry| table.parts.iter().any(|part| part.rows > 0);
    let lost: BTreeSet<&str> = manifest
        .tables
        .iter()
        .filter(kept)
        .filter(|table| !present.contains(&OperatorId(table.operator.clone())))
        .map(|table| table.table.as_str())
        .collect();
    if missing.is_empty() && lost.is_empty() {
        return None;
    }
    let lost = lost.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!(
        "Operators without saved state: {}; saved tables without an operator: {}.",
        if missing.is_empty() {
            "none".to_owned()
        } else {
            missing.join(", ")
        },
        if lost.is_empty() { "none".to_owned() } else { lost },
    ))
}
