//! The head of a fragment that reads from outside: polls the source, finds event time and watermark, projects.
//!
//! Watermarks are per split. They never go backwards, also across a restart: each split's last watermark is saved with
//! its offset.
//!
//! Guarantee: a checkpoint of a source has its offsets: [`SourceOffsets`] is the only form in which a source can be
//! snapshotted, and only this file makes one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, PrimitiveArray, RecordBatch, StringArray,
    UInt16Array,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::physical_expr::PhysicalExpr;

use crate::clock::Clock;
use crate::engine::connectors::{Source, SourcePoll};
use crate::engine::error::Error;
use crate::engine::exchange::watermark::{Advance, WatermarkMerge};
use crate::engine::graph::{EventTimeExpr, EventTimeSpec, SourceSpec};
use crate::engine::job_metrics::SplitStatus;
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::results::history::PinnedInput;
pub use crate::engine::saved_splits::{OFFSETS_TABLE, SavedSplits};
use crate::ids::Epoch;
use crate::state::table::{Distribution, OP_PUT, TableKind, TableWrite, leading_fields};
use crate::types::record_batch::batch_of_rows;

/// The event time of rows whose expression is NULL: before everything, so that they are late wherever time matters, with
/// room for window arithmetic below it.
pub const EVENT_TIME_OF_NULL: i64 = i64::MIN / 2;

/// How often the watermark of processing time advances without rows.
const PROCESSING_TIME_STEP: Duration = Duration::from_millis(100);

/// Splits of a subtask that are shown; a source of files may have very many.
const SPLITS_SHOWN: usize = 1000;

pub enum HeadItem {
    Data(Chunk),
    Watermark(Watermark),
    Barrier(Barrier),
    /// One of several inputs of the first operator has ended.
    InputEnd(usize),
    /// The input has ended; said once.
    End,
    /// Nothing until woken or until then.
    Nothing(Option<Instant>),
}

/// Where a source stands, ready for a checkpoint.
#[derive(Debug)]
pub struct SourceOffsets {
    table: TableWrite,
    /// What the offsets refer to of other pipelines.
    pub inputs: Vec<PinnedInput>,
}

impl SourceOffsets {
    pub fn into_table(self) -> TableWrite {
        self.table
    }
}

pub struct SourceHead {
    source: Box<dyn Source>,
    /// The source ends by itself.
    bounded: bool,
    time: Option<EventTimeSpec>,
    projection: Option<Vec<Arc<dyn PhysicalExpr>>>,
    output: SchemaRef,
    clock: Arc<dyn Clock>,
    /// One channel a split.
    watermarks: WatermarkMerge,
    last_rows: Vec<Instant>,
    /// The last time handed out by processing time, which must not go backwards with the wall clock.
    last_processing_time: i64,
    queue: VecDeque<HeadItem>,
    barriers: VecDeque<Barrier>,
    active: bool,
    finished: bool,
    caught_up: bool,
    end_said: bool,
    /// Downstream was told that the stream is idle because there is no open split.
    idle_without_splits: bool,
}

impl SourceHead {
    /// `spec`: what to do with the rows; without one they pass as they are. `output`: the shape they have then.
    pub fn new(
        source: Box<dyn Source>,
        spec: Option<&SourceSpec>,
        output: SchemaRef,
        clock: Arc<dyn Clock>,
        saved: &SavedSplits,
    ) -> SourceHead {
        let mut head = SourceHead {
            source,
            bounded: spec.is_some_and(|spec| spec.table.bounded()),
            time: spec.and_then(|spec| spec.event_time.clone()),
            projection: spec.and_then(|spec| spec.projection.clone()),
            output,
            clock,
            watermarks: WatermarkMerge::new(0, None),
            last_rows: Vec::new(),
            last_processing_time: i64::MIN,
            queue: VecDeque::new(),
            barriers: VecDeque::new(),
            active: false,
            finished: false,
            caught_up: false,
            end_said: false,
            idle_without_splits: false,
        };
        head.restore_watermarks(saved);
        head
    }

