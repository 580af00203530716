//! What a consumer's own statistics say of the brokers, for those who watch: where partitions end, whether anybody answers.
//!
//! Written by the client's thread every few seconds, read by the source. Nothing depends on it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::statistics::Statistics;

use crate::engine::connectors::SplitLag;
use crate::engine::connectors::kafka::partitions::Partition;

/// How often a consumer's client says how it is, in milliseconds.
pub const EVERY: &str = "2000";

#[derive(Default)]
pub struct Health {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By topic and partition: the offset that the next record will have.
    ends: BTreeMap<String, BTreeMap<i32, i64>>,
    trouble: Option<String>,
}

impl Health {
    // A panic elsewhere cannot leave it half changed.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `said`: what was last heard on a connection.
    pub fn take(&self, statistics: &Statistics, said: Option<String>) {
        let is_up = statistics.brokers.values().any(|broker| broker.state == "UP");
        let mut seen = self.seen();
        seen.trouble = (!is_up).then(|| said.unwrap_or_else(|| "no broker is connected".to_owned()));
        for topic in statistics.topics.values() {
            let known = topic.partitions.values().filter(|partition| partition.hi_offset >= 0);
            let ends = seen.ends.entry(topic.topic.clone()).or_default();
            ends.extend(known.map(|partition| (partition.partition, partition.hi_offset)));
        }
    }

    /// What the client's thread is held up by; `None`: by nothing.
    pub fn set_trouble(&self, trouble: Option<String>) {
        self.seen().trouble = trouble;
    }

    pub fn trouble(&self) -> Option<String> {
        self.seen().trouble.clone()
    }

    /// How far behind a partition is that is read up to `next`. `at_end`: the broker said that there is nothing more, which
    /// counts: the last offsets may belong to marks of transactions.
    pub fn lag(&self, partition: &Partition, next: i64, at_end: bool) -> SplitLag {
        let seen = self.seen();
        let end = seen
            .ends
            .get(&partition.topic)
            .and_then(|ends| ends.get(&partition.number));
        let end = end.map(|end| (*end).max(next));
        SplitLag {
            end: end.map(|end| end.to_string()),
            lag: match at_end {
                true => Some(0),
                false => end.map(|end| end.abs_diff(next)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_partition_is_the_greatest_that_was_heard_of() {
        let health = Health::default();
        let partition = Partition {
            topic: "t".into(),
            number: 3,
        };
        assert_eq!(
            health.lag(&partition, 7, false),
            SplitLag::default(),
            "nothing is known yet"
        );
        health.seen().ends.insert("t".into(), BTreeMap::from([(3, 12)]));
        let behind = health.lag(&partition, 7, false);
        assert_eq!((behind.end.as_deref(), behind.lag), (Some("12"), Some(5)));
        assert_eq!(
            health.lag(&partition, 11, true).lag,
            Some(0),
            "only the mark of a transaction is left"
        );
        assert_eq!(
            health.lag(&partition, 20, false).lag,
            Some(0),
            "read since it was heard of"
        );
    }
}
