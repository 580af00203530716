//! `/connectors`: what the connectors say about themselves.

use axum::Json;
use axum::extract::Path;
use serde_json::{Map, Value, json};

use super::error::{ApiError, ApiResult, ErrorBody};
use super::model::{ConfigurationSchema, ConnectorFeatures, ConnectorResource, Wrapped};
use super::query::{ConnectorParams, Params};
use crate::engine::connectors::{
    ConnectorDescription, Direction, OptionDescription, OptionKind, OptionScope, REGISTRY,
};
use crate::error::nearest;

/// All connectors.
#[utoipa::path(get, path = "/connectors", tag = "connectors", params(ConnectorParams),
    responses((status = 200, body = Wrapped<Vec<ConnectorResource>>)))]
pub async fn list(Params(params): Params<ConnectorParams>) -> Json<Wrapped<Vec<ConnectorResource>>> {
    let fits = |connector: &ConnectorResource| {
        params
            .category
            .as_deref()
            .is_none_or(|category| connector.category.eq_ignore_ascii_case(category))
            && params.r#type.as_deref().is_none_or(|of| connector.r#type.contains(&of))
    };
    let all = REGISTRY.iter().map(|connector| resource(&connector.describe()));
    Json(Wrapped {
        data: all.filter(fits).collect(),
    })
}

/// One connector, by its name in `WITH (connector = ..)`.
#[utoipa::path(get, path = "/connectors/{id}", tag = "connectors", params(("id" = String, Path)),
    responses((status = 200, body = Wrapped<ConnectorResource>), (status = 404, body = ErrorBody)))]
pub async fn get(Path(id): Path<String>) -> ApiResult<Json<Wrapped<ConnectorResource>>> {
    match REGISTRY.iter().find(|connector| connector.name() == id) {
        Some(connector) => Ok(Json(Wrapped {
            data: resource(&connector.describe()),
        })),
        None => {
            let error = ApiError::not_found("connector", &id);
            Err(match nearest(&id, REGISTRY.iter().map(|connector| connector.name())) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => error,
            })
        }
    }
}

fn resource(description: &ConnectorDescription) -> ConnectorResource {
    let source = matches!(description.direction, Direction::Source | Direction::Both);
    let sink = matches!(description.direction, Direction::Sink | Direction::Both);
    let types = [
        (source, "source"),
        (sink, "sink"),
        (description.can_look_up(), "lookup"),
    ];
    let options = |direction: Direction| {
        let of_tables = |option: &&OptionDescription| {
            option.scope != OptionScope::Connection
                && (option.direction == direction || option.direction == Direction::Both)
        };
        schema(description.options.iter().filter(of_tables))
    };
    let of_connections = |option: &&OptionDescription| option.scope != OptionScope::Table;
    let has_profile = description.options.iter().any(|option| of_connections(&option));
    ConnectorResource {
        id: description.name,
        name: description.title,
        description: description.summary,
        category: description.category,
        r#type: types
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, name)| name)
            .collect(),
        version: env!("CARGO_PKG_VERSION"),
        features: ConnectorFeatures {
            source,
            sink,
            connection_profile: has_profile,
        },
        supported_formats: description.formats.to_vec(),
        configuration_schema: ConfigurationSchema {
            source: source.then(|| options(Direction::Source)),
            sink: sink.then(|| options(Direction::Sink)),
            connection: has_profile.then(|| schema(description.options.iter().filter(of_connections))),
        },
    }
}

/// A JSON Schema of options.
fn schema<'a>(options: impl Iterator<Item = &'a OptionDescription>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for option in options {
        properties.insert(option.name.to_owned(), property(option));
        if option.required {
            required.push(option.name);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
    })
}

fn property(option: &OptionDescription) -> Value {
    let mut property = Map::new();
    let of = match option.kind {
        OptionKind::Boolean => "boolean",
        OptionKind::Integer => "integer",
        OptionKind::Number => "number",
        OptionKind::Text | OptionKind::Secret | OptionKind::Duration | OptionKind::Enum(_) => "string",
    };
    property.insert("type".into(), json!(of));
    property.insert("description".into(), json!(option.summary));
    match option.kind {
        OptionKind::Secret => {
            property.insert("format".into(), json!("password"));
        }
        OptionKind::Enum(values) => {
            property.insert("enum".into(), json!(values));
        }
        OptionKind::Duration => {
            property.insert("examples".into(), json!(["10 s"]));
        }
        OptionKind::Text | OptionKind::Boolean | OptionKind::Integer | OptionKind::Number => {}
    }
    if let Some(default) = option.default {
        property.insert("default".into(), json!(default));
    }
    if !option.aliases.is_empty() {
        property.insert("x-aliases".into(), json!(option.aliases));
    }
    Value::Object(property)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_become_json_schema() {
        let option = |name, kind, scope, direction| OptionDescription {
            name,
            aliases: &[],
            kind,
            required: name == "path",
            default: None,
            scope,
            direction,
            summary: "What it is.",
        };
        let description = ConnectorDescription {
            name: "x",
            title: "X",
            summary: "An example.",
            category: "files",
            direction: Direction::Both,
            formats: &["json"],
            options: vec![
                option("path", OptionKind::Text, OptionScope::Table, Direction::Both),
                option("rows", OptionKind::Integer, OptionScope::Table, Direction::Source),
                option(
                    "mode",
                    OptionKind::Enum(&["a", "b"]),
                    OptionScope::Both,
                    Direction::Sink,
                ),
                option("key", OptionKind::Secret, OptionScope::Connection, Direction::Both),
            ],
        };
        let seen = resource(&description);
        let keys = |schema: Option<Value>| {
            let schema = schema.expect("a schema");
            let properties = schema["properties"].as_object().expect("an object");
            properties.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(seen.r#type, ["source", "sink"]);
        let source = seen.configuration_schema.source.clone().expect("a schema");
        assert_eq!(source["required"], json!(["path"]));
        assert_eq!(keys(seen.configuration_schema.source), ["path", "rows"]);
        assert_eq!(keys(seen.configuration_schema.sink), ["path", "mode"]);
        assert_eq!(keys(seen.configuration_schema.connection), ["mode", "key"]);
    }
}
