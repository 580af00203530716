//! How a manifest follows from the one before it and from what was written now. Pure.
//!
//! - A table keyed by groups: new parts are added; parts all of whose groups have a later base, or whose rows have all expired, go.
//! - A broadcast table: what a subtask writes replaces what it wrote; once all subtasks of the present parallelism have
//!   written, nothing older remains.
//! - A table, or a subtask, of which nothing was written now stays as it was: it did not change.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::state::encode::EncodedTable;
use crate::state::error::Error;
use crate::state::manifest::{Blob, Manifest, Part, SubtaskEntry, TableEntry};
use crate::state::snapshot::SubtaskSnapshot;

/// Where a blob was put: pack path, offset.
pub(super) type Place = (String, u64);

/// The lists of a new manifest.
pub(super) struct Merged {
    pub(super) packs: Vec<String>,
    pub(super) subtasks: Vec<SubtaskEntry>,
    pub(super) tables: Vec<TableEntry>,
}

/// Merges; `places` has a place for each blob of `written`, in order, then for each committable of `snapshots`.
pub(super) fn merge(
    parent: Option<&Manifest>,
    epoch: u64,
    snapshots: &[SubtaskSnapshot],
    written: &[EncodedTable],
    places: &[Place],
) -> Result<Merged, Error> {
    let mut packs = Packs::default();
    let mut tables = carried_over(parent, &mut packs);
    let mut places = places.iter();
    for write in written {
        let key = (write.operator.clone(), write.table.to_string());
        let entry = tables.entry(key).or_insert_with(|| TableEntry {
            operator: write.operator.clone(),
            table: write.table.to_string(),
            expiring: write.expiring,
            broadcast: write.broadcast,
            bases: Default::default(),
            expired: Default::default(),
            parts: Vec::new(),
        });
        if (entry.expiring, entry.broadcast) != (write.expiring, write.broadcast) {
            return Err(Error::Internal(format!(
                "table \"{}\" of operator \"{}\" changed its kind",
                write.table, write.operator
            )));
        }
        if write.broadcast {
            entry
                .parts
                .retain(|part| (part.subtask, part.parallelism) != (write.subtask, write.parallelism));
        }
        if let Some(range) = write.rebased {
            entry.bases.set(range, epoch);
        }
        if let Some(before) = write.expired_before {
            entry.expired.set(write.owned, before);
        }
        add_parts(entry, epoch, write, &mut places, &mut packs)?;
    }
    drop_former_broadcasts(&mut tables, epoch, written);
    for table in tables.values_mut() {
        drop_dead(table);
    }
    tables.retain(|_, table| !table.parts.is_empty());
    let tables = packs.keep_used(tables.into_values().collect());
    let subtasks = merge_subtasks(parent, snapshots, &mut places, &mut packs)?;
    Ok(Merged {
        packs: packs.paths,
        subtasks,
        tables,
    })
}

/// Numbers pack paths.
#[derive(Default)]
struct Packs {
    paths: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Packs {
    fn number(&mut self, path: &str) -> u32 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        let number = self.paths.len() as u32;
        self.paths.push(path.to_string());
        self.numbers.insert(path.to_string(), number);
        number
    }

    /// Forgets packs that no part is in any more.
    fn keep_used(&mut self, mut tables: Vec<TableEntry>) -> Vec<TableEntry> {
        let all = std::mem::take(self);
        for part in tables.iter_mut().flat_map(|table| &mut table.parts) {
            part.pack = self.number(&all.paths[part.pack as usize]);
        }
        tables
    }
}

fn carried_over(parent: Option<&Manifest>, packs: &mut Packs) -> BTreeMap<(String, String), TableEntry> {
    let Some(parent) = parent else {
        return BTreeMap::new();
    };
    let mut tables = BTreeMap::new();
    for table in &parent.tables {
        let mut table = table.clone();
        for part in &mut table.parts {
            part.pack = packs.number(&parent.packs[part.pack as usize]);
        }
        tables.insert((table.operator.clone(), table.table.clone()), table);
    }
    tables
}

