//! Rows that could not be decoded: counted always, kept for a while when the table says `bad_data = 'dead_letter'`. Rows that
//! came after their window had closed: kept when it says `late_rows = 'dead_letter'`.
//!
//! Kept in memory per table, the newest first to stay, bounded in rows and bytes; `laminar.dead_letters` shows them.
//! Not guaranteed: that they survive a restart of the server (the counters start again, too).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::engine::connectors::options::BadData;
use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::json::encode::{row_text, write_timestamp_text};
use crate::engine::message::Chunk;
use crate::error::SqlState;

/// Rows kept for each table.
pub const DEAD_LETTERS_KEPT: usize = 1000;

/// Bytes of raw input kept for each table.
pub const DEAD_LETTER_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// Bytes of one raw row that are kept; the rest is cut off.
pub const DEAD_LETTER_ROW_BYTES: usize = 64 * 1024;

/// Every table's dead letters; a cheap handle.
#[derive(Clone, Default)]
pub struct DeadLetters {
    tables: Arc<Mutex<BTreeMap<String, Arc<TableLetters>>>>,
}

#[derive(Default)]
struct TableLetters {
    bad_rows: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    letters: VecDeque<DeadLetter>,
    bytes: usize,
}

/// A row that could not be decoded, or came too late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// `public.bids`.
    pub table: String,
    pub at_micros: i64,
    /// Such as a file's name.
    pub place: String,
    pub offset: u64,
    pub raw: Vec<u8>,
    pub error: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeadLetters {
    /// What a source of `table` reports bad rows to.
    pub fn handler(&self, table: &str, policy: BadData, clock: Arc<dyn Clock>) -> Arc<dyn BadRowHandler> {
        let letters = Arc::clone(lock(&self.tables).entry(table.to_owned()).or_default());
        Arc::new(Handler {
            table: table.to_owned(),
            policy,
            clock,
            letters,
        })
    }

    /// What an operator hands late rows of `table` to.
    pub fn late_rows(&self, table: &str, clock: Arc<dyn Clock>) -> LateRows {
        let letters = Arc::clone(lock(&self.tables).entry(table.to_owned()).or_default());
        LateRows {
            table: table.to_owned(),
            clock,
            letters,
        }
    }

    /// Everything kept, by table, oldest first.
    pub fn letters(&self) -> Vec<DeadLetter> {
        let tables: Vec<_> = lock(&self.tables).values().map(Arc::clone).collect();
        let letters = tables
            .iter()
            .flat_map(|table| lock(&table.kept).letters.iter().cloned().collect::<Vec<_>>());
        letters.collect()
    }

    /// Bad rows of each table since the server started, whatever the policy.
    pub fn counts(&self) -> Vec<(String, u64)> {
        lock(&self.tables)
            .iter()
            .map(|(table, letters)| (table.clone(), letters.bad_rows.load(Ordering::Relaxed)))
            .collect()
    }
}

struct Handler {
    table: String,
    policy: BadData,
    clock: Arc<dyn Clock>,
    letters: Arc<TableLetters>,
}

impl BadRowHandler for Handler {
    fn bad_row(&self, row: BadRow<'_>) -> Result<(), Error> {
        self.letters.bad_rows.fetch_add(1, Ordering::Relaxed);
        match self.policy {
            BadData::Fail => Err(Error::Data {
                code: SqlState::BAD_COPY_FILE_FORMAT,
                message: format!("could not decode a row of table \"{}\": {}", self.table, row.reason),
                detail: Some(format!("In \"{}\" at offset {}.", row.place, row.offset)),
            }),
            BadData::Drop => Ok(()),
            BadData::DeadLetter => {
                self.keep(row);
                Ok(())
            }
        }
    }
}

impl Handler {
    fn keep(&self, row: BadRow<'_>) {
        self.letters.keep(DeadLetter {
            table: self.table.clone(),
            at_micros: self.clock.now_micros(),
            place: row.place.to_owned(),
            offset: row.offset,
            raw: row.raw[..row.raw.len().min(DEAD_LETTER_ROW_BYTES)].to_vec(),
            error: row.reason.to_owned(),
        });
    }
}

