//! JSON: operators `->`, `->>`, `#>`, `#>>`, and the functions beside them.
//!
//! A JSON value is text that stays as it was written: what is taken out of it is a slice of it, so numbers keep their
//! digits and objects their order. Text that is not JSON gives NULL, as a missing key does.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ScalarUDF};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::SqlState;
use crate::planner::error::Error;
use crate::planner::functions::Functions;
use crate::planner::functions::arrays;
use crate::planner::functions::row_function::{Row, RowFunction, failed, text};
use crate::types::{EXTENSION_NAME_KEY, JSON_EXTENSION, SqlType};

/// A step into a JSON value.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    /// From the end when negative.
    Index(i64),
}

pub fn register(functions: &mut Functions) {
    for function in getters().into_iter().chain(makers()).chain(inspectors()) {
        functions.add_scalar(function.into_udf());
    }
    let operator = |name: &str| functions.scalar.get(name).map(Arc::clone);
    if let (Some(get), Some(get_text), Some(path), Some(path_text)) = (
        operator("json_get_json"),
        operator("json_as_text"),
        operator("json_extract_path"),
        operator("json_extract_path_text"),
    ) {
        functions.expr_planners.insert(
            0,
            Arc::new(JsonOperators {
                get,
                get_text,
                path,
                path_text,
            }),
        );
    }
}

fn getters() -> Vec<RowFunction> {
    let json = || SqlType::Json;
    let mut functions = Vec::new();
    for name in ["json_get", "json_get_json", "json_extract_path", "jsonb_extract_path"] {
        functions.push(RowFunction::variadic(name, json(), |row| Ok(text(walk_arguments(row)))).strict());
    }
    for name in [
        "json_as_text",
        "json_get_str",
        "json_extract_path_text",
        "jsonb_extract_path_text",
    ] {
        functions.push(
            RowFunction::variadic(name, SqlType::Text, |row| {
                Ok(text(walk_arguments(row).and_then(|found| unquoted(&found))))
            })
            .strict(),
        );
    }
    functions.push(
        RowFunction::variadic("json_get_int", SqlType::BigInt, |row| {
            let number = walk_arguments(row).and_then(|found| found.parse::<i64>().ok());
            Ok(ScalarValue::Int64(number))
        })
        .strict(),
    );
    functions.push(
        RowFunction::variadic("json_get_float", SqlType::Double, |row| {
            let number = walk_arguments(row).and_then(|found| found.parse::<f64>().ok());
            Ok(ScalarValue::Float64(number))
        })
        .strict(),
    );
    functions.push(
        RowFunction::variadic("json_get_bool", SqlType::Boolean, |row| {
            let flag = walk_arguments(row).and_then(|found| found.parse::<bool>().ok());
            Ok(ScalarValue::Boolean(flag))
        })
        .strict(),
    );
    functions.extend(path_getters());
    functions
}

fn path_getters() -> Vec<RowFunction> {
    let json = || SqlType::Json;
    let mut functions = Vec::new();
    functions.push(
        RowFunction::new("json_value", 2..=2, SqlType::Text, |row| {
            let found = walk_path(row)?;
            // Only scalars are values.
            Ok(text(
                found
                    .filter(|found| !found.starts_with(['{', '[']))
                    .and_then(|found| unquoted(&found)),
            ))
        })
        .strict(),
    );
    functions.push(RowFunction::new("json_query", 2..=2, json(), |row| Ok(text(walk_path(row)?))).strict());
    functions.push(
        RowFunction::new("json_exists", 2..=2, SqlType::Boolean, |row| {
            Ok(ScalarValue::Boolean(Some(walk_path(row)?.is_some())))
        })
        .strict(),
    );
    functions.push(
        RowFunction::new("extract_json_string", 2..=2, SqlType::Text, |row| {
            Ok(text(walk_path(row)?.and_then(|found| unquoted(&found))))
        })
        .strict(),
    );
    functions.push(
        RowFunction::new("extract_json", 2..=2, SqlType::Array(Box::new(SqlType::Text)), |row| {
            Ok(arrays::text_list(walk_path(row)?))
        })
        .strict(),
    );
    functions
}

