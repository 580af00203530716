//! The one table of types: SQL name, Arrow type, Postgres OID.
//!
//! [`SqlType`] is what a column has in the catalog, in a query and on the wire. This file relates it to Arrow; `parse`
//! reads every spelling of SQL, `postgres` gives what Postgres clients see.
//!
//! Guarantees: `parse(&t.to_sql()) == t` for every type; `from_arrow_field(&t.to_arrow_field(..)) == Some(t)` for every type
//! except VARCHAR and CHAR, whose lengths are checked where values enter and are not carried in Arrow (both come back as
//! TEXT). Not guaranteed: that every Arrow type has a SQL type; unions have none.

pub mod byte_size;
pub mod float_text;
pub mod identifier;
mod parse;
mod postgres;
pub mod record_batch;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};

pub use self::identifier::quote_identifier;
pub use self::parse::parse;
pub use self::postgres::oid;

/// Field metadata key by which Arrow names logical types.
pub const EXTENSION_NAME_KEY: &str = "ARROW:extension:name";
/// `EXTENSION_NAME_KEY` of JSON and JSONB.
pub const JSON_EXTENSION: &str = "arrow.json";
/// `EXTENSION_NAME_KEY` of UUID.
pub const UUID_EXTENSION: &str = "arrow.uuid";
/// Field metadata key for what neither the Arrow type nor an extension name tells: `jsonb`, `oid`, `name`, `char`.
pub const LAMINAR_TYPE_KEY: &str = "laminar:type";

/// NUMERIC without precision and scale.
pub const NUMERIC_DEFAULT_PRECISION: u8 = 38;
pub const NUMERIC_DEFAULT_SCALE: i8 = 9;
/// Digits of a 128-bit decimal.
pub const NUMERIC_MAX_PRECISION: u8 = 38;

/// A SQL type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SqlType {
    Boolean,
    /// Postgres has no one-byte integer: shown as `smallint`.
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    /// Unsigned integers are shown as the next wider Postgres type that holds them.
    UnsignedTinyInt,
    UnsignedSmallInt,
    UnsignedInt,
    UnsignedBigInt,
    Real,
    Double,
    Numeric {
        precision: u8,
        scale: i8,
    },
    Text,
    Varchar(Option<u32>),
    Char(Option<u32>),
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Array(Box<SqlType>),
    /// Shown to Postgres clients as `json`: every driver reads that, while an anonymous record has a form of its own in each.
    Struct(Vec<(String, SqlType)>),
    /// Shown to Postgres clients as `json`.
    Map(Box<SqlType>, Box<SqlType>),
    /// The types that only catalog views have.
    Oid,
    Name,
    SystemChar,
}

impl SqlType {
    /// The Arrow field of a column of this type.
    pub fn to_arrow_field(&self, name: &str, nullable: bool) -> Field {
        let mut metadata = HashMap::new();
        let mut mark = |key: &str, value: &str| {
            metadata.insert(key.to_owned(), value.to_owned());
        };
        match self {
            SqlType::Json => mark(EXTENSION_NAME_KEY, JSON_EXTENSION),
            SqlType::Jsonb => {
                mark(EXTENSION_NAME_KEY, JSON_EXTENSION);
                mark(LAMINAR_TYPE_KEY, "jsonb");
            }
            SqlType::Uuid => mark(EXTENSION_NAME_KEY, UUID_EXTENSION),
            SqlType::Oid => mark(LAMINAR_TYPE_KEY, "oid"),
            SqlType::Name => mark(LAMINAR_TYPE_KEY, "name"),
            SqlType::SystemChar => mark(LAMINAR_TYPE_KEY, "char"),
            _ => {}
        }
        Field::new(name, self.to_arrow(), nullable).with_metadata(metadata)
    }