    /// Goes on where the splits stood, and says at once what was said before the restart.
    fn restore_watermarks(&mut self, saved: &SavedSplits) {
        let own = self.source.offsets();
        self.know_splits(own.len());
        for (split, offset) in own.iter().enumerate() {
            let Some(saved) = saved.splits.iter().find(|saved| saved.split == offset.split) else {
                continue;
            };
            if let Some(at) = saved.watermark {
                self.watermarks.update(split, Watermark::At(at));
            }
            if saved.finished {
                self.watermarks.finish(split);
            }
        }
        if self.time.is_some()
            && let Some(at) = self.watermarks.current()
        {
            self.queue.push_back(HeadItem::Watermark(Watermark::At(at)));
        }
    }

    /// Splits are numbered from 0 and may appear while the source runs.
    fn know_splits(&mut self, count: usize) {
        while self.watermarks.channels() < count {
            self.watermarks.add_channel();
            self.last_rows.push(Instant::now());
        }
    }

    pub fn activate(&mut self) {
        self.active = true;
        self.last_rows.fill(Instant::now());
    }

    pub fn inject(&mut self, barrier: Barrier) {
        self.barriers.push_back(barrier);
    }

    pub fn epoch_decided(&mut self, epoch: Epoch) {
        self.source.epoch_decided(epoch);
    }

