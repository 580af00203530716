//! Requests as SQL statements. Everything that a user wrote goes in quoted: names as identifiers, values as literals; only a
//! query is taken as it is, because it is SQL.

use serde_json::{Map, Value};

use super::body::read;
use super::error::{ApiError, ApiResult};
use super::model::{CreateConnectionProfile, CreateConnectionTable, CreatePipeline, TableField, TableSchema};
use crate::types::quote_identifier;

/// What a profile, a table or a pipeline may be called; longer names are refused, as Postgres would cut them.
const NAME_BYTES_MAX: usize = 63;

/// A statement, and where in it the user's own text begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltStatement {
    pub text: String,
    /// Characters before the user's query.
    pub query_offset: usize,
}

/// `'it''s'`.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as it may stand in a statement.
pub fn identifier(name: &str) -> ApiResult<String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "a name must have 1 to {NAME_BYTES_MAX} bytes and no control characters"
        )));
    }
    Ok(quote_identifier(name))
}

/// `schema.name` of an object that exists.
pub fn qualified(schema: Option<&str>, name: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quote_identifier(schema), quote_identifier(name)),
        None => quote_identifier(name),
    }
}

/// `CREATE CONNECTION`. Options are text; the connector's description says what they mean.
pub fn create_connection(profile: &CreateConnectionProfile) -> ApiResult<String> {
    let connector = match (&profile.connector, &profile.r#type) {
        (Some(connector), _) | (None, Some(connector)) => connector,
        (None, None) => return Err(ApiError::invalid("a connection profile needs a \"connector\"")),
    };
    let mut options = vec![format!("connector = {}", literal(connector))];
    options.extend(config_options(profile.config.as_ref())?);
    let name = identifier(&profile.name)?;
    let mut text = format!("CREATE CONNECTION {name} WITH ({})", options.join(", "));
    if let Some(description) = &profile.description {
        text.push_str(&format!("; COMMENT ON CONNECTION {name} IS {}", literal(description)));
    }
    Ok(text)
}

/// `CREATE TABLE`. `profile` is the name of the connection that the request names.
pub fn create_table(table: &CreateConnectionTable, profile: Option<&str>) -> ApiResult<String> {
    let mut options = Vec::new();
    match (profile, &table.connector) {
        (Some(profile), _) => options.push(format!("connection = {}", literal(profile))),
        (None, Some(connector)) => options.push(format!("connector = {}", literal(connector))),
        (None, None) => {
            return Err(ApiError::invalid(
                "a table needs a \"connector\" or a \"connection_profile_id\"",
            ));
        }
    }
    let mut config = table.config.clone().unwrap_or_default();
    if let Some(table_type) = &table.table_type {
        config.insert("type".into(), Value::String(table_type.clone()));
    }
    if let Some(field) = &table.event_time_field {
        config.insert("event_time_field".into(), Value::String(field.clone()));
    }
    if let Some(delay) = &table.watermark_delay {
        config.insert("watermark_delay".into(), Value::String(delay.clone()));
    }
    let schema: TableSchema = match &table.schema {
        Some(schema) => read("\"schema\"", schema.clone())?,
        None => TableSchema::default(),
    };
    add_format(&mut config, schema.format.as_ref())?;
    options.extend(config_options(Some(&config))?);
    let columns = columns(schema.fields.as_ref())?;
    Ok(format!(
        "CREATE TABLE {}{columns} WITH ({})",
        identifier(&table.name)?,
        options.join(", ")
    ))
}

/// `{"json": {"unstructured": true}}` is `format = 'json', 'json.unstructured' = 'true'`.
fn add_format(config: &mut Map<String, Value>, format: Option<&Value>) -> ApiResult<()> {
    match format {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) => {
            config.insert("format".into(), Value::String(name.clone()));
            Ok(())
        }
        Some(Value::Object(object)) if object.len() == 1 => {
            for (name, options) in object {
                config.insert("format".into(), Value::String(name.clone()));
                if let Value::Object(options) = options {
                    for (option, value) in options {
                        config.insert(format!("{name}.{option}"), value.clone());
                    }
                }
            }
            Ok(())
        }
        Some(_) => Err(ApiError::invalid(
            "\"schema.format\" must be an object with one format, such as {\"json\": {}}",
        )),
    }
}

/// Scalars become text, nested objects dotted names.
fn config_options(config: Option<&Map<String, Value>>) -> ApiResult<Vec<String>> {
    let mut options = Vec::new();
    for (name, value) in config.into_iter().flatten() {
        add_option(name, value, &mut options)?;
    }
    Ok(options)
}

