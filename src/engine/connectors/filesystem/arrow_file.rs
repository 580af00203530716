//! Files of Arrow batches, over any object store: opened with the columns that a table wants.

use std::io::Read;

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::Result;
use crate::engine::connectors::filesystem::location::{InputFile, store_error};
use crate::engine::connectors::filesystem::parquet_file::table_schema;
use crate::engine::error::Error;
use crate::engine::formats::arrow_stream::ArrowReader;
use crate::error::{Retry, SqlState};

/// From the start of the contents; columns are left out that `schema` does not have.
pub fn open<R: Read>(contents: R, schema: &SchemaRef, file: &InputFile) -> Result<ArrowReader<R>> {
    let mut reader = ArrowReader::open(contents).map_err(|error| failure(file, &error))?;
    let wanted = schema.fields();
    reader.project(|name| wanted.iter().any(|field| field.name().eq_ignore_ascii_case(name)));
    Ok(reader)
}

/// The columns of a file that begins with `head`, in the types that tables have.
pub fn schema(head: &[u8], file: &InputFile) -> Result<SchemaRef> {
    let reader = ArrowReader::open(head).map_err(|error| failure(file, &error))?;
    Ok(table_schema(reader.schema()))
}

/// What a file could not be read for: the store, or its own bytes.
pub fn failure(file: &InputFile, error: &std::io::Error) -> Error {
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<object_store::Error>()) {
        Some(error) => store_error("read", &file.name, error),
        None => Error::External {
            code: SqlState::DATA_CORRUPTED,
            message: format!("could not read Arrow file \"{}\": {error}", file.name),
            hint: None,
            retry: Retry::Never,
        },
    }
}
