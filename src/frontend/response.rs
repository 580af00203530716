//! What a statement answers, before any protocol.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::catalog::objects::Table;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::sql::statement::CopyFormat;
use crate::types::SqlType;

/// Batches as they come; dropping the stream ends whatever makes them.
pub type Rows = BoxStream<'static, Result<RecordBatch, ErrorReport>>;

pub enum Response {
    Complete {
        tag: String,
    },
    Rows {
        schema: SchemaRef,
        rows: Rows,
        tag: RowsTag,
    },
    CopyOut {
        format: CopyFormat,
        schema: SchemaRef,
        rows: Rows,
    },
    /// The client has to send rows.
    CopyIn(Box<CopyIn>),
    /// The text had no statement.
    Empty,
}

/// The command tag of rows, which may count them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowsTag {
    /// `SELECT 3`.
    Counted(&'static str),
    /// `SHOW`.
    Fixed(String),
}

impl RowsTag {
    pub const SELECT: RowsTag = RowsTag::Counted("SELECT");

    pub fn complete(self, rows: u64) -> String {
        match self {
            RowsTag::Counted(verb) => format!("{verb} {rows}"),
            RowsTag::Fixed(verb) => verb,
        }
    }
}

/// What a COPY .. FROM STDIN takes.
#[derive(Debug)]
pub struct CopyIn {
    pub format: CopyFormat,
    /// Names and types of the values of a row, in their order.
    pub columns: Vec<(String, SqlType)>,
    pub table: Table,
}

/// What a statement takes and gives, for the extended protocol.
#[derive(Clone, Debug)]
pub struct Description {
    pub parameters: Vec<SqlType>,
    /// `None`: the statement returns no rows.
    pub columns: Option<SchemaRef>,
}

impl Response {
    pub fn complete(tag: impl Into<String>) -> Response {
        Response::Complete { tag: tag.into() }
    }

    /// All rows at once.
    pub fn batch(batch: RecordBatch, tag: RowsTag) -> Response {
        Response::Rows {
            schema: batch.schema(),
            rows: futures::stream::iter([Ok(batch)]).boxed(),
            tag,
        }
    }

    /// Text columns, as SHOW and EXPLAIN answer.
    pub fn text_table(schema: SchemaRef, rows: &[Vec<Option<String>>], tag: RowsTag) -> Result<Response, ErrorReport> {
        let columns: Vec<ArrayRef> = (0..schema.fields().len())
            .map(|index| {
                let values = rows.iter().map(|row| row.get(index).cloned().flatten());
                Arc::new(values.collect::<StringArray>()) as ArrayRef
            })
            .collect();
        let batch = RecordBatch::try_new(schema, columns)
            .map_err(|error| ErrorReport::new(SqlState::INTERNAL_ERROR, error.to_string()))?;
        Ok(Response::batch(batch, tag))
    }
}

/// A schema of nullable text columns.
pub fn text_schema(names: &[&str]) -> SchemaRef {
    let fields: Vec<Field> = names
        .iter()
        .map(|name| Field::new(*name, DataType::Utf8, true))
        .collect();
    Arc::new(Schema::new(fields))
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Response::Complete { tag } => f.debug_struct("Complete").field("tag", tag).finish(),
            Response::Rows { schema, tag, .. } => f
                .debug_struct("Rows")
                .field("schema", schema)
                .field("tag", tag)
                .finish(),
            Response::CopyOut { format, schema, .. } => f
                .debug_struct("CopyOut")
                .field("format", format)
                .field("schema", schema)
                .finish(),
            Response::CopyIn(copy) => f.debug_tuple("CopyIn").field(copy).finish(),
            Response::Empty => f.write_str("Empty"),
        }
    }
}