fn add_parts<'a>(
    entry: &mut TableEntry,
    epoch: u64,
    write: &EncodedTable,
    places: &mut impl Iterator<Item = &'a Place>,
    packs: &mut Packs,
) -> Result<(), Error> {
    for blob in &write.blobs {
        let stored = store(&blob.bytes, blob.checksum, places, packs)?;
        entry.parts.push(Part {
            pack: stored.pack,
            offset: stored.offset,
            length: stored.length,
            checksum: stored.checksum,
            encoding: blob.encoding,
            base: blob.base,
            epoch,
            subtask: write.subtask,
            parallelism: write.parallelism,
            start: blob.key_groups.start,
            end: blob.key_groups.end,
            times: blob.times,
            rows: blob.rows,
        });
    }
    Ok(())
}

/// Says where the next blob is.
fn store<'a>(
    bytes: &Bytes,
    checksum: u64,
    places: &mut impl Iterator<Item = &'a Place>,
    packs: &mut Packs,
) -> Result<Blob, Error> {
    let (path, offset) = places
        .next()
        .ok_or_else(|| Error::Internal("a blob has no place".into()))?;
    Ok(Blob {
        pack: packs.number(path),
        offset: *offset,
        length: bytes.len() as u64,
        checksum,
    })
}

/// Broadcast tables that every present subtask has written now keep nothing of runs with another parallelism.
fn drop_former_broadcasts(tables: &mut BTreeMap<(String, String), TableEntry>, epoch: u64, written: &[EncodedTable]) {
    let mut writers: HashMap<(&str, &str), u32> = HashMap::new();
    for write in written.iter().filter(|write| write.broadcast) {
        let count = writers.entry((&write.operator, write.table)).or_default();
        *count += 1;
        if *count == write.parallelism
            && let Some(table) = tables.get_mut(&(write.operator.clone(), write.table.to_string()))
        {
            table.parts.retain(|part| part.epoch == epoch);
        }
    }
}

fn drop_dead(table: &mut TableEntry) {
    if table.broadcast {
        return;
    }
    let (bases, expired) = (&table.bases, &table.expired);
    table.parts.retain(|part| {
        let replaced = bases.least(part.key_groups()).is_some_and(|base| base > part.epoch);
        let dead = match (part.times, expired.least(part.key_groups())) {
            (Some((_, latest)), Some(before)) => latest < before,
            _ => false,
        };
        !replaced && !dead
    });
}

/// The entries of now, and those of subtasks that said nothing now: they have ended, or their operator has.
fn merge_subtasks<'a>(
    parent: Option<&Manifest>,
    snapshots: &[SubtaskSnapshot],
    places: &mut impl Iterator<Item = &'a Place>,
    packs: &mut Packs,
) -> Result<Vec<SubtaskEntry>, Error> {
    let mut entries = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let committable = snapshot.committable.as_ref();
        let stored = committable.map(|bytes| store(bytes, xxh3_64(bytes), places, packs));
        entries.push(SubtaskEntry {
            operator: snapshot.operator.0.clone(),
            subtask: snapshot.subtask.0,
            parallelism: snapshot.parallelism,
            watermark: snapshot.watermark,
            finished: snapshot.finished,
            sink_position: snapshot.sink_position.clone(),
            committable: stored.transpose()?,
        });
    }
    let present: HashMap<&str, u32> = snapshots
        .iter()
        .map(|snapshot| (snapshot.operator.0.as_str(), snapshot.parallelism))
        .collect();
    for entry in parent.map_or(&[][..], |parent| &parent.subtasks) {
        let replaced = match present.get(entry.operator.as_str()) {
            None => false,
            Some(parallelism) if *parallelism != entry.parallelism => true,
            Some(_) => snapshots
                .iter()
                .any(|snapshot| snapshot.operator.0 == entry.operator && snapshot.subtask.0 == entry.subtask),
        };
        if !replaced {
            entries.push(SubtaskEntry {
                committable: None,
                ..entry.clone()
            });
        }
    }
    entries.sort_by(|left, right| (&left.operator, left.subtask).cmp(&(&right.operator, right.subtask)));
    Ok(entries)
}