fn add_option(name: &str, value: &Value, options: &mut Vec<String>) -> ApiResult<()> {
    let text = match value {
        Value::Null => return Ok(()),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Object(members) => {
            for (member, value) in members {
                add_option(&format!("{name}.{member}"), value, options)?;
            }
            return Ok(());
        }
        Value::Array(_) => {
            return Err(ApiError::invalid(format!("option \"{name}\" must not be a list")));
        }
    };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.is_empty();
    let name = if plain { name.to_owned() } else { literal(name) };
    options.push(format!("{name} = {}", literal(&text)));
    Ok(())
}

fn columns(fields: Option<&Value>) -> ApiResult<String> {
    let Some(fields) = fields else {
        return Ok(String::new());
    };
    let Value::Array(fields) = fields else {
        return Err(ApiError::invalid("\"schema.fields\" must be a list"));
    };
    if fields.is_empty() {
        return Ok(String::new());
    }
    let mut columns = Vec::with_capacity(fields.len());
    for (at, field) in fields.iter().enumerate() {
        let place = format!("\"schema.fields[{at}]\"");
        let field: TableField = read(&place, field.clone())?;
        let name = field
            .name
            .or(field.field_name)
            .ok_or_else(|| ApiError::invalid(format!("{place} needs a \"name\"")))?;
        let of = field
            .data_type
            .or(field.r#type)
            .or(field.field_type)
            .ok_or_else(|| ApiError::invalid(format!("{place} needs a \"data_type\"")))?;
        let not_null = if field.nullable == Some(false) { " NOT NULL" } else { "" };
        columns.push(format!("{} {}{not_null}", identifier(&name)?, sql_type(&place, &of)?));
    }
    Ok(format!(" ({})", columns.join(", ")))
}

/// A type as its SQL name, an Arrow primitive, or `{"type": {"primitive": ..}}`. It is read and written again, so nothing but
/// a type can get into the statement.
fn sql_type(place: &str, of: &Value) -> ApiResult<String> {
    match of {
        Value::String(name) => match arrow_primitive(name) {
            Some(sql) => Ok(sql.to_owned()),
            None => Ok(crate::types::parse(name)?.to_sql()),
        },
        Value::Object(members) if members.len() == 1 => match members.iter().next() {
            Some((key, inner)) if key == "type" || key == "primitive" => sql_type(place, inner),
            _ => Err(wrong_type(place)),
        },
        _ => Err(wrong_type(place)),
    }
}

fn wrong_type(place: &str) -> ApiError {
    ApiError::invalid(format!("the type in {place} is neither a SQL type nor a primitive"))
        .with_hint("Write \"BIGINT\", or {\"type\": {\"primitive\": \"Int64\"}}.")
}

/// Names of Arrow's types that are not SQL names.
fn arrow_primitive(name: &str) -> Option<&'static str> {
    Some(match name {
        "Bool" => "BOOLEAN",
        "Int8" => "TINYINT",
        "Int16" => "SMALLINT",
        "Int32" => "INT",
        "Int64" => "BIGINT",
        "UInt8" => "TINYINT UNSIGNED",
        "UInt16" => "SMALLINT UNSIGNED",
        "UInt32" => "INT UNSIGNED",
        "UInt64" => "BIGINT UNSIGNED",
        "F32" | "Float32" => "REAL",
        "F64" | "Float64" => "DOUBLE PRECISION",
        "Utf8" | "LargeUtf8" => "TEXT",
        "Binary" | "LargeBinary" => "BYTEA",
        "Date32" | "Date64" => "DATE",
        "UnixMillis" | "UnixMicros" | "UnixNanos" | "DateTime" => "TIMESTAMP",
        "Json" => "JSON",
        _ => return None,
    })
}

pub const DEFAULT_CHECKPOINT_INTERVAL_MICROS: u64 = 10_000_000;
pub const DEFAULT_PARALLELISM: u32 = 1;

/// Around a file of statements.
pub const BLOCK_START: &str = "BEGIN ";
/// On a line of its own: the file may end in a comment.
pub const BLOCK_END: &str = "\n; END";