fn makers() -> Vec<RowFunction> {
    let mut functions = Vec::new();
    for (name, of) in object_makers() {
        functions.push(RowFunction::variadic(name, of, make_object));
    }
    for (name, of) in [
        ("json_array", SqlType::Json),
        ("json_build_array", SqlType::Json),
        ("jsonb_build_array", SqlType::Jsonb),
    ] {
        functions.push(RowFunction::variadic(name, of, |row| {
            let values = (0..row.values.len())
                .map(|index| argument_json(row, index))
                .collect::<Result<Vec<_>>>()?;
            Ok(text(Some(Value::Array(values).to_string())))
        }));
    }
    for (name, of) in [
        ("to_json", SqlType::Json),
        ("to_jsonb", SqlType::Jsonb),
        ("row_to_json", SqlType::Json),
    ] {
        functions.push(
            RowFunction::new(name, 1..=1, of, |row| {
                Ok(text(Some(argument_json(row, 0)?.to_string())))
            })
            .strict(),
        );
    }
    functions
}

fn object_makers() -> [(&'static str, SqlType); 3] {
    [
        ("json_object", SqlType::Json),
        ("json_build_object", SqlType::Json),
        ("jsonb_build_object", SqlType::Jsonb),
    ]
}

fn inspectors() -> Vec<RowFunction> {
    let mut functions = Vec::new();
    for name in ["json_array_length", "jsonb_array_length", "json_length"] {
        functions.push(RowFunction::new(name, 1..=1, SqlType::Int, array_length).strict());
    }
    for name in ["json_typeof", "jsonb_typeof"] {
        functions.push(
            RowFunction::new(name, 1..=1, SqlType::Text, |row| {
                Ok(text(parsed(row, 0).map(|value| type_name(&value))))
            })
            .strict(),
        );
    }
    functions.push(
        RowFunction::new("json_valid", 1..=1, SqlType::Boolean, |row| {
            Ok(ScalarValue::Boolean(Some(parsed(row, 0).is_some())))
        })
        .strict(),
    );
    functions.push(
        RowFunction::variadic("json_contains", SqlType::Boolean, |row| {
            Ok(ScalarValue::Boolean(Some(walk_arguments(row).is_some())))
        })
        .strict(),
    );
    for name in ["json_object_keys", "jsonb_object_keys"] {
        functions.push(
            RowFunction::new(name, 1..=1, SqlType::Array(Box::new(SqlType::Text)), |row| {
                Ok(match parsed(row, 0) {
                    Some(Value::Object(object)) => arrays::text_list(object.keys().cloned()),
                    _ => ScalarValue::Null,
                })
            })
            .strict(),
        );
    }
    functions
}

fn array_length(row: &Row<'_>) -> Result<ScalarValue> {
    match parsed(row, 0) {
        Some(Value::Array(values)) => Ok(ScalarValue::Int32(i32::try_from(values.len()).ok())),
        Some(_) => Err(failed(Error::query(
            SqlState::INVALID_PARAMETER_VALUE,
            "cannot get array length of a non-array",
        ))),
        None => Ok(ScalarValue::Null),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn parsed(row: &Row<'_>, index: usize) -> Option<Value> {
    serde_json::from_str(row.text(index)?).ok()
}

/// The value at the keys and indexes given as arguments; an array argument or `{a,b}` alone is a path.
fn walk_arguments(row: &Row<'_>) -> Option<String> {
    let document = row.text(0)?;
    let mut steps = Vec::new();
    for value in row.values.get(1..)? {
        match value {
            ScalarValue::List(list) => {
                let elements = list.value(0);
                let elements = elements.as_string_opt::<i32>()?;
                steps.extend(elements.iter().flatten().map(path_step));
            }
            other => match other.try_as_str() {
                Some(key) => steps.push(Step::Key(key?.to_owned())),
                None => steps.push(Step::Index(match other.cast_to(&DataType::Int64) {
                    Ok(ScalarValue::Int64(Some(index))) => index,
                    _ => return None,
                })),
            },
        }
    }
    walk(document, &steps).map(str::to_owned)
}

/// A step of a text path, where digits may be an index.
fn path_step(text: &str) -> Step {
    match text.parse() {
        Ok(index) => Step::Index(index),
        Err(_) => Step::Key(text.to_owned()),
    }
}

fn walk_path(row: &Row<'_>) -> Result<Option<String>> {
    let (Some(document), Some(path)) = (row.text(0), row.text(1)) else {
        return Ok(None);
    };
    let steps = json_path(path).ok_or_else(|| {
        failed(Error::Query(
            crate::error::ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid JSON path: \"{path}\""),
            )
            .with_hint("Paths such as '$.items[0].price' are supported."),
        ))
    })?;
    Ok(walk(document, &steps).map(str::to_owned))
}

/// `$.a.b[0]['c d']`.
fn json_path(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim();
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (inside, after) = after.split_once(']')?;
            let inside = inside.trim();
            let quoted = |quote: char| inside.strip_prefix(quote).and_then(|inner| inner.strip_suffix(quote));
            steps.push(match quoted('\'').or_else(|| quoted('"')) {
                Some(key) => Step::Key(key.to_owned()),
                None => Step::Index(inside.parse().ok()?),
            });
            rest = after;
            continue;
        }
        let after = rest.strip_prefix('.').or(steps.is_empty().then_some(rest))?;
        let (key, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(['.', '[']).unwrap_or(after.len())),
        };
        if key.is_empty() || key == "*" {
            return None;
        }
        steps.push(Step::Key(key.to_owned()));
        rest = after;
    }
    Some(steps)
}

