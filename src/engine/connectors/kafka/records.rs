//! Records on their way to a topic: a log of bytes that a checkpoint can hold until they may be written.
//!
//! Guarantee: what was pushed is read back in its order. A log that was cut or damaged is an error, never fewer records.

use std::io::{Cursor, Read};

use crate::engine::connectors::Result;
use crate::engine::error::Error;

const FORMAT: u8 = 1;
/// Bytes that are compressed together.
const BLOCK: usize = 1024 * 1024;
const COMPRESSION_LEVEL: i32 = 1;

/// One record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    /// `None`: the partitioner decides.
    pub partition: Option<i32>,
    /// Milliseconds since the epoch; `None`: when it is written.
    pub timestamp: Option<i64>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Records of one subtask since the last barrier.
#[derive(Default)]
pub struct RecordLog {
    /// Compressed blocks, each after its length.
    blocks: Vec<u8>,
    /// Of the last block, not compressed yet.
    open: Vec<u8>,
    records: u64,
}

impl RecordLog {
    pub fn push(&mut self, record: &Record) -> Result<()> {
        let open = &mut self.open;
        put_bytes(open, record.key.as_deref())?;
        put_bytes(open, record.value.as_deref())?;
        open.extend_from_slice(&record.partition.unwrap_or(-1).to_le_bytes());
        open.extend_from_slice(&record.timestamp.unwrap_or(i64::MIN).to_le_bytes());
        put_length(open, record.headers.len())?;
        for (name, value) in &record.headers {
            put_bytes(open, Some(name.as_bytes()))?;
            put_bytes(open, value.as_deref())?;
        }
        self.records += 1;
        if self.open.len() >= BLOCK {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<()> {
        let block = zstd::bulk::compress(&self.open, COMPRESSION_LEVEL)
            .map_err(|error| Error::Internal(format!("output of a sink could not be compressed: {error}")))?;
        put_bytes(&mut self.blocks, Some(&block))?;
        self.open.clear();
        Ok(())
    }

    /// The log in the form that is kept, which is then empty here; `None` when nothing was pushed. `now`: microseconds since the
    /// epoch.
    pub fn take(&mut self, now: i64) -> Result<Option<Vec<u8>>> {
        if self.records == 0 {
            return Ok(None);
        }
        self.close_block()?;
        self.records = 0;
        let mut kept = vec![FORMAT];
        kept.extend_from_slice(&now.to_le_bytes());
        kept.append(&mut self.blocks);
        Ok(Some(kept))
    }
}

/// When a log was taken.
pub fn taken_at(log: &[u8]) -> Result<i64> {
    let mut input = Cursor::new(log);
    begin(&mut input)
}

fn begin(input: &mut Cursor<&[u8]>) -> Result<i64> {
    if get::<1>(input)? != [FORMAT] {
        return Err(damaged());
    }
    Ok(i64::from_le_bytes(get(input)?))
}

/// Calls `each` with all records of a log.
pub fn read(log: &[u8], mut each: impl FnMut(Record) -> Result<()>) -> Result<()> {
    let mut input = Cursor::new(log);
    begin(&mut input)?;
    while (input.position() as usize) < log.len() {
        let block = get_bytes(&mut input)?.ok_or_else(damaged)?;
        let mut open = Vec::new();
        zstd::Decoder::new(block.as_slice())
            .and_then(|mut decoder| decoder.read_to_end(&mut open))
            .map_err(|_| damaged())?;
        let mut records = Cursor::new(open.as_slice());
        while (records.position() as usize) < open.len() {
            each(get_record(&mut records)?)?;
        }
    }
    Ok(())
}

fn get_record(input: &mut Cursor<&[u8]>) -> Result<Record> {
    let key = get_bytes(input)?;
    let value = get_bytes(input)?;
    let partition = i32::from_le_bytes(get(input)?);
    let timestamp = i64::from_le_bytes(get(input)?);
    let count = u32::from_le_bytes(get(input)?);
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = get_bytes(input)?.and_then(|name| String::from_utf8(name).ok());
        headers.push((name.ok_or_else(damaged)?, get_bytes(input)?));
    }
    Ok(Record {
        key,
        value,
        partition: (partition >= 0).then_some(partition),
        timestamp: (timestamp != i64::MIN).then_some(timestamp),
        headers,
    })
}

/// No bytes at all, which is something else than none.
const ABSENT: u32 = u32::MAX;

fn put_length(out: &mut Vec<u8>, length: usize) -> Result<()> {
    let length = u32::try_from(length).ok().filter(|length| *length != ABSENT);
    let length = length.ok_or_else(|| Error::Internal("a record of a sink has 4 GiB".into()))?;
    out.extend_from_slice(&length.to_le_bytes());
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> Result<()> {
    let Some(bytes) = bytes else {
        out.extend_from_slice(&ABSENT.to_le_bytes());
        return Ok(());
    };
    put_length(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn get<const N: usize>(input: &mut Cursor<&[u8]>) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(|_| damaged())?;
    Ok(bytes)
}

fn get_bytes(input: &mut Cursor<&[u8]>) -> Result<Option<Vec<u8>>> {
    let length = u32::from_le_bytes(get(input)?);
    if length == ABSENT {
        return Ok(None);
    }
    let start = input.position() as usize;
    let end = start + length as usize;
    let bytes = input.get_ref().get(start..end).ok_or_else(damaged)?.to_vec();
    input.set_position(end as u64);
    Ok(Some(bytes))
}

fn damaged() -> Error {
    Error::Internal("output of a sink in a checkpoint cannot be read".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(number: i64) -> Record {
        Record {
            key: (number % 3 != 0).then(|| number.to_string().into_bytes()),
            value: (number % 5 != 0).then(|| vec![b'x'; (number % 97) as usize]),
            partition: (number % 2 == 0).then_some(number as i32),
            timestamp: (number % 7 == 0).then_some(number - 50),
            headers: (0..number % 3)
                .map(|header| (format!("h{header}"), (header > 0).then(|| vec![0, 255])))
                .collect(),
        }
    }

    #[test]
    fn what_is_pushed_is_read() {
        let mut log = RecordLog::default();
        assert_eq!(log.take(5).unwrap(), None);
        for number in 0..40_000 {
            log.push(&record(number)).unwrap();
        }
        let kept = log.take(7).unwrap().unwrap();
        assert_eq!(log.take(8).unwrap(), None);
        assert_eq!(taken_at(&kept).unwrap(), 7);
        let mut next = 0;
        read(&kept, |found| {
            assert_eq!(found, record(next));
            next += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(next, 40_000);
    }

    #[test]
    fn a_cut_log_is_an_error() {
        let mut log = RecordLog::default();
        log.push(&record(4)).unwrap();
        let kept = log.take(0).unwrap().unwrap();
        for length in 10..kept.len() {
            assert!(read(&kept[..length], |_| Ok(())).is_err(), "{length}");
        }
    }
}
