//! Which partitions there are, who reads which, and where reading begins.
//!
//! Partitions are dealt by their name and number alone, so that every subtask knows its own without asking the others, also when
//! there are more of them later.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::engine::connectors::kafka::broker_error::{external, words_of_code};
use crate::engine::connectors::kafka::client::{ASK_TIMEOUT, Connection};
use crate::engine::connectors::kafka::listener::Listener;
use crate::engine::connectors::kafka::options::{SourceOptions, StartOffset, Topics};
use crate::engine::connectors::{Result, SplitOffset};
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};

/// An open transaction is waited for this long before somebody looks whether the job is still there.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// A split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    pub topic: String,
    pub number: i32,
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

impl Partition {
    fn parse(split: &str) -> Option<Partition> {
        let (topic, number) = split.rsplit_once('/')?;
        Some(Partition {
            topic: topic.to_owned(),
            number: number.parse().ok()?,
        })
    }

    /// Partitions of one topic go round the subtasks; topics begin at different ones.
    pub fn belongs_to(&self, subtask: u32, parallelism: u32) -> bool {
        let first = self
            .topic
            .bytes()
            .fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        first.wrapping_add(self.number as u32) % parallelism.max(1) == subtask
    }
}

/// A partition's offset as it is checkpointed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The next record to read.
    pub next: i64,
    /// Where bounded input ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    pub partition: Partition,
    pub position: Position,
}

impl Split {
    pub fn offset(&self) -> SplitOffset {
        SplitOffset {
            split: self.partition.to_string(),
            // Numbers only: cannot fail.
            offset: serde_json::to_string(&self.position).unwrap_or_default(),
        }
    }
}

/// Stands in a checkpoint for a subtask that did not know its partitions yet: those that no other says anything of are not new.
const UNKNOWN: &str = "(not known yet)";

pub fn unknown_partitions() -> SplitOffset {
    SplitOffset {
        split: UNKNOWN.to_owned(),
        offset: "{}".to_owned(),
    }
}

/// What a checkpoint says.
#[derive(Debug, Default)]
pub struct Restored {
    /// Of this subtask.
    pub own: Vec<Split>,
    /// Partitions that are not in the checkpoint came later, and are read from their start.
    pub others_are_new: bool,
}

pub fn restored(offsets: &[SplitOffset], subtask: u32, parallelism: u32) -> Result<Restored> {
    let mut restored = Restored {
        own: Vec::new(),
        others_are_new: !offsets.is_empty() && offsets.iter().all(|offset| offset.split != UNKNOWN),
    };
    for offset in offsets.iter().filter(|offset| offset.split != UNKNOWN) {
        let unreadable = || Error::Internal(format!("offset {} of {} cannot be read", offset.offset, offset.split));
        let partition = Partition::parse(&offset.split).ok_or_else(unreadable)?;
        let position = serde_json::from_str(&offset.offset).map_err(|_| unreadable())?;
        if partition.belongs_to(subtask, parallelism) {
            restored.own.push(Split { partition, position });
        }
    }
    Ok(restored)
}

/// All partitions of the table.
pub fn discover(consumer: &BaseConsumer<Listener>, topics: &Topics) -> Result<Vec<Partition>> {
    let ask = |topic: Option<&str>| {
        consumer.fetch_metadata(topic, ASK_TIMEOUT).map_err(|error| {
            consumer
                .context()
                .failed("could not ask the Kafka server for its topics", &error)
        })
    };
    let mut found = Vec::new();
    match topics {
        Topics::Named(names) => {
            for name in names {
                found.extend(partitions_of(&ask(Some(name))?, name)?);
            }
        }
        Topics::Matching(pattern) => {
            let metadata = ask(None)?;
            for topic in metadata.topics().iter().filter(|topic| pattern.is_match(topic.name())) {
                found.extend(partitions_of(&metadata, topic.name())?);
            }
        }
    }
    found.sort();
    Ok(found)
}

pub fn partitions_of(metadata: &Metadata, topic: &str) -> Result<Vec<Partition>> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Err(missing(topic, RDKafkaErrorCode::UnknownTopicOrPartition));
    };
    if let Some(error) = found.error() {
        return Err(missing(topic, error.into()));
    }
    let partition = |number: i32| Partition {
        topic: topic.to_owned(),
        number,
    };
    Ok(found.partitions().iter().map(|found| partition(found.id())).collect())
}

