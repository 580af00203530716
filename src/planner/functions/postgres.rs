//! Functions that Postgres has and DataFusion has not, which need nothing but their arguments and the session.

use datafusion::common::{Result, ScalarValue};

use crate::planner::functions::Functions;
use crate::planner::functions::arrays;
use crate::planner::functions::row_function::{Row, RowFunction, failed, text};
use crate::planner::settings::SessionFacts;
use crate::types::{self, SqlType};

pub fn register(functions: &mut Functions, session: &SessionFacts) {
    let families = session_functions(session)
        .into_iter()
        .chain(formatting())
        .chain(answers_without_meaning());
    for function in families.chain(sizes()).chain(privileges()) {
        functions.add_scalar(function.into_udf());
    }
    // Other names for what is there.
    for (alias, name) in [("every", "bool_and")] {
        if let Some(function) = functions.aggregate.get(name).map(std::sync::Arc::clone) {
            functions.aggregate.insert(alias.into(), function);
        }
    }
}

fn constant(name: &'static str, of: SqlType, value: ScalarValue) -> RowFunction {
    RowFunction::new(name, 0..=0, of, move |_| Ok(value.clone())).stable()
}

fn session_functions(session: &SessionFacts) -> Vec<RowFunction> {
    let mut functions = vec![
        constant("version", SqlType::Text, text(Some(session.version.clone()))),
        constant("current_database", SqlType::Name, text(Some(session.database.clone()))),
        constant("current_catalog", SqlType::Name, text(Some(session.database.clone()))),
        constant(
            "pg_backend_pid",
            SqlType::Int,
            ScalarValue::Int32(Some(session.backend_pid)),
        ),
        constant("getdatabaseencoding", SqlType::Name, text(Some("UTF8"))),
        constant("pg_is_in_recovery", SqlType::Boolean, ScalarValue::Boolean(Some(false))),
        constant("txid_current", SqlType::BigInt, ScalarValue::Int64(Some(1))),
        constant("pg_current_xact_id", SqlType::BigInt, ScalarValue::Int64(Some(1))),
        constant("pg_my_temp_schema", SqlType::Oid, ScalarValue::UInt32(Some(0))),
        constant("inet_server_addr", SqlType::Text, ScalarValue::Utf8(None)),
        constant("inet_server_port", SqlType::Int, ScalarValue::Int32(None)),
        constant("inet_client_addr", SqlType::Text, ScalarValue::Utf8(None)),
        constant("inet_client_port", SqlType::Int, ScalarValue::Int32(None)),
    ];
    for name in ["current_user", "session_user", "user", "current_role"] {
        functions.push(constant(name, SqlType::Name, text(Some(session.user.clone()))));
    }
    let parameters = session.parameters.clone();
    functions.push(
        RowFunction::new("current_setting", 1..=2, SqlType::Text, move |row| {
            let name = row.text(0).unwrap_or_default().to_lowercase();
            match parameters.get(&name) {
                Some(value) => Ok(text(Some(value.clone()))),
                None if row.flag(1) == Some(true) => Ok(ScalarValue::Null),
                None => Err(failed(crate::planner::error::Error::query(
                    crate::error::SqlState::UNDEFINED_OBJECT,
                    format!("unrecognized configuration parameter \"{name}\""),
                ))),
            }
        })
        .stable(),
    );
    functions.push(RowFunction::new("set_config", 3..=3, SqlType::Text, |row| Ok(text(row.text(1)))).stable());
    functions
}

