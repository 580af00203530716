//! Columns of a table on a Postgres server against those that were declared.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tokio_postgres::Column;
use tokio_postgres::types::{Kind, Type};

use crate::engine::connectors::Result;
use crate::engine::error::Error;
use crate::error::{ErrorReport, SqlState, nearest};
use crate::types::{NUMERIC_DEFAULT_PRECISION, NUMERIC_DEFAULT_SCALE, SqlType};

/// A type of the server as one of ours; `None`: it has none, and only its text can be had.
fn known_type(of: &Type) -> Option<SqlType> {
    match of.kind() {
        Kind::Array(element) => return Some(SqlType::Array(Box::new(known_type(element)?))),
        Kind::Domain(base) => return known_type(base),
        Kind::Simple => {}
        _ => return None,
    }
    Some(match *of {
        Type::BOOL => SqlType::Boolean,
        Type::INT2 => SqlType::SmallInt,
        Type::INT4 => SqlType::Int,
        Type::INT8 | Type::OID => SqlType::BigInt,
        Type::FLOAT4 => SqlType::Real,
        Type::FLOAT8 => SqlType::Double,
        Type::NUMERIC => SqlType::Numeric {
            precision: NUMERIC_DEFAULT_PRECISION,
            scale: NUMERIC_DEFAULT_SCALE,
        },
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => SqlType::Text,
        Type::BYTEA => SqlType::Bytea,
        Type::DATE => SqlType::Date,
        Type::TIME => SqlType::Time,
        Type::TIMESTAMP => SqlType::Timestamp,
        Type::TIMESTAMPTZ => SqlType::TimestampTz,
        Type::INTERVAL => SqlType::Interval,
        Type::UUID => SqlType::Uuid,
        Type::JSON => SqlType::Json,
        Type::JSONB => SqlType::Jsonb,
        // An extension's, compared without regard to case.
        _ if of.name() == "citext" => SqlType::Text,
        _ => return None,
    })
}

