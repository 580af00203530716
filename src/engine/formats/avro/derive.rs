//! The Avro schema of columns, for sinks; and the columns of an Avro schema, for tables declared without any.
//!
//! What was derived from columns reads back into columns of the same types, with two exceptions that Avro has no types for: small
//! integers come back wider, unsigned ones of 64 bits as NUMERIC(20, 0). JSON is a string.

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};

use crate::engine::error::Error;
use crate::engine::formats::avro::plan::map_value;
use crate::engine::formats::avro::schema::{AvroSchema, DEPTH_MAX, Kind, Logical, NodeId, Optional, RecordField};
use crate::engine::formats::columns::type_word;
use crate::error::{ErrorReport, SqlState};
use crate::types::SqlType;

/// The full name of records that nobody has named.
pub const RECORD_NAME: &str = "record";

/// The schema of records called `name` with these columns.
pub fn schema_of(columns: &Fields, name: &str) -> Result<Value, Error> {
    let (namespace, short) = match name.rsplit_once('.') {
        Some((namespace, short)) => (Some(namespace), short),
        None => (None, name),
    };
    if !name.split('.').all(is_name) {
        return Err(wrong_name(&format!("\"{name}\" cannot be the name of an Avro record")));
    }
    let mut record = json!({ "type": "record", "name": short });
    if let Some(namespace) = namespace {
        record["namespace"] = namespace.into();
    }
    record["fields"] = fields_of(columns, name)?;
    Ok(record)
}

/// A name of a topic or a table as that of a record.
pub fn record_name(text: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = text.chars().map(legal).collect();
    match name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        true => format!("_{name}"),
        false => name,
    }
}

fn is_name(text: &str) -> bool {
    record_name(text) == text
}

fn wrong_name(message: &str) -> Error {
    Error::Option(
        ErrorReport::new(SqlState::INVALID_NAME, message)
            .with_hint("Names of Avro have letters of ASCII, digits and '_', and begin with no digit."),
    )
}

/// `path`: the full name of the record, below which those inside have theirs: each is defined once in a schema.
fn fields_of(columns: &Fields, path: &str) -> Result<Value, Error> {
    let mut fields = Vec::with_capacity(columns.len());
    for column in columns {
        if !is_name(column.name()) {
            return Err(wrong_name(&format!(
                "\"{}\" cannot be the name of a field in Avro",
                column.name()
            )));
        }
        let mut field = json!({ "name": column.name(), "type": optional_type(column, path)? });
        if column.is_nullable() {
            field["default"] = Value::Null;
        }
        fields.push(field);
    }
    Ok(fields.into())
}

fn optional_type(column: &Field, path: &str) -> Result<Value, Error> {
    let of_value = type_of(column, path)?;
    Ok(match column.is_nullable() {
        true => json!(["null", of_value]),
        false => of_value,
    })
}

fn type_of(column: &Field, path: &str) -> Result<Value, Error> {
    let inside = format!("{path}.{}", column.name());
    Ok(match column.data_type() {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => "int".into(),
        DataType::Int64 | DataType::UInt32 => "long".into(),
        DataType::UInt64 => json!({ "type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0 }),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
        }
        DataType::Utf8 => "string".into(),
        DataType::Binary => "bytes".into(),
        DataType::Date32 => json!({ "type": "int", "logicalType": "date" }),
        DataType::Time64(TimeUnit::Microsecond) => json!({ "type": "long", "logicalType": "time-micros" }),
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second | TimeUnit::Millisecond => "millis",
                TimeUnit::Microsecond => "micros",
                TimeUnit::Nanosecond => "nanos",
            };
            let local = if zone.is_some() { "" } else { "local-" };
            json!({ "type": "long", "logicalType": format!("{local}timestamp-{unit}") })
        }
        DataType::FixedSizeBinary(16) => json!({ "type": "string", "logicalType": "uuid" }),
        DataType::Struct(fields) => {
            json!({ "type": "record", "name": inside, "fields": fields_of(fields, &inside)? })
        }
        DataType::List(element) => json!({ "type": "array", "items": optional_type(element, &inside)? }),
        DataType::Map(entries, _) if map_value(entries).is_some() => match map_value(entries) {
            Some(value) => json!({ "type": "map", "values": optional_type(value, &inside)? }),
            None => return Err(no_type(column)),
        },
        _ => return Err(no_type(column)),
    })
}