    /// Whether the source had nothing more when it was last asked, and knows of nothing that has come since.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up && !self.source.is_behind()
    }

    pub fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// Every split that has not ended, for those who watch; and what the source waits for.
    pub fn status(&self) -> (Vec<SplitStatus>, Option<String>) {
        let status = self.source.status();
        let held_back_by = self.watermarks.held_back_by().filter(|_| self.time.is_some());
        let known = |split: usize| split < self.watermarks.channels();
        let unfinished = self.source.offsets().into_iter().enumerate();
        let unfinished = unfinished.filter(|(split, _)| !known(*split) || !self.watermarks.is_finished(*split));
        let splits = unfinished.take(SPLITS_SHOWN).map(|(split, offset)| {
            let lag = status.lags.get(split).cloned().unwrap_or_default();
            SplitStatus {
                split: offset.split,
                offset: offset.offset,
                unit: lag.lag.map(|_| status.unit),
                end: lag.end,
                lag: lag.lag,
                state: match known(split) && self.watermarks.is_idle(split) {
                    true => "idle",
                    false => "active",
                },
                watermark: known(split).then(|| self.watermarks.of_channel(split)).flatten(),
                holds_back: held_back_by == Some(split),
            }
        });
        (splits.collect(), status.waits_for)
    }

    pub fn watermark(&self) -> Option<i64> {
        self.watermarks.current()
    }

    pub fn next_item(&mut self) -> Result<HeadItem, Error> {
        if let Some(item) = self.queue.pop_front() {
            return Ok(item);
        }
        if let Some(barrier) = self.barriers.pop_front() {
            self.source.at_barrier(barrier.epoch);
            return Ok(HeadItem::Barrier(barrier));
        }
        if !self.active {
            return Ok(HeadItem::Nothing(None));
        }
        if self.finished {
            if std::mem::replace(&mut self.end_said, true) {
                return Ok(HeadItem::Nothing(None));
            }
            return Ok(HeadItem::End);
        }
        let wait = match self.source.poll(CHUNK_ROWS_TARGET)? {
            SourcePoll::Rows { split, rows } => {
                self.caught_up = false;
                self.take_rows(split, rows, Weights::AllInsert)?;
                Some(Instant::now())
            }
            SourcePoll::Changes { split, rows, weights } => {
                self.caught_up = false;
                self.take_rows(split, rows, Weights::Signed(weights))?;
                Some(Instant::now())
            }
            SourcePoll::SplitFinished { split } => {
                // The next poll may say that the source has ended, too: until then it is not idle.
                self.caught_up = false;
                self.know_splits(split + 1);
                let advance = self.watermarks.finish(split);
                self.advance(advance);
                Some(Instant::now())
            }
            SourcePoll::Finished => {
                self.caught_up = true;
                self.finished = true;
                return self.next_item();
            }
            SourcePoll::Pending(until) => {
                self.caught_up = true;
                until
            }
        };
        let due = self.look_at_clock();
        match self.queue.pop_front() {
            Some(item) => Ok(item),
            None => Ok(HeadItem::Nothing(earliest(wait, due))),
        }
    }

    fn advance(&mut self, advance: Advance) {
        if self.time.is_some() {
            self.queue.extend(advance.watermarks().map(HeadItem::Watermark));
        }
    }

    /// Marks silent splits idle, lets processing time go on; gives the time of the next look.
    fn look_at_clock(&mut self) -> Option<Instant> {
        let time = self.time.as_ref()?;
        if matches!(time.watermark, EventTimeExpr::ProcessingTime) {
            return Some(self.follow_clock());
        }
        let timeout = Duration::from_millis(time.idle_timeout_ms);
        let now = Instant::now();
        let mut next = None;
        if self.caught_up && self.watermarks.all_finished() {
            return self.wait_without_splits(now, timeout);
        }
        for split in 0..self.watermarks.channels() {
            if self.watermarks.is_finished(split) || self.watermarks.is_idle(split) {
                continue;
            }
            let idle_at = self.last_rows[split] + timeout;
            if idle_at <= now {
                let advance = self.watermarks.update(split, Watermark::Idle);
                self.advance(advance);
            } else {
                next = earliest(next, Some(idle_at));
            }
        }
        next
    }

    /// Every split so far has ended, but the source has not: more may come, for which others wait as long as for rows of a split. One that
    /// has had no split yet keeps nobody waiting. A bounded one has only not said yet that it ends: idle, it would let others pass what
    /// the operators after it hold until then.
    fn wait_without_splits(&mut self, now: Instant, timeout: Duration) -> Option<Instant> {
        if self.bounded || self.idle_without_splits {
            return None;
        }
        let idle_at = self.last_rows.iter().max().map(|last| *last + timeout);
        if idle_at.is_none_or(|at| at <= now) {
            self.idle_without_splits = true;
            self.queue.push_back(HeadItem::Watermark(Watermark::Idle));
            return None;
        }
        idle_at
    }

    /// Processing time goes on whether rows come or not, also where every split has ended and more may come, or where one
    /// split has rows all the time and another none.
    fn follow_clock(&mut self) -> Instant {
        let at = self.processing_time();
        let step = i64::try_from(PROCESSING_TIME_STEP.as_micros()).unwrap_or(i64::MAX);
        let is_behind = self
            .watermarks
            .current()
            .is_none_or(|said| said.saturating_add(step) <= at);
        if self.caught_up || is_behind {
            let advance = self.watermarks.follow_clock(at);
            self.advance(advance);
        }
        Instant::now() + PROCESSING_TIME_STEP
    }

    fn processing_time(&mut self) -> i64 {
        self.last_processing_time = self.last_processing_time.max(self.clock.now_micros());
        self.last_processing_time
    }

    fn take_rows(&mut self, split: usize, rows: RecordBatch, weights: Weights) -> Result<(), Error> {
        self.know_splits(split + 1);
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.last_rows[split] = Instant::now();
        let mut event_time = None;
        let mut advance = Advance::default();
        if let Some(time) = self.time.clone() {
            let times = self.times(&time.time, &rows)?;
            if let Some(at) = self.watermark_of(&time, &rows, &times)? {
                advance = self.watermarks.update(split, Watermark::At(at));
            } else if self.watermarks.is_idle(split)
                && let Some(at) = self.watermarks.of_channel(split)
            {
                advance = self.watermarks.update(split, Watermark::At(at));
            }
            if std::mem::take(&mut self.idle_without_splits) {
                advance.at = advance.at.or(self.watermarks.current());
            }
            event_time = Some(times);
        }
        let chunk = self.shape(rows, weights, event_time)?;
        if !chunk.is_empty() {
            self.queue.push_back(HeadItem::Data(chunk));
        }
        self.advance(advance);
        Ok(())
    }

    /// The greatest watermark of the rows that are not too far in the future.
    fn watermark_of(
        &mut self,
        time: &EventTimeSpec,
        rows: &RecordBatch,
        times: &PrimitiveArray<Int64Type>,
    ) -> Result<Option<i64>, Error> {
        let watermarks = self.times(&time.watermark, rows)?;
        let greatest = arrow::compute::max(&watermarks);
        let Some(skew) = time.max_future_skew_ms else {
            return Ok(greatest);
        };
        let limit = self
            .clock
            .now_micros()
            .saturating_add_unsigned(skew.saturating_mul(1000));
        if arrow::compute::max(times).is_none_or(|latest| latest <= limit) {
            return Ok(greatest);
        }
        let near = (0..rows.num_rows())
            .filter(|row| watermarks.is_valid(*row) && !(times.is_valid(*row) && times.value(*row) > limit))
            .map(|row| watermarks.value(row));
        Ok(near.max())
    }

    fn times(&mut self, expression: &EventTimeExpr, rows: &RecordBatch) -> Result<PrimitiveArray<Int64Type>, Error> {
        match expression {
            EventTimeExpr::ProcessingTime => {
                let now = self.processing_time();
                Ok(Int64Array::from_value(now, rows.num_rows()))
            }
            EventTimeExpr::Expression(expression) => {
                let array = expression.evaluate(rows)?.into_array(rows.num_rows())?;
                let times = array
                    .as_primitive_opt::<TimestampMicrosecondType>()
                    .ok_or_else(|| Error::Internal(format!("event time has type {}", array.data_type())))?;
                Ok(Int64Array::new(times.values().clone(), times.nulls().cloned()))
            }
        }
    }

    fn shape(
        &self,
        rows: RecordBatch,
        weights: Weights,
        times: Option<PrimitiveArray<Int64Type>>,
    ) -> Result<Chunk, Error> {
        let columns = match &self.projection {
            Some(expressions) => expressions
                .iter()
                .map(|expression| expression.evaluate(&rows)?.into_array(rows.num_rows()))
                .collect::<Result<Vec<ArrayRef>, _>>()?,
            None => rows.columns().to_vec(),
        };
        Ok(Chunk {
            rows: batch_of_rows(Arc::clone(&self.output), columns, rows.num_rows())?,
            weights,
            event_time: times.map(|times| without_nulls(&times)),
            key_hashes: None,
        })
    }

    /// Everything that a restart needs, as of the rows handed out so far.
    pub fn snapshot(&self) -> Result<SourceOffsets, Error> {
        let offsets = self.source.offsets();
        let rows = offsets.len();
        let of = |split: usize| (split < self.watermarks.channels()).then_some(split);
        let watermarks = (0..rows).map(|split| of(split).and_then(|split| self.watermarks.of_channel(split)));
        let finished = (0..rows).map(|split| of(split).is_some_and(|split| self.watermarks.is_finished(split)));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt16Array::from(vec![0; rows])),
            Arc::new(Int8Array::from(vec![OP_PUT; rows])),
            Arc::new(StringArray::from_iter_values(
                offsets.iter().map(|offset| &offset.split),
            )),
            Arc::new(StringArray::from_iter_values(
                offsets.iter().map(|offset| &offset.offset),
            )),
            Arc::new(watermarks.collect::<Int64Array>()),
            Arc::new(finished.map(Some).collect::<BooleanArray>()),
        ];
        let table = TableWrite {
            table: OFFSETS_TABLE,
            kind: TableKind::GlobalKeyed,
            distribution: Distribution::Broadcast,
            rebased: None,
            expired_before: None,
            rows: vec![RecordBatch::try_new(offsets_schema(), columns)?],
        };
        let inputs = self.source.inputs();
        Ok(SourceOffsets { table, inputs })
    }
}

