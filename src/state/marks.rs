//! A value for each key group, kept as runs: up to which epoch a base covers it, which time has expired.

use serde::{Deserialize, Serialize};

use crate::state::key_group::{KeyGroup, KeyGroupRange};

/// Runs of groups with one value, ascending, without overlap; groups in no run have no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Marks<V>(Vec<Mark<V>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark<V> {
    start: u16,
    end: u16,
    value: V,
}

impl<V> Default for Marks<V> {
    fn default() -> Self {
        Marks(Vec::new())
    }
}

impl<V: Copy + Ord> Marks<V> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the value of every group of `range`.
    pub fn set(&mut self, range: KeyGroupRange, value: V) {
        if range.is_empty() {
            return;
        }
        let mut runs = Vec::with_capacity(self.0.len() + 2);
        for mark in &self.0 {
            let before = (mark.start, mark.end.min(range.start));
            let after = (mark.start.max(range.end), mark.end);
            for (start, end) in [before, after] {
                if start < end {
                    runs.push(Mark { start, end, ..*mark });
                }
            }
        }
        runs.push(Mark {
            start: range.start,
            end: range.end,
            value,
        });
        runs.sort_by_key(|mark| mark.start);
        self.0.clear();
        for mark in runs {
            match self.0.last_mut() {
                Some(last) if last.end == mark.start && last.value == mark.value => last.end = mark.end,
                _ => self.0.push(mark),
            }
        }
    }

    pub fn get(&self, group: KeyGroup) -> Option<V> {
        let at = self.0.partition_point(|mark| mark.end <= group.0);
        self.0
            .get(at)
            .filter(|mark| mark.start <= group.0)
            .map(|mark| mark.value)
    }

    /// The least value in `range`; `None` when a group of it has none, or it is empty.
    pub fn least(&self, range: KeyGroupRange) -> Option<V> {
        if range.is_empty() {
            return None;
        }
        let mut covered = range.start;
        let mut least = None;
        for mark in &self.0 {
            if mark.end <= covered {
                continue;
            }
            if covered >= range.end || mark.start > covered {
                break;
            }
            covered = mark.end;
            least = Some(least.map_or(mark.value, |least: V| least.min(mark.value)));
        }
        least.filter(|_| covered >= range.end)
    }

    /// The greatest value of any group in `range`.
    pub fn greatest(&self, range: KeyGroupRange) -> Option<V> {
        let inside = |mark: &&Mark<V>| !range.is_empty() && mark.start < range.end && range.start < mark.end;
        self.0.iter().filter(inside).map(|mark| mark.value).max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_an_array(
            sets in prop::collection::vec((0..20u16, 0..20u16, 0..4i64), 0..12),
            start in 0..20u16,
            end in 0..20u16,
        ) {
            let mut marks = Marks::default();
            let mut model = [None; 20];
            for (start, end, value) in sets {
                marks.set(KeyGroupRange { start, end }, value);
                for group in start..end.max(start) {
                    model[usize::from(group)] = Some(value);
                }
            }
            for (group, value) in model.iter().enumerate() {
                prop_assert_eq!(marks.get(KeyGroup(group as u16)), *value);
            }
            let range = KeyGroupRange { start, end };
            let inside = &model[usize::from(start)..usize::from(end.max(start))];
            let least = if inside.is_empty() || inside.contains(&None) { None } else { inside.iter().copied().flatten().min() };
            prop_assert_eq!(marks.least(range), least);
            prop_assert_eq!(marks.greatest(range), inside.iter().copied().flatten().max());
        }
    }
}