/// The columns for a table that declares none; those of types that only the server knows are text.
pub fn inferred(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| {
        let of = known_type(column.type_()).unwrap_or(SqlType::Text);
        of.to_arrow_field(column.name(), true)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Every declared column is there and fits; those of the key can be compared.
pub fn check(declared: &Schema, key: &[String], columns: &[Column], named: &str) -> Result<()> {
    for field in declared.fields() {
        let Some(column) = columns.iter().find(|column| column.name() == field.name()) else {
            return Err(missing(field, columns, named));
        };
        let wanted = SqlType::from_arrow_field(field);
        let Some(wanted) = wanted else {
            return Err(Error::Internal(format!("column \"{}\" has no type", field.name())));
        };
        let fits = match key.contains(field.name()) {
            true => compares(column.type_(), &wanted),
            false => fits(column.type_(), &wanted),
        };
        if !fits {
            let of = if key.contains(field.name()) {
                MisfitOf::Key
            } else {
                MisfitOf::Value
            };
            return Err(misfit(field, &wanted, column, named, of));
        }
    }
    Ok(())
}

/// Every declared column is there, and the server takes every value of it (a number may still be too large for a narrower NUMERIC).
pub fn check_sink(declared: &Schema, columns: &[Column], named: &str) -> Result<()> {
    for field in declared.fields() {
        let Some(column) = columns.iter().find(|column| column.name() == field.name()) else {
            return Err(missing(field, columns, named));
        };
        let Some(given) = SqlType::from_arrow_field(field) else {
            return Err(Error::Internal(format!("column \"{}\" has no type", field.name())));
        };
        if !takes(column.type_(), &given) {
            return Err(misfit(field, &given, column, named, MisfitOf::Sink));
        }
    }
    Ok(())
}

fn missing(field: &Field, columns: &[Column], named: &str) -> Error {
    let report = ErrorReport::new(
        SqlState::UNDEFINED_COLUMN,
        format!("column \"{}\" does not exist in {named}", field.name()),
    );
    Error::Reported(match nearest(field.name(), columns.iter().map(Column::name)) {
        Some(near) => report.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => {
            let names: Vec<&str> = columns.iter().map(Column::name).collect();
            report.with_hint(format!("Its columns are: {}.", names.join(", ")))
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MisfitOf {
    Key,
    Value,
    Sink,
}

fn misfit(field: &Field, wanted: &SqlType, column: &Column, named: &str, misfit: MisfitOf) -> Error {
    let own = known_type(column.type_()).map_or_else(|| "TEXT".to_owned(), |of| of.to_sql());
    let report = ErrorReport::new(
        SqlState::DATATYPE_MISMATCH,
        format!(
            "column \"{}\" is declared as {} but is of type {} in {named}",
            field.name(),
            wanted.to_sql(),
            column.type_().name(),
        ),
    );
    let unknown = known_type(column.type_()).is_none();
    let hint = match misfit {
        MisfitOf::Key if unknown => format!(
            "Use option query with a cast: SELECT {}::text AS {}, ..; rows are looked up by that value then.",
            field.name(),
            field.name()
        ),
        MisfitOf::Key | MisfitOf::Value => {
            format!("Declare it as {own}, or cast it on the server with option query.")
        }
        MisfitOf::Sink => format!("Declare it as {own} and cast in the query that feeds the table."),
    };
    Error::Reported(report.with_hint(hint))
}

fn is_integer(of: &SqlType) -> bool {
    integer_width(of).is_some()
}

fn integer_width(of: &SqlType) -> Option<u8> {
    match of {
        SqlType::SmallInt => Some(2),
        SqlType::Int => Some(4),
        SqlType::BigInt => Some(8),
        _ => None,
    }
}

fn is_text(of: &SqlType) -> bool {
    matches!(of, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_))
}

/// The same as [`check`] of one column whose type may have changed since; `None`: a type that is not built in.
pub fn still_fits(of: Option<&Type>, declared: &SqlType) -> bool {
    match of {
        Some(of) => fits(of, declared),
        None => is_text(declared),
    }
}

/// Whether every value of the server's type is one of the declared type.
fn fits(of: &Type, declared: &SqlType) -> bool {
    if is_text(declared) {
        return true;
    }
    let Some(own) = known_type(of) else {
        // Composite types are objects in JSON.
        return matches!((of.kind(), declared), (Kind::Composite(_), SqlType::Struct(_)));
    };
    match (&own, declared) {
        (SqlType::Array(_), SqlType::Array(wanted)) => match of.kind() {
            Kind::Array(element) => fits(element, wanted),
            _ => false,
        },
        (SqlType::Json | SqlType::Jsonb, SqlType::Json | SqlType::Jsonb | SqlType::Struct(_) | SqlType::Map(_, _)) => {
            true
        }
        (SqlType::Numeric { .. }, SqlType::Numeric { .. } | SqlType::Double) => true,
        (SqlType::Real, SqlType::Double) => true,
        (own, SqlType::Numeric { .. } | SqlType::Double) if is_integer(own) => true,
        (own, declared) => match (integer_width(own), integer_width(declared)) {
            (Some(own), Some(declared)) => declared >= own,
            _ => own == declared,
        },
    }
}

/// Whether the server's type takes every value of ours; of a type that only the server knows, it reads the text.
fn takes(of: &Type, given: &SqlType) -> bool {
    if let Kind::Domain(base) = of.kind() {
        return takes(base, given);
    }
    if let (Kind::Array(element), SqlType::Array(given)) = (of.kind(), given) {
        // Arrays of arrays are arrays of the same type to the server.
        let innermost = match given.as_ref() {
            SqlType::Array(_) => return takes(of, given),
            other => other,
        };
        return takes(element, innermost);
    }
    let Some(own) = known_type(of) else {
        return is_text(given);
    };
    match (&own, given) {
        (own, given) if is_text(own) => is_text(given),
        (SqlType::Json | SqlType::Jsonb, given) => {
            matches!(
                given,
                SqlType::Json | SqlType::Jsonb | SqlType::Struct(_) | SqlType::Map(_, _)
            )
        }
        (SqlType::Numeric { .. }, given) => matches!(given, SqlType::Numeric { .. }) || digits(given).is_some(),
        (SqlType::Double, given) => *given == SqlType::Real || *given == SqlType::Double || digits(given).is_some(),
        (own, given) => match (digits(own), digits(given)) {
            (Some(own), Some(given)) => own >= given,
            _ => own == given,
        },
    }
}

/// Bits of an integer type without its sign.
fn digits(of: &SqlType) -> Option<u8> {
    Some(match of {
        SqlType::TinyInt => 7,
        SqlType::UnsignedTinyInt => 8,
        SqlType::SmallInt => 15,
        SqlType::UnsignedSmallInt => 16,
        SqlType::Int => 31,
        SqlType::UnsignedInt => 32,
        SqlType::BigInt | SqlType::Oid => 63,
        SqlType::UnsignedBigInt => 64,
        _ => return None,
    })
}

/// Whether the server can compare its values with those of the declared type.
fn compares(of: &Type, declared: &SqlType) -> bool {
    let Some(own) = known_type(of) else {
        return false;
    };
    match (&own, declared) {
        (SqlType::Numeric { .. }, SqlType::Numeric { .. }) => true,
        (own, declared) if is_integer(own) && is_integer(declared) => true,
        (own, declared) if is_text(own) && is_text(declared) => true,
        (SqlType::Json | SqlType::Array(_), _) => false,
        (own, declared) => own == declared,
    }
}

/// The type in which the server is to read a key: its own, or, of integers, the one that holds every value that is asked for.
pub fn key_type(column: &Column, declared: &DataType) -> String {
    let own = column.type_();
    let is_integer = known_type(own).is_some_and(|own| is_integer(&own));
    match declared {
        DataType::Int16 | DataType::Int32 | DataType::Int64 if is_integer => "pg_catalog.int8".to_owned(),
        _ => format!(
            "{}.{}",
            super::quote_always(own.schema()),
            super::quote_always(own.name())
        ),
    }
}