    /// The Arrow type alone: JSON, UUID and the like are told apart only by the field's metadata.
    pub fn to_arrow(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::TinyInt => DataType::Int8,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Int => DataType::Int32,
            SqlType::BigInt => DataType::Int64,
            SqlType::UnsignedTinyInt => DataType::UInt8,
            SqlType::UnsignedSmallInt => DataType::UInt16,
            SqlType::UnsignedInt | SqlType::Oid => DataType::UInt32,
            SqlType::UnsignedBigInt => DataType::UInt64,
            SqlType::Real => DataType::Float32,
            SqlType::Double => DataType::Float64,
            SqlType::Numeric { precision, scale } if *precision <= NUMERIC_MAX_PRECISION => {
                DataType::Decimal128(*precision, *scale)
            }
            SqlType::Numeric { precision, scale } => DataType::Decimal256(*precision, *scale),
            SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Name
            | SqlType::SystemChar => DataType::Utf8,
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Uuid => DataType::FixedSizeBinary(16),
            SqlType::Array(element) => DataType::List(Arc::new(element.to_arrow_field("item", true))),
            SqlType::Struct(fields) => {
                DataType::Struct(fields.iter().map(|(name, of)| of.to_arrow_field(name, true)).collect())
            }
            SqlType::Map(key, value) => map_type(key.to_arrow_field("key", false), value.to_arrow_field("value", true)),
        }
    }

    /// The SQL type of an Arrow column; `None` for a union.
    pub fn from_arrow_field(field: &Field) -> Option<SqlType> {
        let marked = field.metadata().get(LAMINAR_TYPE_KEY).map(String::as_str);
        let extension = field.metadata().get(EXTENSION_NAME_KEY).map(String::as_str);
        let of_storage = SqlType::from_arrow(field.data_type())?;
        Some(match (of_storage, extension, marked) {
            (SqlType::Text, Some(JSON_EXTENSION), Some("jsonb")) => SqlType::Jsonb,
            (SqlType::Text, Some(JSON_EXTENSION), _) => SqlType::Json,
            (SqlType::Bytea, Some(UUID_EXTENSION), _) => SqlType::Uuid,
            (SqlType::UnsignedInt, _, Some("oid")) => SqlType::Oid,
            (SqlType::Text, _, Some("name")) => SqlType::Name,
            (SqlType::Text, _, Some("char")) => SqlType::SystemChar,
            (of_storage, _, _) => of_storage,
        })
    }

    /// As [`SqlType::from_arrow_field`], without metadata at the top.
    pub fn from_arrow(data_type: &DataType) -> Option<SqlType> {
        Some(match data_type {
            DataType::Boolean => SqlType::Boolean,
            DataType::Int8 => SqlType::TinyInt,
            DataType::Int16 => SqlType::SmallInt,
            DataType::Int32 => SqlType::Int,
            DataType::Int64 => SqlType::BigInt,
            DataType::UInt8 => SqlType::UnsignedTinyInt,
            DataType::UInt16 => SqlType::UnsignedSmallInt,
            DataType::UInt32 => SqlType::UnsignedInt,
            DataType::UInt64 => SqlType::UnsignedBigInt,
            DataType::Float16 | DataType::Float32 => SqlType::Real,
            DataType::Float64 => SqlType::Double,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => SqlType::Numeric {
                precision: *precision,
                scale: *scale,
            },
            // An untyped NULL column is text to clients, as in Postgres.
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                SqlType::Bytea
            }
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::Timestamp(_, None) => SqlType::Timestamp,
            DataType::Timestamp(_, Some(_)) => SqlType::TimestampTz,
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::List(element)
            | DataType::LargeList(element)
            | DataType::FixedSizeList(element, _)
            | DataType::ListView(element)
            | DataType::LargeListView(element) => SqlType::Array(Box::new(SqlType::from_arrow_field(element)?)),
            DataType::Struct(fields) => SqlType::Struct(struct_fields(fields)?),
            DataType::Map(entries, _) => map_of(entries)?,
            DataType::Dictionary(_, values) => SqlType::from_arrow(values)?,
            DataType::RunEndEncoded(_, values) => SqlType::from_arrow_field(values)?,
            DataType::Union(_, _) => return None,
        })
    }

    /// The canonical SQL spelling; [`parse`] reads it back to the same type.
    pub fn to_sql(&self) -> String {
        match self {
            SqlType::Boolean => "BOOLEAN".into(),
            SqlType::TinyInt => "TINYINT".into(),
            SqlType::SmallInt => "SMALLINT".into(),
            SqlType::Int => "INT".into(),
            SqlType::BigInt => "BIGINT".into(),
            SqlType::UnsignedTinyInt => "TINYINT UNSIGNED".into(),
            SqlType::UnsignedSmallInt => "SMALLINT UNSIGNED".into(),
            SqlType::UnsignedInt => "INT UNSIGNED".into(),
            SqlType::UnsignedBigInt => "BIGINT UNSIGNED".into(),
            SqlType::Real => "REAL".into(),
            SqlType::Double => "DOUBLE PRECISION".into(),
            SqlType::Numeric { precision, scale } => format!("NUMERIC({precision},{scale})"),
            SqlType::Text => "TEXT".into(),
            SqlType::Varchar(None) => "VARCHAR".into(),
            SqlType::Varchar(Some(length)) => format!("VARCHAR({length})"),
            SqlType::Char(None) => "CHAR".into(),
            SqlType::Char(Some(length)) => format!("CHAR({length})"),
            SqlType::Bytea => "BYTEA".into(),
            SqlType::Date => "DATE".into(),
            SqlType::Time => "TIME".into(),
            SqlType::Timestamp => "TIMESTAMP".into(),
            SqlType::TimestampTz => "TIMESTAMPTZ".into(),
            SqlType::Interval => "INTERVAL".into(),
            SqlType::Uuid => "UUID".into(),
            SqlType::Json => "JSON".into(),
            SqlType::Jsonb => "JSONB".into(),
            SqlType::Array(element) => format!("{}[]", element.to_sql()),
            SqlType::Struct(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, of)| format!("{} {}", quote_identifier(name), of.to_sql()))
                    .collect();
                format!("STRUCT<{}>", fields.join(", "))
            }
            SqlType::Map(key, value) => format!("MAP<{}, {}>", key.to_sql(), value.to_sql()),
            SqlType::Oid => "OID".into(),
            SqlType::Name => "NAME".into(),
            SqlType::SystemChar => "\"char\"".into(),
        }
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_sql())
    }
}