fn formatting() -> Vec<RowFunction> {
    vec![
        RowFunction::new("format_type", 2..=2, SqlType::Text, format_type),
        RowFunction::new("pg_typeof", 1..=1, SqlType::Text, |row| {
            let of = row.fields.first().and_then(|field| SqlType::from_arrow_field(field));
            // A type without its parameters.
            Ok(text(of.map(|of| match of {
                SqlType::Numeric { .. } => "numeric".to_owned(),
                other => other.postgres_name(),
            })))
        }),
        RowFunction::new("quote_ident", 1..=1, SqlType::Text, |row| {
            Ok(text(row.text(0).map(types::quote_identifier)))
        }),
        RowFunction::new("quote_literal", 1..=1, SqlType::Text, |row| {
            Ok(text(
                row.text(0).map(|value| format!("'{}'", value.replace('\'', "''"))),
            ))
        }),
        RowFunction::new("quote_nullable", 1..=1, SqlType::Text, |row| {
            let quoted = row.text(0).map(|value| format!("'{}'", value.replace('\'', "''")));
            Ok(text(Some(quoted.unwrap_or_else(|| "NULL".into()))))
        }),
        RowFunction::new("pg_encoding_to_char", 1..=1, SqlType::Name, |row| {
            Ok(text(row.integer(0).map(|encoding| match encoding {
                0 => "SQL_ASCII",
                6 => "UTF8",
                _ => "",
            })))
        }),
        RowFunction::new("pg_char_to_encoding", 1..=1, SqlType::Int, |row| {
            let utf8 = row
                .text(0)
                .is_some_and(|name| matches!(name.to_lowercase().as_str(), "utf8" | "utf-8"));
            Ok(ScalarValue::Int32(Some(if utf8 { 6 } else { -1 })))
        }),
        // What is stored in catalog columns of expressions is text already.
        RowFunction::new("pg_get_expr", 2..=3, SqlType::Text, |row| Ok(text(row.text(0)))),
        RowFunction::new("array_upper", 2..=2, SqlType::Int, array_upper).strict(),
        RowFunction::new("array_lower", 2..=2, SqlType::Int, |row| {
            let upper = array_upper(row)?;
            Ok(if upper.is_null() {
                ScalarValue::Null
            } else {
                ScalarValue::Int32(Some(1))
            })
        })
        .strict(),
        RowFunction::new("parse_ident", 1..=2, SqlType::Array(Box::new(SqlType::Text)), |row| {
            let parts = row
                .text(0)
                .unwrap_or_default()
                .split('.')
                .map(|part| match part.strip_prefix('"') {
                    Some(quoted) => quoted.trim_end_matches('"').to_owned(),
                    None => part.to_lowercase(),
                });
            Ok(arrays::text_list(parts))
        })
        .strict(),
    ]
}

fn array_upper(row: &Row<'_>) -> Result<ScalarValue> {
    use arrow::array::Array;
    let length = match row.values.first() {
        Some(ScalarValue::List(list)) if row.integer(1) == Some(1) => list.value(0).len(),
        _ => 0,
    };
    Ok(match i32::try_from(length) {
        Ok(length) if length > 0 => ScalarValue::Int32(Some(length)),
        _ => ScalarValue::Null,
    })
}

fn format_type(row: &Row<'_>) -> Result<ScalarValue> {
    Ok(text(row.oid(0).map(|oid| type_name(oid, row.integer(1).unwrap_or(-1)))))
}

/// A type's name by OID, with its modifier; `???` for one that is not there, as in Postgres.
pub fn type_name(oid: u32, modifier: i64) -> String {
    let Some(of) = known_types().into_iter().find(|of| of.oid() == oid) else {
        return if oid == 0 { "-".into() } else { "???".into() };
    };
    match of {
        SqlType::Numeric { .. } if modifier >= 4 => {
            let packed = modifier - 4;
            format!("numeric({},{})", packed >> 16, packed & 0xffff)
        }
        SqlType::Numeric { .. } => "numeric".into(),
        SqlType::Varchar(_) if modifier >= 4 => format!("character varying({})", modifier - 4),
        SqlType::Char(_) if modifier >= 4 => format!("character({})", modifier - 4),
        other => other.postgres_name(),
    }
}

fn known_types() -> Vec<SqlType> {
    let plain = vec![
        SqlType::Boolean,
        SqlType::SmallInt,
        SqlType::Int,
        SqlType::BigInt,
        SqlType::Real,
        SqlType::Double,
        SqlType::Numeric {
            precision: types::NUMERIC_DEFAULT_PRECISION,
            scale: types::NUMERIC_DEFAULT_SCALE,
        },
        SqlType::Text,
        SqlType::Varchar(None),
        SqlType::Char(None),
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::TimestampTz,
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
        SqlType::Jsonb,
        SqlType::Oid,
        SqlType::Name,
        SqlType::SystemChar,
    ];
    let arrays: Vec<SqlType> = plain.iter().map(|of| SqlType::Array(Box::new(of.clone()))).collect();
    plain.into_iter().chain(arrays).collect()
}

