//! The JSON Schema of columns, for sinks that register one: what the encoder writes by default, in words that registries compare.

use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Map, Value, json};

use crate::engine::formats::columns::is_json;

/// The schema of objects called `name` with these columns.
pub fn schema_of(columns: &Fields, name: &str) -> Value {
    let mut schema = object(columns);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = name.into();
    schema
}

fn object(columns: &Fields) -> Value {
    let properties: Map<String, Value> = columns
        .iter()
        .map(|column| (column.name().clone(), optional(column)))
        .collect();
    let required: Vec<&str> = columns
        .iter()
        .filter(|column| !column.is_nullable())
        .map(|column| column.name().as_str())
        .collect();
    match required.is_empty() {
        true => json!({ "type": "object", "properties": properties }),
        false => json!({ "type": "object", "properties": properties, "required": required }),
    }
}

fn optional(column: &Field) -> Value {
    match column.is_nullable() && !is_json(column) {
        true => json!({ "oneOf": [{ "type": "null" }, value(column)] }),
        false => value(column),
    }
}

fn value(column: &Field) -> Value {
    match column.data_type() {
        // Anything.
        DataType::Utf8 if is_json(column) => json!({}),
        DataType::Boolean => json!({ "type": "boolean" }),
        of_column if of_column.is_integer() => json!({ "type": "integer" }),
        of_column if of_column.is_numeric() => json!({ "type": "number" }),
        DataType::Struct(fields) => object(fields),
        DataType::List(element) => json!({ "type": "array", "items": optional(element) }),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                json!({ "type": "object", "additionalProperties": optional(&fields[1]) })
            }
            _ => json!({ "type": "object" }),
        },
        // Times as well; their form is the table's to say.
        DataType::Timestamp(..) => json!({ "type": ["string", "integer"] }),
        _ => json!({ "type": "string" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SqlType;

    #[test]
    fn columns_are_properties() {
        let columns: Fields = vec![
            SqlType::BigInt.to_arrow_field("id", false),
            SqlType::Array(Box::new(SqlType::Text)).to_arrow_field("tags", true),
            SqlType::Json.to_arrow_field("any", true),
        ]
        .into();
        let text = json!({ "oneOf": [{ "type": "null" }, { "type": "string" }] });
        let expected = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "orders",
            "type": "object",
            "properties": {
                "id": { "type": "integer" },
                "tags": { "oneOf": [{ "type": "null" }, { "type": "array", "items": text }] },
                "any": {},
            },
            "required": ["id"],
        });
        assert_eq!(schema_of(&columns, "orders"), expected);
    }
}