fn missing(topic: &str, code: RDKafkaErrorCode) -> Error {
    external(
        &format!("topic \"{topic}\" cannot be used"),
        Some(code),
        &words_of_code(code),
    )
}

/// Where `partition` begins and ends now. With read_committed it ends before the first open transaction.
pub fn bounds(consumer: &BaseConsumer<Listener>, partition: &Partition) -> Result<(i64, i64)> {
    consumer
        .fetch_watermarks(&partition.topic, partition.number, ASK_TIMEOUT)
        .map_err(|error| failed_at(consumer, "could not ask for the offsets of", partition, &error))
}

fn failed_at(consumer: &BaseConsumer<Listener>, what: &str, partition: &Partition, error: &KafkaError) -> Error {
    consumer
        .context()
        .failed(&format!("{what} partition \"{partition}\""), error)
}

/// Where partitions end, whatever becomes of the transactions that are open.
pub fn written_ends(connection: &Connection, partitions: &[Partition]) -> Result<BTreeMap<Partition, i64>> {
    let own = [("group.id", "laminar"), ("isolation.level", "read_uncommitted")];
    let asker: BaseConsumer<Listener> = connection.client(&own, Listener::default())?;
    let mut ends = BTreeMap::new();
    for partition in partitions {
        ends.insert(partition.clone(), bounds(&asker, partition)?.1);
    }
    Ok(ends)
}