/// The text of the value at `steps`.
fn walk<'a>(document: &'a str, steps: &[Step]) -> Option<&'a str> {
    let raw: &RawValue = serde_json::from_str(document).ok()?;
    let mut current = raw.get();
    for step in steps {
        let next: &RawValue = match step {
            Step::Key(key) => {
                let object: BTreeMap<std::borrow::Cow<'_, str>, &RawValue> = serde_json::from_str(current).ok()?;
                object.get(key.as_str()).copied()?
            }
            Step::Index(index) if current.starts_with('[') => {
                let array: Vec<&RawValue> = serde_json::from_str(current).ok()?;
                let position = match index {
                    0.. => usize::try_from(*index).ok()?,
                    _ => array.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
                };
                array.get(position).copied()?
            }
            // Digits name a key of an object.
            Step::Index(index) => {
                let object: BTreeMap<std::borrow::Cow<'_, str>, &RawValue> = serde_json::from_str(current).ok()?;
                object.get(index.to_string().as_str()).copied()?
            }
        };
        current = next.get();
    }
    Some(current)
}

/// A JSON value as text: strings without quotes, `null` as NULL.
fn unquoted(json: &str) -> Option<String> {
    match json {
        "null" => None,
        quoted if quoted.starts_with('"') => serde_json::from_str(quoted).ok(),
        other => Some(other.to_owned()),
    }
}

fn make_object(row: &Row<'_>) -> Result<ScalarValue> {
    if !row.values.len().is_multiple_of(2) {
        return Err(failed(Error::query(
            SqlState::INVALID_PARAMETER_VALUE,
            "argument list must have even number of elements",
        )));
    }
    let mut object = serde_json::Map::new();
    for index in (0..row.values.len()).step_by(2) {
        let key = match (row.text(index), &row.values[index]) {
            (Some(key), _) => key.to_owned(),
            (None, value) if !value.is_null() => value.to_string(),
            (None, _) => {
                return Err(failed(Error::query(
                    SqlState::NULL_VALUE_NOT_ALLOWED,
                    "null value not allowed for object key",
                )));
            }
        };
        object.insert(key, argument_json(row, index + 1)?);
    }
    Ok(text(Some(Value::Object(object).to_string())))
}

fn argument_json(row: &Row<'_>, index: usize) -> Result<Value> {
    to_json(&row.values[index], row.fields.get(index))
}

