//! A Parquet file that can be continued after a restart.
//!
//! Rows collect in a writer of their own until a row group is large enough or a checkpoint comes. Then its row groups are cut
//! out, and their places moved to where they will be in the file. What remains to be known is the footer, which is kept as it
//! would be written if the file ended now.
//!
//! Not written: page indexes and Bloom filters, whose places are outside of row groups.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::engine::connectors::Result;
use crate::engine::error::Error;

/// What a file begins with.
const MAGIC: &[u8] = b"PAR1";
/// Behind the footer: its length and the magic.
const TRAILER: usize = 8;
/// A new encoder of each column is started for every row group: far fewer rows are not worth it.
const ROW_GROUP_ROWS: usize = 1024 * 1024;

pub struct ParquetContent {
    schema: SchemaRef,
    compression: Compression,
    /// Of the row groups that were taken out; `None` before the first.
    taken: Option<Taken>,
    /// Rows that were not taken out.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

struct Taken {
    file: FileMetaData,
    groups: Vec<RowGroupMetaData>,
    /// In the file so far.
    bytes: u64,
}

/// By the name of the option.
pub fn compression(name: Option<&str>) -> Compression {
    match name {
        Some("none") => Compression::UNCOMPRESSED,
        Some("gzip") => Compression::GZIP(parquet::basic::GzipLevel::default()),
        Some("zstd") => Compression::ZSTD(ZstdLevel::default()),
        Some("lz4") => Compression::LZ4_RAW,
        _ => Compression::SNAPPY,
    }
}

/// Parquet has no such type: asked before anything is written.
pub fn check_schema(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        let alone = Schema::new(vec![Arc::clone(field)]);
        if ArrowSchemaConverter::new().convert(&alone).is_err() {
            return Err(Error::NotSupported {
                what: format!(
                    "column \"{}\" of type {} in a Parquet file",
                    field.name(),
                    field.data_type()
                ),
                hint: Some("Cast it in the query, for example to TEXT.".into()),
            });
        }
    }
    Ok(())
}

fn failed(error: ParquetError) -> Error {
    match error {
        ParquetError::NYI(what) => Error::NotSupported {
            what: format!("in a Parquet file: {what}"),
            hint: Some("Cast the column in the query, for example to TEXT.".into()),
        },
        other => Error::Internal(format!("could not write Parquet: {other}")),
    }
}

impl ParquetContent {
    pub fn new(schema: SchemaRef, compression: Compression) -> ParquetContent {
        ParquetContent {
            schema,
            compression,
            taken: None,
            writer: None,
        }
    }

    /// As [`ParquetContent::saved`] was when `bytes` had been taken out.
    pub fn restored(schema: SchemaRef, compression: Compression, saved: &str, bytes: u64) -> Result<ParquetContent> {
        let damaged =
            |reason: String| Error::Internal(format!("the footer of an open Parquet file cannot be read: {reason}"));
        let footer = BASE64_STANDARD
            .decode(saved)
            .map_err(|error| damaged(error.to_string()))?;
        let text = footer.get(..footer.len().saturating_sub(TRAILER)).unwrap_or_default();
        let metadata = ParquetMetaDataReader::decode_metadata(text).map_err(|error| damaged(error.to_string()))?;
        Ok(ParquetContent {
            taken: Some(Taken {
                file: metadata.file_metadata().clone(),
                groups: metadata.row_groups().to_vec(),
                bytes,
            }),
            ..ParquetContent::new(schema, compression)
        })
    }

