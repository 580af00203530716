//! Forgets old checkpoints and removes the files that no kept one needs.
//!
//! Kept: the newest few, those with a label, those whose sinks have not committed yet, those that another pipeline which
//! reads the result continues from. Rows go first, files after: a crash
//! in between leaves files for the next time, never a row without its files.

use crate::catalog::jobs::CheckpointRecord;
use crate::engine::coordinator::commit::CheckpointPlace;
use crate::engine::coordinator::recovery::catalog_error;
use crate::engine::error::Error;
use crate::ids::{Epoch, Generation};
use crate::state::gc;

/// Checkpoints that are kept without a label: enough to go back over damaged ones.
pub const CHECKPOINTS_KEPT: usize = 5;

/// How many are looked at; more than can come together between two collections.
const CHECKPOINTS_LISTED: usize = 10_000;

pub async fn collect_garbage(place: &CheckpointPlace, generation: Generation) -> Result<(), Error> {
    let held = place.history.hold_pins().await;
    let records = place
        .store
        .latest_checkpoints(place.pipeline, CHECKPOINTS_LISTED)
        .await
        .map_err(catalog_error)?;
    let mut needed = place
        .store
        .epochs_needed_of(place.pipeline)
        .await
        .map_err(catalog_error)?;
    needed.extend(place.history.pinned(place.pipeline));
    let (kept, old) = divide(&records, &needed);
    if !old.is_empty() {
        place
            .store
            .delete_checkpoints(place.pipeline, &old)
            .await
            .map_err(catalog_error)?;
    }
    drop(held);
    gc::collect(&place.storage, &place.path, &kept, generation, place.clock.now_micros()).await?;
    Ok(())
}

/// Manifests to keep, and epochs to forget. `records` are the newest first.
fn divide(records: &[CheckpointRecord], needed: &[Epoch]) -> (Vec<String>, Vec<Epoch>) {
    let mut kept = Vec::new();
    let mut old = Vec::new();
    for (position, record) in records.iter().enumerate() {
        let named = record.kept_label.is_some() || needed.contains(&record.epoch);
        if position < CHECKPOINTS_KEPT || named || !record.committed {
            kept.push(record.manifest_path.clone());
        } else {
            old.push(record.epoch);
        }
    }
    (kept, old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::jobs::CheckpointKind;
    use crate::ids::{JobId, Oid};

    #[test]
    fn the_newest_the_needed_and_the_uncommitted_are_kept() {
        let record = |epoch: u64| CheckpointRecord {
            id: format!("chk_{epoch}"),
            pipeline: Oid(1),
            job: JobId("job".into()),
            epoch: Epoch(epoch),
            generation: Generation(1),
            manifest_path: format!("m{epoch}"),
            kind: CheckpointKind::Checkpoint,
            state_rows: 0,
            bytes: 0,
            started_at: 0,
            finished_at: 0,
            committed: epoch != 2,
            kept_label: (epoch == 1).then(|| "before".to_owned()),
            final_: false,
            inputs: Vec::new(),
        };
        let records: Vec<_> = (1..=10).rev().map(record).collect();
        let (kept, old) = divide(&records, &[Epoch(4), Epoch(9)]);
        assert_eq!(kept, ["m10", "m9", "m8", "m7", "m6", "m4", "m2", "m1"]);
        assert_eq!(old, [Epoch(5), Epoch(3)]);
    }
}