fn no_type(column: &Field) -> Error {
    Error::NotSupported {
        what: format!(
            "column \"{}\" of type {} in Avro",
            column.name(),
            type_word(column.data_type())
        ),
        hint: Some("Cast it to another type in the query, such as TEXT.".into()),
    }
}

/// The columns of records of `schema`. What has a default may be missing in records that are older than the field, and is NULL there.
pub fn columns_of(schema: &AvroSchema) -> Result<SchemaRef, String> {
    let (_, fields) = schema.record()?;
    columns_of_fields(schema, fields)
}

/// The columns of the rows that change records of `schema` are about.
pub fn columns_of_changes(schema: &AvroSchema) -> Result<SchemaRef, String> {
    let (name, fields) = schema.record()?;
    let after = fields
        .iter()
        .find(|field| field.name == "after")
        .map(|field| schema.optional(field.node));
    match after.transpose()?.map(|(node, _)| &schema.node(node).kind) {
        Some(Kind::Record { fields, .. }) => columns_of_fields(schema, fields),
        _ => Err(format!(
            "record {name} is no change record: it has no field \"after\" as Debezium writes it"
        )),
    }
}

fn columns_of_fields(schema: &AvroSchema, fields: &[RecordField]) -> Result<SchemaRef, String> {
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let (sql_type, nullable) =
            sql_type(schema, field.node, 0).map_err(|reason| format!("field \"{}\": {reason}", field.name))?;
        columns.push(sql_type.to_arrow_field(&field.name, nullable || field.default.is_some()));
    }
    Ok(std::sync::Arc::new(Schema::new(columns)))
}

fn sql_type(schema: &AvroSchema, node: NodeId, depth: usize) -> Result<(SqlType, bool), String> {
    if depth > DEPTH_MAX {
        return Err(format!("{} contains itself", schema.describe(node)));
    }
    let (value, optional) = schema.optional(node)?;
    let nullable = matches!(optional, Optional::NullIs(_));
    let inside = |node: NodeId| sql_type(schema, node, depth + 1).map(|(sql_type, _)| sql_type);
    let of_value = match (&schema.node(value).kind, schema.node(value).logical) {
        (_, Logical::Decimal { precision, scale }) if precision <= 38 => SqlType::Numeric {
            precision: precision as u8,
            scale: scale as i8,
        },
        (_, Logical::Decimal { .. }) => {
            return Err(format!("{} has more than 38 digits", schema.describe(value)));
        }
        (_, Logical::Uuid) => SqlType::Uuid,
        (_, Logical::Date) => SqlType::Date,
        (_, Logical::Time(_)) => SqlType::Time,
        (_, Logical::Timestamp(_) | Logical::ZonedText) => SqlType::TimestampTz,
        (_, Logical::LocalTimestamp(_)) => SqlType::Timestamp,
        (_, Logical::Duration) => SqlType::Interval,
        (_, Logical::Json) => SqlType::Json,
        (Kind::Boolean, _) => SqlType::Boolean,
        (Kind::Int, _) => SqlType::Int,
        (Kind::Long, _) => SqlType::BigInt,
        (Kind::Float, _) => SqlType::Real,
        (Kind::Double, _) => SqlType::Double,
        (Kind::Bytes | Kind::Fixed { .. }, _) => SqlType::Bytea,
        // A field that is always null is NULL in a column of any type.
        (Kind::Null | Kind::String | Kind::Enum { .. }, _) => SqlType::Text,
        (Kind::Array(items), _) => SqlType::Array(Box::new(inside(*items)?)),
        (Kind::Map(values), _) => SqlType::Map(Box::new(SqlType::Text), Box::new(inside(*values)?)),
        (Kind::Record { fields, .. }, _) => {
            let mut members = Vec::with_capacity(fields.len());
            for field in fields {
                members.push((field.name.clone(), inside(field.node)?));
            }
            SqlType::Struct(members)
        }
        (Kind::Union(_), _) => return Err(format!("{} is a union in a union", schema.describe(value))),
    };
    Ok((of_value, nullable || schema.node(value).kind == Kind::Null))
}