fn map_type(key: Field, value: Field) -> DataType {
    let entries = Field::new("entries", DataType::Struct(Fields::from(vec![key, value])), false);
    DataType::Map(Arc::new(entries), false)
}

fn map_of(entries: &FieldRef) -> Option<SqlType> {
    let DataType::Struct(fields) = entries.data_type() else {
        return None;
    };
    let [key, value] = fields.as_ref() else {
        return None;
    };
    Some(SqlType::Map(
        Box::new(SqlType::from_arrow_field(key)?),
        Box::new(SqlType::from_arrow_field(value)?),
    ))
}

fn struct_fields(fields: &Fields) -> Option<Vec<(String, SqlType)>> {
    fields
        .iter()
        .map(|field| Some((field.name().clone(), SqlType::from_arrow_field(field)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn any_type() -> impl Strategy<Value = SqlType> {
        let leaf = prop_oneof![
            Just(SqlType::Boolean),
            Just(SqlType::TinyInt),
            Just(SqlType::UnsignedTinyInt),
            Just(SqlType::SmallInt),
            Just(SqlType::UnsignedSmallInt),
            Just(SqlType::Int),
            Just(SqlType::UnsignedInt),
            Just(SqlType::BigInt),
            Just(SqlType::UnsignedBigInt),
            Just(SqlType::Real),
            Just(SqlType::Double),
            (1u8..=38).prop_flat_map(|precision| (0..=precision).prop_map(move |scale| SqlType::Numeric {
                precision,
                scale: i8::try_from(scale).unwrap(),
            })),
            Just(SqlType::Text),
            Just(SqlType::Bytea),
            Just(SqlType::Date),
            Just(SqlType::Time),
            Just(SqlType::Timestamp),
            Just(SqlType::TimestampTz),
            Just(SqlType::Interval),
            Just(SqlType::Uuid),
            Just(SqlType::Json),
            Just(SqlType::Jsonb),
            Just(SqlType::Oid),
            Just(SqlType::Name),
            Just(SqlType::SystemChar),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(|element| SqlType::Array(Box::new(element))),
                proptest::collection::vec(("[a-zA-Z\" ]{1,8}", inner.clone()), 1..4).prop_map(SqlType::Struct),
                (inner.clone(), inner).prop_map(|(key, value)| SqlType::Map(Box::new(key), Box::new(value))),
            ]
        })
    }

    proptest! {
        #[test]
        fn arrow_keeps_every_type(of in any_type()) {
            prop_assert_eq!(SqlType::from_arrow_field(&of.to_arrow_field("c", true)), Some(of));
        }

        #[test]
        fn sql_text_keeps_every_type(of in any_type()) {
            prop_assert_eq!(parse(&of.to_sql()).unwrap(), of);
        }
    }

    #[test]
    fn forms_between_operators_are_the_agreed_ones() {
        let arrow = |text: &str| parse(text).unwrap().to_arrow();
        assert_eq!(arrow("timestamp"), DataType::Timestamp(TimeUnit::Microsecond, None));
        assert_eq!(
            arrow("timestamptz"),
            DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
        );
        assert_eq!(arrow("text"), DataType::Utf8);
        assert_eq!(arrow("numeric"), DataType::Decimal128(38, 9));
        let json = parse("jsonb").unwrap().to_arrow_field("j", true);
        assert_eq!(json.metadata().get("ARROW:extension:name").unwrap(), "arrow.json");
        assert_eq!(json.metadata().get("laminar:type").unwrap(), "jsonb");
    }

    #[test]
    fn varchar_comes_back_as_text() {
        let field = SqlType::Varchar(Some(3)).to_arrow_field("c", true);
        assert_eq!(SqlType::from_arrow_field(&field), Some(SqlType::Text));
    }

    #[test]
    fn identifiers_are_quoted_when_needed() {
        let cases = [
            ("a_1", "a_1"),
            ("A", "\"A\""),
            ("1a", "\"1a\""),
            ("a\"b", "\"a\"\"b\""),
            ("select", "\"select\""),
            ("", "\"\""),
        ];
        for (name, quoted) in cases {
            assert_eq!(quote_identifier(name), quoted);
        }
    }
}