fn offsets_schema() -> SchemaRef {
    let mut fields = leading_fields(TableKind::GlobalKeyed);
    fields.push(Field::new("split", DataType::Utf8, false));
    fields.push(Field::new("offset", DataType::Utf8, false));
    fields.push(Field::new("watermark", DataType::Int64, true));
    fields.push(Field::new("finished", DataType::Boolean, false));
    Arc::new(Schema::new(fields))
}

fn without_nulls(times: &PrimitiveArray<Int64Type>) -> ScalarBuffer<i64> {
    if times.null_count() == 0 {
        return times.values().clone();
    }
    times.iter().map(|time| time.unwrap_or(EVENT_TIME_OF_NULL)).collect()
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::TimeUnit;
    use datafusion::physical_expr::expressions::Column;

    use super::*;
    use crate::clock::ManualClock;
    use crate::engine::connectors::SplitOffset;
    use crate::engine::message::BarrierKind;
    use crate::state::key_group::{KeyGroupRange, KeyGroups};
    use crate::state::table::StateReader;

    const HOUR: i64 = 3_600_000_000;

    struct Script {
        polls: VecDeque<SourcePoll>,
        splits: usize,
    }

    impl Source for Script {
        fn poll(&mut self, _rows_max: usize) -> Result<SourcePoll, Error> {
            Ok(self.polls.pop_front().unwrap_or(SourcePoll::Pending(None)))
        }
        fn offsets(&self) -> Vec<SplitOffset> {
            let offset = |split| SplitOffset {
                split: format!("s{split}"),
                offset: format!("{}", self.polls.len()),
            };
            (0..self.splits).map(offset).collect()
        }
    }

    fn schema() -> SchemaRef {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        Arc::new(Schema::new(vec![Field::new("ts", timestamp, true)]))
    }

    fn rows(split: usize, times: &[Option<i64>]) -> SourcePoll {
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        let rows = RecordBatch::try_new(schema(), vec![column]).unwrap();
        SourcePoll::Rows { split, rows }
    }

    fn column() -> EventTimeExpr {
        EventTimeExpr::Expression(Arc::new(Column::new("ts", 0)))
    }

    fn time(idle_timeout_ms: u64, max_future_skew_ms: Option<u64>) -> EventTimeSpec {
        EventTimeSpec {
            time: column(),
            watermark: column(),
            idle_timeout_ms,
            max_future_skew_ms,
        }
    }

    fn head(splits: usize, polls: Vec<SourcePoll>, time: EventTimeSpec, saved: &SavedSplits) -> SourceHead {
        let script = Script {
            polls: polls.into(),
            splits,
        };
        let clock = Arc::new(ManualClock::at(HOUR));
        let mut head = SourceHead::new(Box::new(script), None, schema(), clock, saved);
        head.time = Some(time);
        head.queue.clear();
        if let Some(at) = head.watermarks.current() {
            head.queue.push_back(HeadItem::Watermark(Watermark::At(at)));
        }
        head.activate();
        head
    }

    /// Everything until the head has nothing: `d3` = three rows, `w9`, `idle`, `b1`, `end`.
    fn drain(head: &mut SourceHead) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..100 {
            match head.next_item().unwrap() {
                HeadItem::Data(chunk) => seen.push(format!("d{}", chunk.len())),
                HeadItem::Watermark(Watermark::At(at)) => seen.push(format!("w{at}")),
                HeadItem::Watermark(Watermark::Idle) => seen.push("idle".into()),
                HeadItem::Barrier(barrier) => seen.push(format!("b{}", barrier.epoch)),
                HeadItem::InputEnd(_) => unreachable!("a source has one input"),
                HeadItem::End => seen.push("end".into()),
                HeadItem::Nothing(Some(until)) if until <= Instant::now() => {}
                HeadItem::Nothing(_) => return seen,
            }
        }
        panic!("never idle: {seen:?}");
    }

    #[test]
    fn the_watermark_follows_the_chunk_and_is_the_least_of_the_splits() {
        let polls = vec![
            rows(0, &[Some(10), Some(30), Some(20)]),
            rows(1, &[Some(5)]),
            rows(1, &[Some(4), None]),
            SourcePoll::SplitFinished { split: 1 },
            SourcePoll::Finished,
        ];
        let mut head = head(2, polls, time(60_000, None), &SavedSplits::default());
        assert_eq!(drain(&mut head), ["d3", "d1", "w5", "d2", "w30", "end"]);
        assert_eq!(drain(&mut head), [""; 0], "the end is said once");
    }

    #[test]
    fn the_split_that_is_least_far_is_seen_to_hold_the_others_back() {
        let polls = vec![
            rows(0, &[Some(10)]),
            rows(1, &[Some(5)]),
            SourcePoll::SplitFinished { split: 1 },
            SourcePoll::Pending(None),
        ];
        let mut head = head(2, polls, time(60_000, None), &SavedSplits::default());
        let mut seen = Vec::new();
        for _ in 0..6 {
            head.next_item().unwrap();
            let (splits, waits_for) = head.status();
            assert_eq!(waits_for, None);
            let split = |split: &SplitStatus| (split.watermark, split.holds_back);
            seen.push(splits.iter().map(split).collect::<Vec<_>>());
        }
        seen.dedup();
        let silent_holds = vec![(Some(10), false), (None, true)];
        let least_holds = vec![(Some(10), false), (Some(5), true)];
        assert_eq!(seen, [silent_holds, least_holds, vec![(Some(10), true)]]);
    }

    #[test]
    fn changes_keep_their_weights() {
        let SourcePoll::Rows { split, rows } = rows(0, &[Some(10), Some(30)]) else {
            unreachable!("these are rows");
        };
        let weights = ScalarBuffer::from(vec![-1, 1]);
        let polls = vec![SourcePoll::Changes { split, rows, weights }];
        let mut head = head(1, polls, time(60_000, None), &SavedSplits::default());
        let HeadItem::Data(chunk) = head.next_item().unwrap() else {
            panic!("no rows");
        };
        assert_eq!([chunk.weight(0), chunk.weight(1)], [-1, 1]);
    }

    #[test]
    fn a_source_that_waited_before_it_ended_is_not_idle() {
        // What it holds may be older than what others have: idle, it would no longer hold them back.
        let polls = vec![
            rows(0, &[Some(5)]),
            SourcePoll::Pending(Some(Instant::now())),
            SourcePoll::SplitFinished { split: 0 },
            SourcePoll::Finished,
        ];
        let mut head = head(1, polls, time(60_000, None), &SavedSplits::default());
        assert_eq!(drain(&mut head), ["d1", "w5", "end"]);
    }

    #[test]
    fn f_30_a_silent_split_goes_idle_and_comes_back() {
        let polls = vec![rows(0, &[Some(10)]), SourcePoll::Pending(None)];
        let mut head = head(2, polls, time(20, None), &SavedSplits::default());
        assert_eq!(drain(&mut head), ["d1"], "split 1 holds back");
        let HeadItem::Nothing(Some(due)) = head.next_item().unwrap() else {
            panic!("no time to look again");
        };
        assert!(due <= Instant::now() + Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(drain(&mut head), ["w10", "idle"]);
        head.source = Box::new(Script {
            polls: vec![rows(1, &[Some(12)])].into(),
            splits: 2,
        });
        assert_eq!(
            drain(&mut head),
            ["d1", "w12"],
            "split 0 is idle and does not hold back"
        );
    }

    #[test]
    fn f_31_a_time_far_in_the_future_does_not_move_the_watermark() {
        let polls = vec![rows(0, &[Some(HOUR + 1), Some(HOUR * 24 * 3650), Some(7)])];
        let mut head = head(1, polls, time(60_000, Some(1_000)), &SavedSplits::default());
        assert_eq!(drain(&mut head), ["d3".to_owned(), format!("w{}", HOUR + 1)]);
    }

    struct Saved(RecordBatch);

    impl StateReader for Saved {
        fn read(
            &self,
            table: &str,
            visit: &mut dyn FnMut(RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
        ) -> Result<(), crate::state::error::Error> {
            assert_eq!(table, OFFSETS_TABLE);
            visit(self.0.clone()).map_err(|error| crate::state::error::Error::Internal(error.to_string()))
        }
        fn key_groups(&self) -> KeyGroups {
            KeyGroups::default()
        }
        fn owned(&self) -> KeyGroupRange {
            KeyGroups::default().all()
        }
    }

    #[test]
    fn offsets_and_watermarks_survive_a_restart() {
        let polls = vec![
            rows(0, &[Some(50)]),
            rows(1, &[Some(40)]),
            SourcePoll::SplitFinished { split: 1 },
        ];
        let mut first = head(2, polls, time(60_000, None), &SavedSplits::default());
        drain(&mut first);
        let table = first.snapshot().unwrap().into_table();
        let saved = SavedSplits::read(&Saved(table.rows[0].clone())).unwrap();
        assert_eq!(saved.offsets(), first.source.offsets());
        // What was late before is late after, and the finished split does not hold back.
        let polls = vec![rows(0, &[Some(45)]), rows(0, &[Some(60)])];
        let mut second = head(2, polls, time(60_000, None), &saved);
        assert_eq!(drain(&mut second), ["w50", "d1", "d1", "w60"]);
    }

    #[test]
    fn a_bounded_source_is_not_idle_before_it_says_again_that_its_splits_have_ended() {
        let polls = vec![rows(0, &[Some(50)]), SourcePoll::SplitFinished { split: 0 }];
        let mut first = head(1, polls, time(60_000, None), &SavedSplits::default());
        first.bounded = true;
        assert_eq!(drain(&mut first), ["d1", "w50"]);
        let table = first.snapshot().unwrap().into_table();
        let saved = SavedSplits::read(&Saved(table.rows[0].clone())).unwrap();
        for (bounded, timeout, seen) in [
            (true, 0, &["end"][..]),
            (false, 0, &["idle", "end"]),
            // More may come: others wait for it as for a split that has rows no longer.
            (false, 60_000, &["end"]),
        ] {
            let polls = vec![SourcePoll::Pending(Some(Instant::now())), SourcePoll::Finished];
            let mut second = head(1, polls, time(timeout, None), &saved);
            second.bounded = bounded;
            assert_eq!(drain(&mut second), seen);
        }
    }

    #[test]
    fn a_barrier_comes_between_polls_even_before_the_start() {
        let polls = vec![rows(0, &[Some(1)])];
        let mut head = head(1, polls, time(60_000, None), &SavedSplits::default());
        head.active = false;
        let kind = BarrierKind::Checkpoint;
        head.inject(Barrier { epoch: Epoch(3), kind });
        assert_eq!(drain(&mut head), ["b3"]);
        head.activate();
        assert_eq!(drain(&mut head), ["d1", "w1"]);
    }

    /// A head of processing time over these splits and polls.
    fn by_clock(clock: &Arc<ManualClock>, splits: usize, polls: Vec<SourcePoll>) -> SourceHead {
        let script = Script {
            polls: polls.into(),
            splits,
        };
        let mut head = SourceHead::new(
            Box::new(script),
            None,
            schema(),
            Arc::clone(clock) as Arc<dyn Clock>,
            &SavedSplits::default(),
        );
        head.time = Some(EventTimeSpec {
            time: EventTimeExpr::ProcessingTime,
            watermark: EventTimeExpr::ProcessingTime,
            idle_timeout_ms: 0,
            max_future_skew_ms: None,
        });
        head.activate();
        head
    }

    #[test]
    fn processing_time_goes_on_without_rows() {
        let clock = Arc::new(ManualClock::at(100));
        let mut head = by_clock(&clock, 1, Vec::new());
        assert!(matches!(
            head.next_item().unwrap(),
            HeadItem::Watermark(Watermark::At(100))
        ));
        clock.advance_micros(-50);
        assert!(
            matches!(head.next_item().unwrap(), HeadItem::Nothing(Some(_))),
            "never back"
        );
        clock.advance_micros(500);
        assert!(matches!(
            head.next_item().unwrap(),
            HeadItem::Watermark(Watermark::At(550))
        ));
    }

    #[test]
    fn processing_time_goes_on_when_all_splits_have_ended() {
        let clock = Arc::new(ManualClock::at(100));
        let polls = vec![rows(0, &[Some(1)]), SourcePoll::SplitFinished { split: 0 }];
        let mut head = by_clock(&clock, 1, polls);
        assert_eq!(drain(&mut head), ["d1", "w100"]);
        clock.advance_micros(500);
        assert_eq!(drain(&mut head), ["w600"], "more may come, but nothing from before");
        // Without any split likewise.
        let mut head = by_clock(&clock, 0, Vec::new());
        assert_eq!(drain(&mut head), ["w600"]);
    }

    #[test]
    fn a_busy_split_does_not_wait_for_a_silent_one_in_processing_time() {
        let clock = Arc::new(ManualClock::at(100));
        let polls = vec![rows(0, &[Some(1)]), rows(0, &[Some(2)])];
        let mut head = by_clock(&clock, 2, polls);
        assert!(matches!(head.next_item().unwrap(), HeadItem::Data(_)));
        assert!(matches!(
            head.next_item().unwrap(),
            HeadItem::Watermark(Watermark::At(100))
        ));
    }
}