impl TableLetters {
    fn keep(&self, letter: DeadLetter) {
        let mut kept = lock(&self.kept);
        kept.bytes += letter.raw.len();
        kept.letters.push_back(letter);
        while kept.letters.len() > DEAD_LETTERS_KEPT || kept.bytes > DEAD_LETTER_BYTES_KEPT {
            match kept.letters.pop_front() {
                Some(oldest) => kept.bytes -= oldest.raw.len(),
                None => break,
            }
        }
    }
}

/// Keeps rows that came after their window had closed.
pub struct LateRows {
    table: String,
    clock: Arc<dyn Clock>,
    letters: Arc<TableLetters>,
}

impl LateRows {
    /// `rows` of the chunk (`None`: all) belong to the window `[start, end)`. More than what can be kept is not looked at.
    pub fn keep(
        &self,
        chunk: &Chunk,
        rows: Option<&[u32]>,
        (start, end): (i64, i64),
        watermark: i64,
    ) -> Result<(), Error> {
        let all: Vec<u32>;
        let rows = match rows {
            Some(rows) => rows,
            None => {
                all = (0..u32::try_from(chunk.len()).unwrap_or(u32::MAX)).collect();
                &all
            }
        };
        let error = format!(
            "late: the window from {} to {} closed, the watermark is {}",
            time_text(start),
            time_text(end),
            time_text(watermark)
        );
        let place = format!("window {}", time_text(start));
        for &row in &rows[rows.len().saturating_sub(DEAD_LETTERS_KEPT)..] {
            self.keep_row(chunk, row, &place, &error)?;
        }
        Ok(())
    }

    /// The row is of `time`, which what comes out has passed.
    pub fn keep_passed(&self, chunk: &Chunk, row: u32, time: i64, watermark: i64) -> Result<(), Error> {
        let (time, watermark) = (time_text(time), time_text(watermark));
        let error = format!("late: {time} has passed, the watermark is {watermark}");
        self.keep_row(chunk, row, &format!("time {time}"), &error)
    }

    fn keep_row(&self, chunk: &Chunk, row: u32, place: &str, error: &str) -> Result<(), Error> {
        let mut raw = row_text(chunk, row as usize)?.into_bytes();
        raw.truncate(DEAD_LETTER_ROW_BYTES);
        self.letters.keep(DeadLetter {
            table: self.table.clone(),
            at_micros: self.clock.now_micros(),
            place: place.to_owned(),
            offset: 0,
            raw,
            error: error.to_owned(),
        });
        Ok(())
    }
}

fn time_text(micros: i64) -> String {
    match micros {
        // The input has ended.
        i64::MAX => "infinity".to_owned(),
        micros => {
            let mut text = Vec::new();
            write_timestamp_text(micros, b' ', false, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::Report;

    fn row(raw: &[u8], offset: u64) -> BadRow<'_> {
        BadRow {
            place: "a.json",
            offset,
            raw,
            reason: "not an object",
        }
    }

    fn handler(letters: &DeadLetters, policy: BadData) -> Arc<dyn BadRowHandler> {
        letters.handler("public.t", policy, Arc::new(ManualClock::at(7)))
    }

    #[test]
    fn every_policy_counts() {
        let letters = DeadLetters::default();
        assert!(handler(&letters, BadData::Drop).bad_row(row(b"x", 1)).is_ok());
        assert!(handler(&letters, BadData::DeadLetter).bad_row(row(b"y", 2)).is_ok());
        let error = handler(&letters, BadData::Fail).bad_row(row(b"z", 3)).unwrap_err();
        assert_eq!(error.detail().as_deref(), Some("In \"a.json\" at offset 3."));
        assert_eq!(letters.counts(), [("public.t".to_owned(), 3)]);
        let kept = letters.letters();
        assert_eq!(kept.len(), 1);
        assert_eq!(
            (kept[0].raw.as_slice(), kept[0].offset, kept[0].at_micros),
            (&b"y"[..], 2, 7)
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_stay() {
        let letters = DeadLetters::default();
        let handler = handler(&letters, BadData::DeadLetter);
        let long = vec![b'a'; DEAD_LETTER_ROW_BYTES * 2];
        for offset in 0..2000 {
            handler.bad_row(row(&long, offset)).unwrap();
        }
        let kept = letters.letters();
        assert!(kept.iter().map(|letter| letter.raw.len()).sum::<usize>() <= DEAD_LETTER_BYTES_KEPT);
        assert_eq!(kept.last().unwrap().offset, 1999);
        assert_eq!(letters.counts()[0].1, 2000);
    }
}