/// Any SQL value as JSON; JSON columns as they are.
fn to_json(value: &ScalarValue, field: Option<&FieldRef>) -> Result<Value> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let is_json = field.is_some_and(|field| {
        field
            .metadata()
            .get(EXTENSION_NAME_KEY)
            .is_some_and(|name| name == JSON_EXTENSION)
    });
    if let Some(text) = value.try_as_str().flatten() {
        return Ok(match is_json {
            true => serde_json::from_str(text).unwrap_or(Value::Null),
            false => Value::String(text.to_owned()),
        });
    }
    Ok(match value {
        ScalarValue::Boolean(Some(flag)) => Value::Bool(*flag),
        ScalarValue::Float32(Some(number)) => number_json(f64::from(*number)),
        ScalarValue::Float64(Some(number)) => number_json(*number),
        ScalarValue::Struct(fields) => {
            let mut object = serde_json::Map::new();
            for (column, field) in fields.columns().iter().zip(fields.fields()) {
                let inner = ScalarValue::try_from_array(column, 0)?;
                object.insert(field.name().clone(), to_json(&inner, Some(field))?);
            }
            Value::Object(object)
        }
        ScalarValue::List(list) => {
            let elements = list.value(0);
            let field = match list.data_type() {
                DataType::List(field) => Some(Arc::clone(field)),
                _ => None,
            };
            let elements = (0..elements.len())
                .map(|index| to_json(&ScalarValue::try_from_array(&elements, index)?, field.as_ref()))
                .collect::<Result<Vec<_>>>()?;
            Value::Array(elements)
        }
        number if number.data_type().is_numeric() => {
            serde_json::from_str(&number.to_string()).unwrap_or_else(|_| Value::String(number.to_string()))
        }
        ScalarValue::TimestampMicrosecond(Some(_), zone) => {
            let shown = value.cast_to(&DataType::Utf8)?.to_string();
            Value::String(timestamp_json(&shown, zone.is_some()))
        }
        other => Value::String(other.cast_to(&DataType::Utf8)?.to_string()),
    })
}

/// ISO 8601 with a `T`, as Postgres writes timestamps into JSON.
fn timestamp_json(shown: &str, zoned: bool) -> String {
    let shown = shown.replacen(' ', "T", 1);
    match zoned {
        true => shown.replace('Z', "+00:00"),
        false => shown,
    }
}

fn number_json(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}

/// `->` and its relatives.
#[derive(Debug)]
struct JsonOperators {
    get: Arc<ScalarUDF>,
    get_text: Arc<ScalarUDF>,
    path: Arc<ScalarUDF>,
    path_text: Arc<ScalarUDF>,
}

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let (function, path) = match &expr.op {
            BinaryOperator::Arrow => (&self.get, false),
            BinaryOperator::LongArrow => (&self.get_text, false),
            BinaryOperator::HashArrow => (&self.path, true),
            BinaryOperator::HashLongArrow => (&self.path_text, true),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let right = match (&expr.right, path) {
            // '{a,b}' is a path, not a key.
            (Expr::Literal(value, _), true) => match value.try_as_str().flatten().and_then(arrays::elements) {
                Some(steps) => Expr::Literal(arrays::text_list(steps.into_iter().flatten()), None),
                None => expr.right.clone(),
            },
            _ => expr.right.clone(),
        };
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::clone(function),
            vec![expr.left, right],
        ))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(text: &str) -> Step {
        Step::Key(text.into())
    }

    #[test]
    fn values_stay_as_written() {
        let document = r#"{"a": {"b": [1.50, "x", null]}, "7": true}"#;
        assert_eq!(walk(document, &[key("a"), key("b"), Step::Index(0)]), Some("1.50"));
        assert_eq!(walk(document, &[key("a"), key("b"), Step::Index(-2)]), Some("\"x\""));
        assert_eq!(walk(document, &[Step::Index(7)]), Some("true"));
        assert_eq!(walk(document, &[key("c")]), None);
        assert_eq!(walk("not json", &[key("c")]), None);
        assert_eq!(unquoted("\"a\\n\""), Some("a\n".into()));
        assert_eq!(unquoted("null"), None);
    }

    #[test]
    fn paths() {
        assert_eq!(
            json_path("$.a[0]['b c'].\"d.e\""),
            Some(vec![key("a"), Step::Index(0), key("b c"), key("d.e")])
        );
        assert_eq!(json_path("$"), Some(vec![]));
        assert_eq!(json_path("a.b"), Some(vec![key("a"), key("b")]));
        assert_eq!(json_path("$..a"), None);
        assert_eq!(json_path("$[x]"), None);
    }
}