/// Waits for the transactions before `end`: brokers mark one as ended a moment after they said that it is.
fn bounds_with(consumer: &BaseConsumer<Listener>, partition: &Partition, end: i64) -> Result<(i64, i64)> {
    let begun = Instant::now();
    loop {
        let (first, last) = bounds(consumer, partition)?;
        if last >= end {
            return Ok((first, end));
        }
        if begun.elapsed() > OPEN_WITHIN {
            return Err(Error::External {
                code: SqlState::OBJECT_IN_USE,
                message: format!("a transaction is open in partition \"{partition}\""),
                hint: Some(
                    "Bounded input ends after what is committed now; whoever writes the transaction has to end it, or the broker after \
                     its transaction.timeout.ms."
                        .into(),
                ),
                retry: Retry::Backoff,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where partitions that were there from the beginning start. `ends`: of bounded input.
pub fn first_positions(
    consumer: &BaseConsumer<Listener>,
    options: &SourceOptions,
    partitions: &[Partition],
    ends: &BTreeMap<Partition, i64>,
) -> Result<Vec<Split>> {
    let asked = match &options.start {
        StartOffset::Group => committed(consumer, partitions)?,
        StartOffset::Timestamp(millis) => at_time(consumer, partitions, *millis)?,
        StartOffset::Earliest | StartOffset::Latest | StartOffset::Explicit(_) => BTreeMap::new(),
    };
    let mut splits = Vec::new();
    for partition in partitions {
        let (start, end) = match ends.get(partition) {
            Some(end) => bounds_with(consumer, partition, *end)?,
            None => bounds(consumer, partition)?,
        };
        let next = match &options.start {
            StartOffset::Earliest => start,
            StartOffset::Latest => end,
            StartOffset::Group => asked.get(partition).copied().unwrap_or(start),
            // Without an answer no record is as late as that.
            StartOffset::Timestamp(_) => asked.get(partition).copied().unwrap_or(end),
            StartOffset::Explicit(given) => explicit(given, partition).unwrap_or(start),
        };
        splits.push(Split {
            partition: partition.clone(),
            position: Position {
                next,
                end: options.bounded.then_some(end),
            },
        });
    }
    Ok(splits)
}

fn explicit(given: &[(Option<String>, i32, i64)], partition: &Partition) -> Option<i64> {
    let is_meant = |(topic, number, _): &&(Option<String>, i32, i64)| {
        *number == partition.number && topic.as_ref().is_none_or(|topic| *topic == partition.topic)
    };
    given.iter().find(is_meant).map(|(_, _, offset)| *offset)
}

fn list(partitions: &[Partition], offset: Offset) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(&partition.topic, partition.number, offset)
            .map_err(|error| Error::Internal(format!("partition \"{partition}\": {error}")))?;
    }
    Ok(list)
}

fn known_offsets(list: &TopicPartitionList) -> BTreeMap<Partition, i64> {
    let elements = list.elements();
    let known = elements.iter().filter_map(|element| {
        let partition = Partition {
            topic: element.topic().to_owned(),
            number: element.partition(),
        };
        match element.offset() {
            Offset::Offset(offset) => Some((partition, offset)),
            _ => None,
        }
    });
    known.collect()
}

fn committed(consumer: &BaseConsumer<Listener>, partitions: &[Partition]) -> Result<BTreeMap<Partition, i64>> {
    let asked = consumer.committed_offsets(list(partitions, Offset::Invalid)?, ASK_TIMEOUT);
    let answer = asked.map_err(|error| {
        consumer
            .context()
            .failed("could not ask for the offsets of the group", &error)
    });
    Ok(known_offsets(&answer?))
}

fn at_time(
    consumer: &BaseConsumer<Listener>,
    partitions: &[Partition],
    millis: i64,
) -> Result<BTreeMap<Partition, i64>> {
    let asked = consumer.offsets_for_times(list(partitions, Offset::Offset(millis))?, ASK_TIMEOUT);
    let answer = asked.map_err(|error| {
        consumer
            .context()
            .failed("could not ask for the offsets of a time", &error)
    });
    Ok(known_offsets(&answer?))
}

/// Makes sure that the records from `split` on are still there.
pub fn check_kept(consumer: &BaseConsumer<Listener>, options: &SourceOptions, split: &mut Split) -> Result<()> {
    let (start, end) = bounds(consumer, &split.partition)?;
    let next = split.position.next;
    if next < start {
        if options.skip_lost {
            tracing::warn!(partition = %split.partition, from = next, to = start, "records were removed before they were read");
            split.position.next = start;
            return Ok(());
        }
        return Err(Error::External {
            code: SqlState::DATA_EXCEPTION,
            message: format!(
                "offsets {next} to {} of partition \"{}\" were removed before they were read",
                start - 1,
                split.partition
            ),
            hint: Some(
                "Raise the retention of the topic. To go on without those records, create the table with \
                 source.on_lost_offsets = 'earliest'."
                    .into(),
            ),
            retry: Retry::Never,
        });
    }
    if next > end && end_is_final(consumer, &split.partition, next)? {
        return Err(Error::External {
            code: SqlState::DATA_EXCEPTION,
            message: format!(
                "partition \"{}\" ends at offset {end}, before {next}, which is to be read next",
                split.partition
            ),
            hint: Some("The topic was made anew: create the pipeline anew as well.".into()),
            retry: Retry::Never,
        });
    }
    Ok(())
}

/// A follower that has just become leader may know less for a moment.
fn end_is_final(consumer: &BaseConsumer<Listener>, partition: &Partition, next: i64) -> Result<bool> {
    std::thread::sleep(std::time::Duration::from_secs(1));
    Ok(next > bounds(consumer, partition)?.1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn partition(topic: &str, number: i32) -> Partition {
        Partition {
            topic: topic.into(),
            number,
        }
    }

    #[test]
    fn every_partition_belongs_to_one_subtask() {
        for parallelism in 1..6 {
            for number in 0..20 {
                let partition = partition("orders", number);
                let owners = (0..parallelism).filter(|subtask| partition.belongs_to(*subtask, parallelism));
                assert_eq!(owners.count(), 1, "{partition} of {parallelism}");
            }
            for subtask in 0..parallelism {
                let own = (0..parallelism as i32).filter(|n| partition("orders", *n).belongs_to(subtask, parallelism));
                assert_eq!(own.count(), 1, "partitions are spread evenly");
            }
        }
    }

    #[test]
    fn offsets_come_back() {
        let split = Split {
            partition: partition("a/b", 3),
            position: Position { next: 42, end: None },
        };
        assert_eq!(split.offset().offset, "{\"next\":42}");
        let found = restored(&[split.offset()], 0, 1).unwrap();
        assert_eq!(found.own, std::slice::from_ref(&split));
        assert!(found.others_are_new);
        let found = restored(&[split.offset(), unknown_partitions()], 0, 1).unwrap();
        assert_eq!(found.own, [split]);
        assert!(!found.others_are_new);
        assert!(!restored(&[], 0, 1).unwrap().others_are_new);
        let odd = SplitOffset {
            split: "x/1".into(),
            offset: "seven".into(),
        };
        assert!(restored(&[odd], 0, 1).is_err());
    }
}
