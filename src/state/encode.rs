//! From what an operator hands over to blobs: rows ordered by key group, the rebased apart from the changed.
//!
//! Pure CPU work; [`crate::state::snapshot`] runs it where blocking is allowed.

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, max, min, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, UInt16Type};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::state::blob::{encode, same_columns};
use crate::state::error::Error;
use crate::state::key_group::{KeyGroup, KeyGroupRange, KeyGroups};
use crate::state::manifest::Encoding;
use crate::state::snapshot::SubtaskSnapshot;
use crate::state::table::{Distribution, TableKind, TableWrite, leading_fields};

/// Memory that the rows of one blob may take: several fit into a pack, and a restore holds one at a time.
const BLOB_BYTES: usize = 32 << 20;

/// A [`TableWrite`] ready to be stored.
#[derive(Debug)]
pub(super) struct EncodedTable {
    pub(super) operator: String,
    pub(super) table: &'static str,
    pub(super) subtask: u32,
    pub(super) parallelism: u32,
    pub(super) owned: KeyGroupRange,
    pub(super) expiring: bool,
    pub(super) broadcast: bool,
    pub(super) rebased: Option<KeyGroupRange>,
    pub(super) expired_before: Option<i64>,
    pub(super) blobs: Vec<EncodedBlob>,
}

#[derive(Debug)]
pub(super) struct EncodedBlob {
    pub(super) base: bool,
    pub(super) encoding: Encoding,
    pub(super) bytes: Bytes,
    pub(super) checksum: u64,
    pub(super) key_groups: KeyGroupRange,
    pub(super) times: Option<(i64, i64)>,
    pub(super) rows: u64,
}

/// Encodes all tables of one subtask.
pub(super) fn encode_snapshot(snapshot: &SubtaskSnapshot, key_groups: KeyGroups) -> Result<Vec<EncodedTable>, Error> {
    snapshot
        .tables
        .iter()
        .map(|write| encode_table(snapshot, write, key_groups))
        .collect()
}

fn encode_table(snapshot: &SubtaskSnapshot, write: &TableWrite, key_groups: KeyGroups) -> Result<EncodedTable, Error> {
    let owned = key_groups.range_of(snapshot.subtask.0, snapshot.parallelism);
    let broadcast = write.distribution == Distribution::Broadcast;
    let expiring = write.kind == TableKind::ExpiringTimeKey;
    let mut blobs = Vec::new();
    if let Some(rows) = one_batch(snapshot, write)? {
        if broadcast {
            encode_all(&rows, true, expiring, Some(key_groups.all()), &mut blobs)?;
        } else {
            let groups = groups_of(&rows);
            check_owned(snapshot, write, groups, owned)?;
            let (based, changed) = split(groups, write.rebased, owned);
            for (order, base) in [(based, true), (changed, false)] {
                if !order.is_empty() {
                    encode_all(&in_order(&rows, order)?, base, expiring, None, &mut blobs)?;
                }
            }
        }
    }
    Ok(EncodedTable {
        operator: snapshot.operator.0.clone(),
        table: write.table,
        subtask: snapshot.subtask.0,
        parallelism: snapshot.parallelism,
        owned,
        expiring,
        broadcast,
        rebased: write.rebased.filter(|_| !broadcast),
        expired_before: write.expired_before.filter(|_| expiring && !broadcast),
        blobs,
    })
}

/// The rows of a write as one batch; `None` when there are none. Checks the columns that every table has.
fn one_batch(snapshot: &SubtaskSnapshot, write: &TableWrite) -> Result<Option<RecordBatch>, Error> {
    let batches: Vec<&RecordBatch> = write.rows.iter().filter(|rows| rows.num_rows() > 0).collect();
    let Some(first) = batches.first() else {
        return Ok(None);
    };
    let internal = |reason: String| {
        Error::Internal(format!(
            "table \"{}\" of operator \"{}\": {reason}",
            write.table, snapshot.operator
        ))
    };
    let schema = first.schema();
    for (index, wanted) in leading_fields(write.kind).iter().enumerate() {
        let fits = schema
            .fields()
            .get(index)
            .is_some_and(|field| field.name() == wanted.name() && field.data_type() == wanted.data_type());
        if !fits || first.column(index).null_count() > 0 {
            return Err(internal(format!("column {index} is not \"{}\"", wanted.name())));
        }
    }
    if let Some(other) = batches.iter().find(|batch| !same_columns(&batch.schema(), &schema)) {
        return Err(internal(format!("batches differ: {} and {}", schema, other.schema())));
    }
    if batches.len() == 1 {
        return Ok(Some((*first).clone()));
    }
    concat_batches(&schema, batches)
        .map(Some)
        .map_err(|error| internal(error.to_string()))
}

