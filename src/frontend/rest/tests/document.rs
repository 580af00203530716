//! Answers against the OpenAPI document: the route, its status, and the shape of the body.

use std::collections::BTreeSet;

use serde_json::Value;

pub struct Document {
    document: Value,
    called: BTreeSet<(String, String)>,
}

impl Document {
    pub fn new(document: Value) -> Document {
        Document {
            document,
            called: BTreeSet::new(),
        }
    }

    /// Checks one answer; panics with what differs.
    pub fn check(&mut self, method: &str, path: &str, status: u16, body: Option<&Value>) {
        let path = canonical(path);
        let (template, operation) = self.operation(method, &path);
        let place = format!("{method} {template} {status}");
        let response = &operation["responses"][status.to_string()];
        assert!(!response.is_null(), "{place} is not documented");
        let schema = &response["content"]["application/json"]["schema"];
        match (schema.is_null(), body) {
            (false, Some(body)) => {
                if let Err(difference) = self.conforms(schema, body, &place) {
                    panic!("{difference}");
                }
            }
            (true, None) => {}
            (true, Some(_)) if response["content"]["text/plain"].is_object() => {}
            (documented, _) => panic!(
                "{place}: a body is {}",
                if documented { "not documented" } else { "missing" }
            ),
        }
        self.called.insert((method.to_owned(), template));
    }

    fn operation(&self, method: &str, path: &str) -> (String, Value) {
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let (a, b): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b || a.starts_with('{'))
        };
        // A literal part wins over a parameter, as in the router.
        let mut templates: Vec<&String> = paths.keys().filter(|template| fits(template)).collect();
        templates.sort_by_key(|template| template.contains('{'));
        let found = templates
            .into_iter()
            .find(|template| paths[*template].get(method).is_some());
        let template = found.unwrap_or_else(|| panic!("{method} {path} is not documented"));
        (template.clone(), paths[template][method].clone())
    }

    /// Whether a value has a schema; the error says where not.
    fn conforms(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = reference
                .strip_prefix('#')
                .and_then(|pointer| self.document.pointer(pointer));
            return self.conforms(
                target.ok_or_else(|| format!("{reference} does not exist"))?,
                value,
                place,
            );
        }
        for (keyword, all) in [("oneOf", false), ("anyOf", false), ("allOf", true)] {
            if let Some(schemas) = schema[keyword].as_array() {
                let mut results = schemas.iter().map(|schema| self.conforms(schema, value, place));
                let fits = if all {
                    results.all(|result| result.is_ok())
                } else {
                    results.any(|result| result.is_ok())
                };
                return if fits {
                    Ok(())
                } else {
                    Err(format!("{place}: {value} is not {keyword} {schemas:?}"))
                };
            }
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => return Ok(()),
        };
        let actual = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let fits = types.contains(&actual) || (actual == "integer" && types.contains(&"number"));
        if !fits {
            return Err(format!("{place}: {value} is not {types:?}"));
        }
        self.members_conform(schema, value, place)
    }

    fn members_conform(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            for (at, value) in values.iter().enumerate() {
                self.conforms(items, value, &format!("{place}[{at}]"))?;
            }
        }
        let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) else {
            return Ok(());
        };
        for name in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                return Err(format!("{place}: {name} is missing in {value}"));
            }
        }
        for (name, value) in object {
            let property = properties
                .get(name)
                .ok_or_else(|| format!("{place}: \"{name}\" is not documented"))?;
            self.conforms(property, value, &format!("{place}.{name}"))?;
        }
        Ok(())
    }

    /// Every documented operation that no answer was checked for.
    pub fn not_called(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for method in ["get", "post", "patch", "put", "delete"] {
                let called = self.called.contains(&(method.to_owned(), path.clone()));
                if item.get(method).is_some() && !called {
                    missing.push(format!("{method} {path}"));
                }
            }
        }
        missing
    }
}

/// The documented spelling of an address.
fn canonical(path: &str) -> String {
    let path = path.split('?').next().unwrap();
    let path = match path.strip_prefix("/v1") {
        Some(rest) => format!("/api/v1{rest}"),
        None => path.to_owned(),
    };
    let mut canonical = path;
    for (also, core) in [
        ("/connection_profiles", "/connection-profiles"),
        ("/profiles", "/connection-profiles"),
        ("/connection_tables", "/tables"),
        ("/connection-tables", "/tables"),
    ] {
        if let Some(rest) = canonical.strip_prefix(&format!("/api/v1{also}")) {
            canonical = format!("/api/v1{core}{rest}");
            break;
        }
    }
    canonical
}