/// `CREATE PIPELINE`, not started. `is_file`: the query has several statements.
pub fn create_pipeline(pipeline: &CreatePipeline, is_file: bool) -> ApiResult<BuiltStatement> {
    if pipeline.udfs.as_ref().is_some_and(|udfs| !udfs.is_empty()) {
        let report = crate::error::ErrorReport::new(
            crate::error::SqlState::FEATURE_NOT_SUPPORTED,
            "functions in the request are not supported",
        );
        return Err(report.with_hint("Leave \"udfs\" empty.").into());
    }
    let parallelism = pipeline.parallelism.unwrap_or(DEFAULT_PARALLELISM);
    let interval = pipeline
        .checkpoint_interval_micros
        .unwrap_or(DEFAULT_CHECKPOINT_INTERVAL_MICROS);
    let mut text = format!(
        "CREATE PIPELINE {} WITH (parallelism = {parallelism}, checkpoint_interval = '{interval} microseconds', start = false) AS ",
        identifier(&pipeline.name)?
    );
    if is_file {
        text.push_str(BLOCK_START);
    }
    let query_offset = text.chars().count();
    text.push_str(pipeline.query.trim_end().trim_end_matches(';'));
    if is_file {
        text.push_str(BLOCK_END);
    }
    Ok(BuiltStatement { text, query_offset })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn table(body: Value, profile: Option<&str>) -> ApiResult<String> {
        create_table(&read("the body", body)?, profile)
    }

    #[test]
    fn everything_a_user_wrote_is_quoted() {
        let profile = read(
            "the body",
            json!({"name": "x\"; DROP", "connector": "k'", "config": {"a": "it's", "b.c": 5, "d": {"e": true}}, "description": "o'k"}),
        );
        assert_eq!(
            create_connection(&profile.unwrap()).unwrap(),
            "CREATE CONNECTION \"x\"\"; DROP\" WITH (connector = 'k''', a = 'it''s', 'b.c' = '5', 'd.e' = 'true'); \
             COMMENT ON CONNECTION \"x\"\"; DROP\" IS 'o''k'"
        );
    }

    #[test]
    fn tables_have_columns_and_options() {
        let body = json!({
            "name": "orders", "connector": "single_file", "tableType": "source",
            "schema": {"fields": [
                {"name": "id", "data_type": "BIGINT", "nullable": false},
                {"field_name": "Name", "type": {"type": {"primitive": "Utf8"}}},
                {"name": "at", "fieldType": "timestamp"},
            ], "format": {"json": {}}},
            "config": {"path": "/tmp/x"}, "event_time_field": "at", "watermark_delay": "5 seconds"
        });
        assert_eq!(
            table(body, None).unwrap(),
            "CREATE TABLE orders (id BIGINT NOT NULL, \"Name\" TEXT, at TIMESTAMP) WITH (connector = 'single_file', \
             path = '/tmp/x', type = 'source', event_time_field = 'at', watermark_delay = '5 seconds', format = 'json')"
        );
        let by_profile = table(json!({"name": "t", "connection_profile_id": "x"}), Some("p")).unwrap();
        assert_eq!(by_profile, "CREATE TABLE t WITH (connection = 'p')");
    }

    #[test]
    fn types_cannot_smuggle_sql() {
        let body =
            |of: Value| json!({"name": "t", "connector": "c", "schema": {"fields": [{"name": "a", "type": of}]}});
        for of in [
            json!("int); DROP TABLE x; --"),
            json!({"primitive": {"a": 1}}),
            json!(5),
            json!("Union"),
        ] {
            assert!(table(body(of.clone()), None).is_err(), "{of}");
        }
        assert!(
            table(body(json!("STRUCT<a INT>")), None)
                .unwrap()
                .contains("a STRUCT<a INT>")
        );
    }

    #[test]
    fn wrong_tables_say_what() {
        for (body, expected) in [
            (json!({"name": "t"}), "needs a \\\"connector\\\""),
            (json!({"name": "", "connector": "c"}), "1 to 63 bytes"),
            (
                json!({"name": "t", "connector": "c", "config": {"a": [1]}}),
                "must not be a list",
            ),
            (
                json!({"name": "t", "connector": "c", "schema": {"field": []}}),
                "Perhaps you meant \\\"fields\\\"",
            ),
        ] {
            let error = table(body, None).unwrap_err();
            assert!(format!("{error:?}").contains(expected), "{error:?}");
        }
    }

    #[test]
    fn a_query_keeps_its_place() {
        let pipeline = CreatePipeline {
            name: "p".into(),
            query: "SELECT é FROM t;\n".into(),
            parallelism: Some(4),
            checkpoint_interval_micros: None,
            udfs: None,
        };
        let built = create_pipeline(&pipeline, false).unwrap();
        assert_eq!(
            built.text,
            "CREATE PIPELINE p WITH (parallelism = 4, checkpoint_interval = '10000000 microseconds', start = false) AS SELECT é FROM t"
        );
        assert!(
            built
                .text
                .chars()
                .skip(built.query_offset)
                .collect::<String>()
                .starts_with("SELECT")
        );
        let file = create_pipeline(&pipeline, true).unwrap();
        assert!(file.text.ends_with("BEGIN SELECT é FROM t\n; END"), "{}", file.text);
    }
}
