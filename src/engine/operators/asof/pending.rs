//! Numbers of rows by time, until the watermark has passed them.
//!
//! Rows mostly come nearly in order, so they are kept as a few sorted runs: a run goes on while times do not go back, and runs of
//! like size are merged. A row is so moved a logarithmic number of times, and never when the input is in order.

use std::mem::take;

/// Time and number.
type Entry = (i64, u32);

#[derive(Default)]
pub(super) struct Pending {
    runs: Vec<Run>,
}

#[derive(Default)]
struct Run {
    sorted: Vec<Entry>,
    /// Entries before this were taken.
    from: usize,
}

impl Run {
    fn rest(&self) -> &[Entry] {
        &self.sorted[self.from..]
    }
}

impl Pending {
    pub fn add(&mut self, times: &[i64], numbers: &[u32]) {
        let entries = times.iter().copied().zip(numbers.iter().copied());
        let in_order = times.is_sorted();
        let follows = in_order
            && self
                .runs
                .last()
                .and_then(|run| run.sorted.last())
                .is_some_and(|last| times.first().is_some_and(|first| last.0 <= *first));
        match self.runs.last_mut() {
            Some(last) if follows => {
                if last.from * 2 > last.sorted.len() {
                    last.sorted.drain(..last.from);
                    last.from = 0;
                }
                last.sorted.extend(entries);
            }
            _ => {
                let mut sorted: Vec<Entry> = entries.collect();
                sorted.sort_unstable();
                self.runs.push(Run { sorted, from: 0 });
            }
        }
        self.merge();
    }

    /// No run is less than twice as long as the one after it.
    fn merge(&mut self) {
        while let [.., before, last] = self.runs.as_mut_slice()
            && before.rest().len() < 2 * last.rest().len()
        {
            let mut merged = before.rest().to_vec();
            merged.extend_from_slice(last.rest());
            // Two runs are found and merged in one pass.
            merged.sort();
            self.runs.pop();
            if let Some(before) = self.runs.last_mut() {
                *before = Run {
                    sorted: merged,
                    from: 0,
                };
            }
        }
    }

    /// Hands over all rows before `time`, or all that there are, in order.
    pub fn take_before(&mut self, time: i64, all: bool) -> Vec<Entry> {
        let mut due: Vec<Entry> = Vec::new();
        for run in &mut self.runs {
            let rest = run.rest();
            let count = match all {
                true => rest.len(),
                false => rest.partition_point(|entry| entry.0 < time),
            };
            if count == run.sorted.len() && due.is_empty() {
                due = take(&mut run.sorted);
            } else {
                due.extend_from_slice(&rest[..count]);
                run.from += count;
            }
        }
        self.runs.retain(|run| !run.rest().is_empty());
        due.sort();
        due
    }

    pub fn memory_bytes(&self) -> usize {
        let entries: usize = self.runs.iter().map(|run| run.sorted.capacity()).sum();
        entries * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(entries: &[Entry]) -> Vec<i64> {
        entries.iter().map(|entry| entry.0).collect()
    }

    #[test]
    fn rows_come_out_in_order_whatever_the_order_they_came_in() {
        let mut pending = Pending::default();
        let mut all: Vec<i64> = Vec::new();
        let mut taken: Vec<i64> = Vec::new();
        // A scattered sequence that moves on by 3 a chunk.
        for chunk in 0..200i64 {
            let new: Vec<i64> = (0..7).map(|at| chunk * 3 + (chunk * 31 + at * 17) % 23).collect();
            let numbers: Vec<u32> = (0..7).collect();
            pending.add(&new, &numbers);
            all.extend(new);
            if chunk % 4 == 0 {
                taken.extend(times(&pending.take_before(chunk * 3, false)));
                assert!(taken.iter().all(|&time| time < chunk * 3));
            }
        }
        taken.extend(times(&pending.take_before(0, true)));
        all.sort_unstable();
        assert!(taken.is_sorted());
        assert_eq!(taken, all);
        assert!(pending.runs.is_empty());
    }

    #[test]
    fn input_in_order_is_one_run() {
        let mut pending = Pending::default();
        for chunk in 0..100i64 {
            pending.add(&[chunk, chunk, chunk + 1], &[0, 1, 2]);
            assert_eq!(pending.runs.len(), 1);
            if chunk % 3 == 0 {
                pending.take_before(chunk, false);
            }
        }
        // What was taken does not stay.
        assert!(pending.runs[0].sorted.len() < 30);
    }

    #[test]
    fn the_greatest_time_comes_out_at_the_end_only() {
        let mut pending = Pending::default();
        pending.add(&[i64::MAX, 5], &[1, 2]);
        assert_eq!(pending.take_before(i64::MAX, false), [(5, 2)]);
        assert_eq!(pending.take_before(i64::MAX, true), [(i64::MAX, 1)]);
    }
}
