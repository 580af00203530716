//! One blob: rows of one table as Parquet, so that other tools can read checkpoints too.
//!
//! Rows lie in order of key group; row groups carry the least and greatest group, so that a reader of a range decodes only what
//! it needs. Tables with types that Parquet does not have are written as an Arrow stream.
//!
//! Guarantee: decoding damaged bytes is an error, never a panic and never other rows, provided that the checksum was
//! verified first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions};
use parquet::basic::Compression;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use crate::state::error::Error;
use crate::state::key_group::KeyGroupRange;
use crate::state::manifest::Encoding;
use crate::state::table::{KEY_GROUP_COLUMN, OP_COLUMN};

/// Rows of a row group: what a reader of a narrow range may have to decode in vain.
const ROW_GROUP_ROWS: usize = 64 * 1024;
/// Below this many bytes compression costs more than it saves.
const COMPRESSED_ABOVE: usize = 8 * 1024;
/// Rows handed out at once.
const BATCH_ROWS: usize = 16 * 1024;

/// Encodes `rows`, which are in order of key group.
pub(super) fn encode(rows: &RecordBatch) -> Result<(Encoding, Bytes), Error> {
    let schema = rows.schema();
    if schema.fields().iter().all(|field| parquet_has(field.data_type())) {
        Ok((Encoding::Parquet, encode_parquet(rows)?))
    } else {
        let internal = |error: arrow::error::ArrowError| Error::Internal(format!("encoding state: {error}"));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(internal)?;
        writer.write(rows).map_err(internal)?;
        Ok((Encoding::Arrow, writer.into_inner().map_err(internal)?.into()))
    }
}

fn encode_parquet(rows: &RecordBatch) -> Result<Bytes, Error> {
    let internal = |error: parquet::errors::ParquetError| Error::Internal(format!("encoding state: {error}"));
    let large = rows.get_array_memory_size() > COMPRESSED_ABOVE;
    let key_group = ColumnPath::from(KEY_GROUP_COLUMN);
    let properties = WriterProperties::builder()
        .set_created_by(concat!("laminar ", env!("CARGO_PKG_VERSION")).to_string())
        .set_compression(if large {
            Compression::LZ4_RAW
        } else {
            Compression::UNCOMPRESSED
        })
        // Keys and sums hardly repeat; these two columns hardly do anything else.
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled(key_group.clone(), large)
        .set_column_dictionary_enabled(ColumnPath::from(OP_COLUMN), large)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(key_group, EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options).map_err(internal)?;
    writer.write(rows).map_err(internal)?;
    Ok(writer.into_inner().map_err(internal)?.into())
}

/// Whether a type survives a round trip through Parquet.
fn parquet_has(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) | DataType::Union(_, _) | DataType::RunEndEncoded(_, _) => false,
        DataType::ListView(_) | DataType::LargeListView(_) | DataType::Date64 | DataType::Null => false,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            parquet_has(field.data_type())
        }
        DataType::Map(field, _) => parquet_has(field.data_type()),
        DataType::Struct(fields) => !fields.is_empty() && fields.iter().all(|field| parquet_has(field.data_type())),
        DataType::Dictionary(_, values) => !values.is_nested() && parquet_has(values),
        _ => true,
    }
}

/// The batches of a blob, in order.
pub(crate) struct Decoder<'a> {
    path: &'a str,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>>,
}

