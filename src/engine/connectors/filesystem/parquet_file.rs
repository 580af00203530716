//! Parquet files: opening them over any object store, and fitting their columns to a table's.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::engine::connectors::Result;
use crate::engine::connectors::filesystem::location::{InputFile, Location};
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};
use crate::types::record_batch::batch_of_rows;

/// Fetches parts of one file.
pub struct Ranges {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.store.get_range(&self.path, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

pub async fn open(location: &Location, file: &InputFile) -> Result<ParquetRecordBatchStreamBuilder<Ranges>> {
    let ranges = Ranges {
        store: Arc::clone(&location.store),
        path: file.path.clone(),
        size: file.size,
    };
    ParquetRecordBatchStreamBuilder::new(ranges)
        .await
        .map_err(|error| failure(file, &error))
}

pub fn failure(file: &InputFile, error: &parquet::errors::ParquetError) -> Error {
    Error::External {
        code: SqlState::DATA_CORRUPTED,
        message: format!("could not read Parquet file \"{}\": {error}", file.name),
        hint: None,
        retry: Retry::Never,
    }
}

/// The rows with the columns wanted: found by name, cast; a column that the file does not have is NULL.
pub fn fitted(rows: &RecordBatch, schema: &SchemaRef, file: &InputFile) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let names = rows.schema_ref().fields();
        let index = names.iter().position(|name| name.name() == field.name()).or_else(|| {
            names
                .iter()
                .position(|name| name.name().eq_ignore_ascii_case(field.name()))
        });
        columns.push(match index {
            Some(index) => cast(rows.column(index), field, file)?,
            None => new_null_array(field.data_type(), rows.num_rows()),
        });
    }
    batch_of_rows(Arc::clone(schema), columns, rows.num_rows()).map_err(|error| Error::Data {
        code: SqlState::NOT_NULL_VIOLATION,
        message: format!("rows of file \"{}\" do not fit the table", file.name),
        detail: Some(error.to_string()),
    })
}

fn cast(column: &ArrayRef, field: &Field, file: &InputFile) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let options = arrow::compute::CastOptions {
        safe: false,
        ..arrow::compute::CastOptions::default()
    };
    arrow::compute::cast_with_options(column, field.data_type(), &options).map_err(|error| Error::Data {
        code: SqlState::DATATYPE_MISMATCH,
        message: format!(
            "column \"{}\" of file \"{}\" does not fit the table",
            field.name(),
            file.name
        ),
        detail: Some(error.to_string()),
    })
}

/// The columns of a Parquet file in the types that tables have.
pub async fn schema(location: &Location, file: &InputFile) -> Result<SchemaRef> {
    let builder = open(location, file).await?;
    Ok(table_schema(builder.schema()))
}

/// The same columns in the types that tables have.
pub fn table_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| table_field(field));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn table_field(field: &Field) -> Field {
    Field::new(field.name(), table_type(field.data_type()), field.is_nullable()).with_metadata(field.metadata().clone())
}

fn table_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "+00:00".into()))
        }
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::FixedSizeBinary(length) if *length != 16 => DataType::Binary,
        DataType::Dictionary(_, value) => table_type(value),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| table_field(field)).collect()),
        DataType::List(element) | DataType::LargeList(element) => DataType::List(Arc::new(table_field(element))),
        other => other.clone(),
    }
}