fn groups_of(rows: &RecordBatch) -> &[u16] {
    rows.column(0).as_primitive::<UInt16Type>().values()
}

/// A row elsewhere would be lost at the next restore; better to fail now.
fn check_owned(
    snapshot: &SubtaskSnapshot,
    write: &TableWrite,
    groups: &[u16],
    owned: KeyGroupRange,
) -> Result<(), Error> {
    let rebased_inside = write
        .rebased
        .is_none_or(|range| range.is_empty() || (owned.start <= range.start && range.end <= owned.end));
    let foreign = groups.iter().find(|group| !owned.contains(KeyGroup(**group)));
    if foreign.is_none() && rebased_inside {
        return Ok(());
    }
    Err(Error::Internal(format!(
        "table \"{}\" of operator \"{}\", subtask {} wrote rows of key group {foreign:?} (rebased {:?}), but owns {owned:?}",
        write.table, snapshot.operator, snapshot.subtask, write.rebased
    )))
}

/// Row numbers in order of key group, those of the rebased groups apart. Rows of one group keep their order.
fn split(groups: &[u16], rebased: Option<KeyGroupRange>, owned: KeyGroupRange) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; usize::from(owned.end - owned.start) + 1];
    for group in groups {
        starts[usize::from(group - owned.start) + 1] += 1;
    }
    for index in 1..starts.len() {
        starts[index] += starts[index - 1];
    }
    let mut order = vec![0u32; groups.len()];
    let mut next = starts.clone();
    for (row, group) in groups.iter().enumerate() {
        let place = &mut next[usize::from(group - owned.start)];
        order[*place as usize] = row as u32;
        *place += 1;
    }
    let Some(rebased) = rebased.filter(|range| !range.is_empty()) else {
        return (Vec::new(), order);
    };
    let from = starts[usize::from(rebased.start - owned.start)] as usize;
    let to = starts[usize::from(rebased.end - owned.start)] as usize;
    let based: Vec<u32> = order.drain(from..to).collect();
    (based, order)
}

fn in_order(rows: &RecordBatch, order: Vec<u32>) -> Result<RecordBatch, Error> {
    let already = order.len() == rows.num_rows() && order.iter().enumerate().all(|(at, row)| at == *row as usize);
    if already {
        return Ok(rows.clone());
    }
    take_record_batch(rows, &UInt32Array::from(order))
        .map_err(|error| Error::Internal(format!("ordering state: {error}")))
}

/// Encodes `rows` in pieces of about [`BLOB_BYTES`].
fn encode_all(
    rows: &RecordBatch,
    base: bool,
    expiring: bool,
    key_groups: Option<KeyGroupRange>,
    blobs: &mut Vec<EncodedBlob>,
) -> Result<(), Error> {
    let row_bytes = (rows.get_array_memory_size() / rows.num_rows()).max(1);
    let piece_rows = (BLOB_BYTES / row_bytes).max(1024);
    for start in (0..rows.num_rows()).step_by(piece_rows) {
        let piece = rows.slice(start, piece_rows.min(rows.num_rows() - start));
        let (encoding, bytes) = encode(&piece)?;
        let groups = groups_of(&piece);
        let inside = KeyGroupRange {
            start: groups[0],
            end: groups[groups.len() - 1] + 1,
        };
        blobs.push(EncodedBlob {
            base,
            encoding,
            checksum: xxh3_64(&bytes),
            bytes,
            key_groups: key_groups.unwrap_or(inside),
            times: expiring.then(|| times_of(&piece)).flatten(),
            rows: piece.num_rows() as u64,
        });
    }
    Ok(())
}

fn times_of(rows: &RecordBatch) -> Option<(i64, i64)> {
    debug_assert_eq!(rows.column(2).data_type(), &DataType::Int64);
    let times = rows.column(2).as_primitive::<Int64Type>();
    Some((min(times)?, max(times)?))
}