/// What Laminar has none of: answers are those of a database without any.
fn answers_without_meaning() -> Vec<RowFunction> {
    let nothing = |name, arguments, of| RowFunction::new(name, arguments, of, |_| Ok(ScalarValue::Null));
    vec![
        nothing("pg_get_ruledef", 1..=2, SqlType::Text),
        nothing("pg_get_triggerdef", 1..=2, SqlType::Text),
        nothing("pg_get_functiondef", 1..=1, SqlType::Text),
        nothing("pg_get_function_arguments", 1..=1, SqlType::Text),
        nothing("pg_get_function_identity_arguments", 1..=1, SqlType::Text),
        nothing("pg_get_function_result", 1..=1, SqlType::Text),
        nothing("pg_get_function_sqlbody", 1..=1, SqlType::Text),
        nothing("pg_get_serial_sequence", 2..=2, SqlType::Text),
        nothing("pg_get_statisticsobjdef_columns", 1..=1, SqlType::Text),
        nothing("pg_get_partkeydef", 1..=1, SqlType::Text),
        nothing("pg_partition_ancestors", 1..=1, SqlType::Oid),
        nothing("shobj_description", 2..=2, SqlType::Text),
        nothing("pg_tablespace_location", 1..=1, SqlType::Text),
        nothing("pg_sequence_last_value", 1..=1, SqlType::BigInt),
        nothing("pg_stat_get_numscans", 1..=1, SqlType::BigInt),
        RowFunction::new("pg_relation_is_publishable", 1..=1, SqlType::Boolean, |_| {
            Ok(ScalarValue::Boolean(Some(false)))
        }),
        RowFunction::new("pg_relation_is_updatable", 2..=2, SqlType::Int, |_| {
            Ok(ScalarValue::Int32(Some(0)))
        }),
        RowFunction::new("pg_column_is_updatable", 3..=3, SqlType::Boolean, |_| {
            Ok(ScalarValue::Boolean(Some(false)))
        }),
        RowFunction::new("pg_is_other_temp_schema", 1..=1, SqlType::Boolean, |_| {
            Ok(ScalarValue::Boolean(Some(false)))
        }),
    ]
}

fn sizes() -> Vec<RowFunction> {
    let mut functions = vec![RowFunction::new("pg_size_pretty", 1..=1, SqlType::Text, |row| {
        Ok(text(row.integer(0).map(pretty_size)))
    })];
    for name in [
        "pg_relation_size",
        "pg_table_size",
        "pg_total_relation_size",
        "pg_indexes_size",
        "pg_database_size",
    ] {
        functions.push(RowFunction::new(name, 1..=2, SqlType::BigInt, |_| {
            Ok(ScalarValue::Int64(Some(0)))
        }));
    }
    functions
}

fn pretty_size(bytes: i64) -> String {
    let mut amount = bytes;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if amount.abs() < 10_240 {
            return format!("{amount} {unit}");
        }
        amount = (amount + amount.signum() * 512) / 1024;
    }
    format!("{amount} TB")
}

/// Whoever is connected may do everything that can be done.
fn privileges() -> Vec<RowFunction> {
    let names = [
        "has_table_privilege",
        "has_column_privilege",
        "has_any_column_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_function_privilege",
        "has_sequence_privilege",
        "has_type_privilege",
        "has_server_privilege",
        "has_foreign_data_wrapper_privilege",
        "has_tablespace_privilege",
        "has_language_privilege",
        "pg_has_role",
    ];
    let allowed = |name| RowFunction::new(name, 2..=4, SqlType::Boolean, |_| Ok(ScalarValue::Boolean(Some(true))));
    names.into_iter().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_pretty() {
        assert_eq!(pretty_size(100), "100 bytes");
        assert_eq!(pretty_size(10_240), "10 kB");
        assert_eq!(pretty_size(50 * 1024 * 1024), "50 MB");
    }
}