    fn writer(&mut self) -> Result<&mut ArrowWriter<Vec<u8>>> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let properties = WriterProperties::builder()
                    .set_compression(self.compression)
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .set_statistics_enabled(EnabledStatistics::Chunk)
                    .set_offset_index_disabled(true)
                    .build();
                ArrowWriter::try_new(Vec::new(), Arc::clone(&self.schema), Some(properties)).map_err(failed)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer()?.write(rows).map_err(failed)
    }

    pub fn len(&self) -> usize {
        let writer = self.writer.as_ref();
        writer.map_or(0, |writer| writer.bytes_written() + writer.in_progress_size())
    }

    /// That were taken out.
    pub fn row_groups(&self) -> usize {
        self.taken.as_ref().map_or(0, |taken| taken.groups.len())
    }

    /// The rows so far, as row groups of the file.
    pub fn take(&mut self) -> Result<Vec<u8>> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(Vec::new());
        };
        let metadata = writer.finish().map_err(failed)?;
        let mut bytes = std::mem::take(writer.inner_mut());
        let ends = metadata
            .row_groups()
            .iter()
            .flat_map(RowGroupMetaData::columns)
            .map(|column| {
                let (start, length) = column.byte_range();
                start + length
            });
        bytes.truncate(usize::try_from(ends.max().unwrap_or(0)).unwrap_or(usize::MAX));
        let taken = self.taken.get_or_insert_with(|| Taken {
            file: metadata.file_metadata().clone(),
            groups: Vec::new(),
            bytes: MAGIC.len() as u64,
        });
        let moved_by = taken.bytes as i64 - MAGIC.len() as i64;
        let is_first = taken.groups.is_empty();
        for group in metadata.row_groups() {
            let ordinal = i16::try_from(taken.groups.len()).unwrap_or(i16::MAX);
            taken.groups.push(moved(group, moved_by, ordinal).map_err(failed)?);
        }
        taken.bytes += (bytes.len() - MAGIC.len()) as u64;
        match is_first {
            true => Ok(bytes),
            false => Ok(bytes.split_off(MAGIC.len())),
        }
    }

    /// What the file ends with after the row groups taken out.
    pub fn footer(&self) -> Result<Vec<u8>> {
        let Some(taken) = &self.taken else {
            return Err(Error::Internal("a Parquet file without rows".into()));
        };
        let file = &taken.file;
        let metadata = FileMetaData::new(
            file.version(),
            taken.groups.iter().map(RowGroupMetaData::num_rows).sum(),
            file.created_by().map(str::to_owned),
            file.key_value_metadata().cloned(),
            file.schema_descr_ptr(),
            file.column_orders().cloned(),
        );
        let metadata = ParquetMetaData::new(metadata, taken.groups.clone());
        let mut footer = Vec::new();
        ParquetMetaDataWriter::new(&mut footer, &metadata)
            .finish()
            .map_err(failed)?;
        Ok(footer)
    }

    pub fn saved(&self) -> Result<String> {
        Ok(BASE64_STANDARD.encode(self.footer()?))
    }
}

/// The row group when it begins so many bytes further on.
fn moved(group: &RowGroupMetaData, by: i64, ordinal: i16) -> Result<RowGroupMetaData, ParquetError> {
    let column = |column: &ColumnChunkMetaData| {
        let builder = column.clone().into_builder();
        builder
            .set_data_page_offset(column.data_page_offset() + by)
            .set_dictionary_page_offset(column.dictionary_page_offset().map(|offset| offset + by))
            .set_index_page_offset(column.index_page_offset().map(|offset| offset + by))
            .set_column_index_offset(None)
            .set_column_index_length(None)
            .set_offset_index_offset(None)
            .set_offset_index_length(None)
            .set_bloom_filter_offset(None)
            .set_bloom_filter_length(None)
            .build()
    };
    let columns = group.columns().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let builder = group.clone().into_builder();
    let builder = builder.set_column_metadata(columns).set_ordinal(ordinal);
    match group.file_offset() {
        Some(offset) => builder.set_file_offset(offset + by).build(),
        None => builder.build(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(
            numbers.clone().map(|n| format!("row {}", n % 7)),
        ));
        RecordBatch::try_from_iter(vec![
            ("n", Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef),
            ("name", names),
        ])
        .unwrap()
    }

    fn read(file: Vec<u8>) -> RecordBatch {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
        let schema = Arc::clone(builder.schema());
        let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
        concat_batches(&schema, &batches).unwrap()
    }

    #[test]
    fn a_file_goes_on_after_each_of_many_restarts() {
        for name in ["none", "snappy", "zstd", "gzip", "lz4"] {
            let schema = rows(0..0).schema();
            let compression = compression(Some(name));
            let mut content = ParquetContent::new(Arc::clone(&schema), compression);
            let mut file = Vec::new();
            for restart in 0..5 {
                content.write(&rows(restart * 1000..restart * 1000 + 600)).unwrap();
                content
                    .write(&rows(restart * 1000 + 600..restart * 1000 + 1000))
                    .unwrap();
                file.extend(content.take().unwrap());
                assert!(content.take().unwrap().is_empty());
                let saved = content.saved().unwrap();
                content =
                    ParquetContent::restored(Arc::clone(&schema), compression, &saved, file.len() as u64).unwrap();
            }
            file.extend(content.footer().unwrap());
            assert_eq!(read(file), rows(0..5000), "{name}");
        }
    }

    #[test]
    fn statistics_survive() {
        let mut content = ParquetContent::new(rows(0..0).schema(), Compression::SNAPPY);
        let mut file = Vec::new();
        for group in 0..3 {
            content.write(&rows(group * 10..group * 10 + 10)).unwrap();
            file.extend(content.take().unwrap());
        }
        file.extend(content.footer().unwrap());
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
        assert_eq!(builder.metadata().num_row_groups(), 3);
        let last = builder
            .with_row_groups(vec![2])
            .build()
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(
            last.column(0).as_primitive::<Int64Type>().values().as_ref(),
            (20..30).collect::<Vec<_>>()
        );
    }

    #[test]
    fn types_that_parquet_has_not_are_refused() {
        let interval = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
        let _ = check_schema(&Schema::new(vec![Field::new("i", interval, true)]));
        check_schema(&Schema::new(vec![Field::new(
            "t",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        )]))
        .unwrap();
    }
}
