//! What becomes of pieces: in which epoch they are seen, and what a restart of the job leaves.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use super::*;
use crate::engine::connectors::Wake;
use crate::error::Report;
use crate::ids::Epoch;

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

fn row(value: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
    RecordBatch::try_from_iter([("v", column)]).unwrap()
}

fn sequences(table: &InternalTable, run: Run, epoch: u64) -> Vec<u64> {
    let (_, recent) = table.recent(run, || Some(((), Epoch(epoch)))).unwrap();
    recent.iter().map(|change| change.sequence).collect()
}

#[test]
fn changes_are_recent_until_the_result_holds_them() {
    let table = InternalTable::default();
    let run = table.attach(0, Arc::new(Nobody));
    for value in 0..3 {
        table.put(run, row(value), vec![1]).unwrap();
    }
    assert_eq!(table.take(run).unwrap().sequence, 1);
    assert_eq!(table.take(run).unwrap().sequence, 2);
    table.cut(run, Epoch(7), 2);
    assert_eq!(sequences(&table, run, 6), [1, 2, 3], "epoch 7 is not published yet");
    assert_eq!(sequences(&table, run, 7), [3]);
    assert_eq!(table.take(run).unwrap().sequence, 3);
    table.cut(run, Epoch(8), 3);
    table.cut(run, Epoch(9), 3);
    assert_eq!(sequences(&table, run, 9), [0; 0]);
}

#[test]
fn after_a_restart_it_is_known_what_was_lost() {
    let table = InternalTable::default();
    let first = table.attach(0, Arc::new(Nobody));
    for value in 0..3 {
        table.put(first, row(value), vec![1]).unwrap();
    }
    assert_eq!(table.fate(first, 2), Fate::Open);
    let second = table.attach(2, Arc::new(Nobody));
    assert_eq!(table.fate(first, 2), Fate::Durable);
    assert_eq!(table.fate(first, 3), Fate::Lost);
    let refused = table.put(first, row(9), vec![1]).unwrap_err();
    assert_eq!(refused.code().as_str(), "40001");
    assert_eq!(table.put(second, row(9), vec![1]).unwrap(), 4, "the number 3 is lost");
    let third = table.attach(4, Arc::new(Nobody));
    assert_eq!(table.fate(first, 3), Fate::Lost, "what comes later changes nothing");
    assert_eq!(table.fate(second, 4), Fate::Durable);
    assert_eq!(sequences(&table, third, 0), [0; 0]);
}

#[tokio::test]
async fn a_dropped_table_tells_who_waits() {
    let tables = InternalTables::default();
    let table = tables.get(Oid(1));
    let waiting = tokio::spawn({
        let table = Arc::clone(&table);
        async move { table.opened().await }
    });
    tokio::task::yield_now().await;
    tables.remove(Oid(1));
    assert_eq!(waiting.await.unwrap().unwrap_err().code().as_str(), "42P01");
}

#[tokio::test]
async fn a_table_is_open_once_its_source_is_read() {
    let table = InternalTable::default();
    let run = table.attach(5, Arc::new(Nobody));
    let sequence = table.put(run, row(1), vec![1]).unwrap();
    assert_eq!(sequence, 6);
    assert!(table.take(run).is_some());
    assert_eq!(table.opened().await.unwrap(), run);
    table.taken(run, sequence).await.unwrap();
    assert!(table.take(Run(0)).is_none(), "a run that was replaced gets nothing");
}
