//! One statement a set of keys: the keys go as a JSON array, joined with the table on the server; each row comes back as a JSON
//! object with the place of its key.
//!
//! So it is the server's own equality that decides which rows have a key (collations, CHAR's blanks, scales of NUMERIC), an index
//! on the key is used, and every type takes the way that JSON formats take anyway.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tokio::sync::OnceCell;
use tokio_postgres::types::Type;

use crate::engine::connectors::lookup::{Lookup, LookupAnswer, LookupContext};
use crate::engine::connectors::postgres::columns::key_type;
use crate::engine::connectors::postgres::{ROWS, TableSource, connection, failed, quote_always};
use crate::engine::connectors::{BadRow, BadRowHandler, Result};
use crate::engine::error::Error;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
use crate::engine::formats::{Decoder, Encoder, Input};
use crate::engine::message::Chunk;
use crate::error::SqlState;

pub struct PostgresLookup {
    source: Arc<TableSource>,
    context: LookupContext,
    /// Names of the server's key types are known after the first question.
    sql: OnceCell<String>,
}

impl PostgresLookup {
    pub fn new(source: Arc<TableSource>, context: LookupContext) -> PostgresLookup {
        PostgresLookup {
            source,
            context,
            sql: OnceCell::new(),
        }
    }

    async fn statement(&self) -> Result<String> {
        let described = self.source.describe().await?;
        let mut given = vec!["place bigint".to_owned()];
        let mut equal = Vec::new();
        for (at, field) in self.context.key.fields().iter().enumerate() {
            let column = described.columns().iter().find(|column| column.name() == field.name());
            let Some(column) = column else {
                return Err(Error::External {
                    code: SqlState::UNDEFINED_COLUMN,
                    message: format!("column \"{}\" does not exist in {}", field.name(), self.source.named()),
                    hint: None,
                    retry: crate::error::Retry::Never,
                });
            };
            given.push(format!("k{at} {}", key_type(column, field.data_type())));
            equal.push(format!("{ROWS}.{} = k.k{at}", quote_always(field.name())));
        }
        let columns = self.context.columns.fields().iter();
        let wanted: Vec<String> = columns.map(|field| wanted_column(field)).collect();
        Ok(format!(
            "SELECT k.place, (SELECT pg_catalog.row_to_json(r)::text FROM (SELECT {}) AS r) \
             FROM pg_catalog.json_to_recordset($1::text::json) AS k({}) JOIN {} AS {ROWS} ON {}",
            wanted.join(", "),
            given.join(", "),
            self.source.relation,
            equal.join(" AND "),
        ))
    }

    /// Rows of objects, one after the other.
    fn decode(&self, objects: &[u8], rows: usize) -> Result<RecordBatch> {
        let mut decoder = JsonDecoder::new(&self.context.columns, JsonDecodeOptions::default())?;
        let name = self.source.named();
        let input = Input {
            bytes: objects,
            offset: 0,
            place: &name,
            at_end: true,
        };
        decoder.decode(input, usize::MAX, &Refuse(&self.context.table_name))?;
        if decoder.rows() != rows {
            return Err(Error::Internal(format!(
                "{} rows came of {rows} that were answered",
                decoder.rows()
            )));
        }
        decoder.take()
    }
}

/// The column as it goes into the object. Text takes values of any type by the server's own text of them; an interval is written in
/// units that say how many months, days and microseconds it has, which no style of the server does.
pub fn wanted_column(field: &Field) -> String {
    let name = quote_always(field.name());
    let value = format!("{ROWS}.{name}");
    match field.data_type() {
        DataType::Utf8 if !is_json(field) => format!("{value}::text AS {name}"),
        DataType::Interval(_) => format!(
            "CASE WHEN {value} IS NOT NULL THEN pg_catalog.format('%s months %s days %s microseconds', \
             (extract(year FROM {value}) * 12 + extract(month FROM {value}))::bigint, \
             extract(day FROM {value})::bigint, \
             ((extract(hour FROM {value}) * 60 + extract(minute FROM {value})) * 60000000 \
             + extract(microseconds FROM {value}))::bigint) END AS {name}"
        ),
        _ => value,
    }
}

#[async_trait::async_trait]
impl Lookup for PostgresLookup {
    async fn lookup(&self, keys: &RecordBatch) -> Result<LookupAnswer> {
        let sql = self.sql.get_or_try_init(|| self.statement()).await?;
        let question = question(keys)?;
        let connection = connection(&self.source.pool).await?;
        let what = format!("could not look up rows in {}", self.source.named());
        let statement = connection.prepare_typed_cached(sql, &[Type::TEXT]).await;
        let statement = statement.map_err(|error| failed(&what, &error))?;
        let found = connection.query(&statement, &[&question]).await;
        let found = found.map_err(|error| failed(&what, &error))?;
        let mut places = Vec::with_capacity(found.len());
        let mut objects = Vec::new();
        for row in &found {
            let place: i64 = row.try_get(0).map_err(|error| failed(&what, &error))?;
            let object: &str = row.try_get(1).map_err(|error| failed(&what, &error))?;
            places.push(u32::try_from(place).map_err(|_| Error::Internal("a key that nobody asked for".into()))?);
            // Line feeds inside an object stand between its values only.
            objects.extend(object.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
            objects.push(b'\n');
        }
        Ok(LookupAnswer {
            rows: self.decode(&objects, places.len())?,
            keys: places,
        })
    }
}

/// `[{"place":0,"k0":17}, ..]`.
fn question(keys: &RecordBatch) -> Result<String> {
    let mut fields = vec![Field::new("place", DataType::Int64, false)];
    for (at, field) in keys.schema_ref().fields().iter().enumerate() {
        fields.push(field.as_ref().clone().with_name(format!("k{at}")));
    }
    let places: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys.num_rows() as i64));
    let columns = std::iter::once(places).chain(keys.columns().iter().cloned()).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let mut text = vec![b'['];
    JsonEncoder::new(&schema, JsonEncodeOptions::default()).encode(&Chunk::insert(rows), &mut text)?;
    // One object a line.
    let last = text.len() - 1;
    for byte in &mut text[..last] {
        if *byte == b'\n' {
            *byte = b',';
        }
    }
    text[last] = b']';
    String::from_utf8(text).map_err(|error| Error::Internal(error.to_string()))
}

/// A row that does not fit its declared columns: leaving it out would make the key one without rows.
struct Refuse<'a>(&'a str);

impl BadRowHandler for Refuse<'_> {
    fn bad_row(&self, row: BadRow<'_>) -> Result<()> {
        let raw = String::from_utf8_lossy(row.raw);
        Err(Error::Data {
            code: SqlState::DATA_EXCEPTION,
            message: format!(
                "a row of lookup table \"{}\" does not fit its columns: {}",
                self.0, row.reason
            ),
            detail: Some(format!("It is {raw}.")),
        })
    }
}