impl<'a> Decoder<'a> {
    /// Reads the rows of `wanted` groups, and maybe some others.
    pub(crate) fn open(
        path: &'a str,
        encoding: Encoding,
        blob: Bytes,
        wanted: Option<KeyGroupRange>,
    ) -> Result<Decoder<'a>, Error> {
        let opened = guarded(path, || match encoding {
            Encoding::Parquet => open_parquet(blob, wanted),
            Encoding::Arrow => Ok(open_arrow(blob)),
        })?;
        let batches = opened.map_err(|reason| damaged(path, reason))?;
        Ok(Decoder { path, batches })
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match guarded(self.path, || self.batches.next()) {
            Ok(Some(Ok(batch))) => Some(Ok(batch)),
            Ok(Some(Err(error))) => Some(Err(damaged(self.path, error.to_string()))),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>>;

/// Takes no more memory than the blob has, whatever lengths it says.
fn open_arrow(blob: Bytes) -> Batches {
    let mut decoder = StreamDecoder::new();
    let mut rest = Buffer::from(blob);
    let mut has_ended = false;
    Box::new(std::iter::from_fn(move || {
        if has_ended {
            return None;
        }
        let next = decoder.decode(&mut rest).transpose();
        has_ended = !matches!(next, Some(Ok(_)));
        next.or_else(|| decoder.finish().err().map(Err))
    }))
}

fn open_parquet(blob: Bytes, wanted: Option<KeyGroupRange>) -> Result<Batches, String> {
    let metadata = ArrowReaderMetadata::load(&blob, ArrowReaderOptions::new()).map_err(|error| error.to_string())?;
    let parquet = Arc::clone(metadata.metadata());
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(blob, metadata).with_batch_size(BATCH_ROWS);
    let builder = match wanted {
        Some(wanted) => {
            let groups = parquet.row_groups().iter().enumerate();
            let chosen = groups
                .filter(|(_, group)| may_hold(group, wanted))
                .map(|(index, _)| index)
                .collect();
            builder.with_row_groups(chosen)
        }
        None => builder,
    };
    let reader = builder.build().map_err(|error| error.to_string())?;
    Ok(Box::new(reader))
}

/// Whether a row group may have rows of `wanted`, by the statistics of its first column.
fn may_hold(group: &RowGroupMetaData, wanted: KeyGroupRange) -> bool {
    let statistics = group.columns().first().and_then(|column| column.statistics());
    let Some(Statistics::Int32(statistics)) = statistics else {
        return true;
    };
    match (statistics.min_opt(), statistics.max_opt()) {
        (Some(least), Some(greatest)) => *least < i32::from(wanted.end) && i32::from(wanted.start) <= *greatest,
        _ => true,
    }
}

/// Decoders of damaged files are known to panic.
fn guarded<T>(path: &str, body: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| damaged(path, "its reader panicked".into()))
}

fn damaged(path: &str, reason: String) -> Error {
    Error::Damaged {
        path: path.to_string(),
        reason,
    }
}

/// Whether two batches of one table can be written as one.
pub(super) fn same_columns(left: &Schema, right: &Schema) -> bool {
    left.fields().len() == right.fields().len()
        && left
            .fields()
            .iter()
            .zip(right.fields())
            .all(|(l, r)| l.name() == r.name() && l.data_type() == r.data_type())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::*;
    use arrow::compute::cast;
    use arrow::datatypes::*;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    fn decoded(encoding: Encoding, blob: Bytes, wanted: Option<KeyGroupRange>) -> Result<Vec<RecordBatch>, Error> {
        Decoder::open("test", encoding, blob, wanted)?.collect()
    }

    fn rows_of_all_types() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(100)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![
            Some("a"),
            None,
            Some("a string of some length"),
        ]));
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        let from_numbers = [
            DataType::Boolean,
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::UInt8,
            DataType::UInt16,
            DataType::UInt32,
            DataType::UInt64,
            DataType::Float16,
            DataType::Float32,
            DataType::Float64,
            DataType::Date64,
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Duration(TimeUnit::Microsecond),
            DataType::Decimal32(9, 2),
            DataType::Decimal64(18, 2),
            DataType::Decimal128(38, 9),
            DataType::Decimal256(76, 9),
        ];
        for data_type in from_numbers {
            columns.push((data_type.to_string(), cast(&numbers, &data_type).unwrap()));
        }
        let integers = cast(&numbers, &DataType::Int32).unwrap();
        for data_type in [
            DataType::Date32,
            DataType::Time32(TimeUnit::Second),
            DataType::Interval(IntervalUnit::YearMonth),
        ] {
            columns.push((data_type.to_string(), cast(&integers, &data_type).unwrap()));
        }
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        for data_type in [
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Binary,
            DataType::LargeBinary,
            DataType::BinaryView,
            dictionary,
        ] {
            columns.push((data_type.to_string(), cast(&texts, &data_type).unwrap()));
        }
        let lists =
            ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
        columns.push(("lists".into(), Arc::new(lists)));
        let fields: Fields = vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
        ]
        .into();
        let nulls = Some(vec![true, false, true].into());
        columns.push((
            "struct".into(),
            Arc::new(StructArray::new(fields, vec![numbers, texts], nulls)),
        ));
        let uuids = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
            [Some(&[1u8; 16]), None, Some(&[2; 16])].into_iter(),
            16,
        );
        columns.push(("uuids".into(), Arc::new(uuids.unwrap())));
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    /// Each type alone, so that each goes the way that it will go.
    #[test]
    fn every_type_comes_back() {
        let rows = rows_of_all_types();
        for column in 0..rows.num_columns() {
            let one = rows.project(&[column]).unwrap();
            let (encoding, blob) = encode(&one).unwrap();
            let back = decoded(encoding, blob, None).unwrap();
            assert_eq!(back.len(), 1, "{}", one.schema());
            assert_eq!(back[0].column(0).as_ref(), one.column(0).as_ref(), "{}", one.schema());
            assert_eq!(back[0].schema().field(0).data_type(), one.schema().field(0).data_type());
        }
        let interval = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNanoType::make_value(1, -2, 3)]);
        let rows = batch(vec![("i", Arc::new(interval))]);
        let (encoding, blob) = encode(&rows).unwrap();
        assert_eq!(encoding, Encoding::Arrow);
        assert_eq!(decoded(encoding, blob, None).unwrap(), [rows]);
    }

    #[test]
    fn readers_of_a_range_skip_row_groups() {
        let rows = 300_000u32;
        let groups: ArrayRef = Arc::new(UInt16Array::from_iter_values((0..rows).map(|n| (n / 300) as u16)));
        let values: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows));
        let batch = batch(vec![(KEY_GROUP_COLUMN, groups), ("value", values)]);
        let (encoding, blob) = encode(&batch).unwrap();
        let wanted = KeyGroupRange { start: 500, end: 501 };
        let read: Vec<u32> = decoded(encoding, blob, Some(wanted))
            .unwrap()
            .iter()
            .flat_map(|batch| batch.column(1).as_primitive::<UInt32Type>().values().to_vec())
            .collect();
        assert!(read.len() <= 2 * ROW_GROUP_ROWS, "{}", read.len());
        assert!((150_000..150_300).all(|value| read.binary_search(&value).is_ok()));
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let rows = rows_of_all_types();
        let (encoding, blob) = encode(&rows.project(&[4, 10, 27, 35]).unwrap()).unwrap();
        let step = (blob.len() / 400).max(1);
        for at in (0..blob.len()).step_by(step) {
            let mut damaged = blob.to_vec();
            damaged[at] ^= 0x55;
            let _ = decoded(encoding, damaged.into(), None);
            let _ = decoded(encoding, blob.slice(..at), None);
        }
    }
}
