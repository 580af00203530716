//! What tests of connectors share: options, contexts, and reading a source to its end.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::clock::ManualClock;
use crate::engine::connectors::{
    BadRow, BadRowHandler, ConnectorTable, Result, SinkContext, Source, SourceContext, SourcePoll, SplitOffset, Wake,
};
use crate::engine::formats::json::encode::row_text;
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Chunk;
use crate::ids::SubtaskIndex;
use crate::options::{ResolvedOptions, ResolvedValue, normalize_name};

pub fn given(options: &[(&str, &str)]) -> ResolvedOptions {
    let value = |text: &str| ResolvedValue {
        text: text.to_owned(),
        sensitive: false,
    };
    ResolvedOptions(
        options
            .iter()
            .map(|(name, text)| (normalize_name(name), value(text)))
            .collect(),
    )
}

/// Remembers bad rows: offset and reason.
#[derive(Default)]
pub struct KeptBadRows(pub Mutex<Vec<(u64, String)>>);

impl KeptBadRows {
    pub fn offsets(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|(offset, _)| *offset).collect()
    }

    pub fn reasons(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, reason)| reason.clone())
            .collect()
    }
}

impl BadRowHandler for KeptBadRows {
    fn bad_row(&self, row: BadRow<'_>) -> Result<()> {
        self.0.lock().unwrap().push((row.offset, row.reason.to_owned()));
        Ok(())
    }
}

struct NobodyToWake;

impl Wake for NobodyToWake {
    fn wake(&self) {}
}

/// Runs what sources and sinks put on the I/O runtime.
pub struct Bench {
    pub runtime: tokio::runtime::Runtime,
    pub bad_rows: Arc<KeptBadRows>,
    pub clock: ManualClock,
}

impl Bench {
    pub fn new() -> Bench {
        Bench {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            bad_rows: Arc::new(KeptBadRows::default()),
            clock: ManualClock::at(1_700_000_000_000_000),
        }
    }

    pub fn source(
        &self,
        table: &dyn ConnectorTable,
        schema: &SchemaRef,
        subtask: u32,
        parallelism: u32,
        restored: &[SplitOffset],
    ) -> Result<Box<dyn Source>> {
        table.open_source(SourceContext {
            subtask: SubtaskIndex(subtask),
            parallelism,
            schema: Arc::clone(schema),
            restored: restored.to_vec(),
            ..self.source_context()
        })
    }

    /// A fresh start of the only subtask.
    pub fn source_context(&self) -> SourceContext {
        SourceContext {
            subtask: SubtaskIndex(0),
            parallelism: 1,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            key: None,
            restored: Vec::new(),
            runtime: self.runtime.handle().clone(),
            waker: Arc::new(NobodyToWake),
            clock: Arc::new(self.clock.clone()),
            bad_rows: Arc::clone(&self.bad_rows) as Arc<dyn BadRowHandler>,
            results: Arc::new(crate::engine::results::history::NoHistory),
            reader: None,
        }
    }

    pub fn sink_context(&self, schema: &SchemaRef, changelog: SinkChangelog, restored: &[String]) -> SinkContext {
        SinkContext {
            subtask: SubtaskIndex(0),
            parallelism: 1,
            schema: Arc::clone(schema),
            changelog,
            restored: restored.to_vec(),
            sink: "pipe_1/public.t".to_owned(),
            generation: crate::ids::Generation(1),
            runtime: self.runtime.handle().clone(),
            waker: Arc::new(NobodyToWake),
            clock: Arc::new(self.clock.clone()),
        }
    }

    /// Every row of the table by one subtask, as JSON.
    pub fn rows(&self, table: &dyn ConnectorTable, schema: &SchemaRef) -> Vec<String> {
        let mut source = self.source(table, schema, 0, 1, &[]).unwrap();
        read(source.as_mut(), 1000, usize::MAX)
    }

    /// Reads with `before` subtasks until about `rows_each` rows, restores their offsets into `after` subtasks, and checks
    /// that all rows together are those of an uninterrupted run.
    pub fn check_restore(
        &self,
        table: &dyn ConnectorTable,
        schema: &SchemaRef,
        before: u32,
        after: u32,
        rows_each: usize,
    ) {
        let mut expected = self.rows(table, schema);
        let mut found = Vec::new();
        let mut offsets = Vec::new();
        for subtask in 0..before {
            let mut source = self.source(table, schema, subtask, before, &[]).unwrap();
            found.extend(read(source.as_mut(), rows_each.min(97), rows_each));
            offsets.extend(source.offsets());
        }
        for subtask in 0..after {
            let mut source = self.source(table, schema, subtask, after, &offsets).unwrap();
            found.extend(read(source.as_mut(), 1000, usize::MAX));
        }
        expected.sort();
        found.sort();
        assert_eq!(found.len(), expected.len(), "{before} to {after} subtasks");
        assert_eq!(found, expected, "{before} to {after} subtasks");
    }
}

/// Polls until the source has finished or gave `rows_wanted` rows.
pub fn read(source: &mut dyn Source, rows_each_poll: usize, rows_wanted: usize) -> Vec<String> {
    let mut rows = Vec::new();
    while rows.len() < rows_wanted {
        match source.poll(rows_each_poll).unwrap() {
            SourcePoll::Rows { rows: batch, .. } => rows.extend(texts(batch)),
            SourcePoll::Changes { .. } => panic!("changes of a table that only adds rows"),
            SourcePoll::Pending(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            SourcePoll::SplitFinished { .. } => {}
            SourcePoll::Finished => break,
        }
    }
    rows
}

pub fn texts(batch: RecordBatch) -> Vec<String> {
    let chunk = Chunk::insert(batch);
    (0..chunk.len()).map(|row| row_text(&chunk, row).unwrap()).collect()
}
