//! Array literals of Postgres: `{1,2,NULL,"a b"}`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use crate::error::SqlState;
use crate::planner::error::{Error, Result};

/// The list that `text` means, of elements of type `of`.
pub fn parse(text: &str, of: &DataType) -> Result<ScalarValue> {
    let malformed = || {
        Error::query(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("malformed array literal: \"{text}\""),
        )
    };
    let elements = elements(text).ok_or_else(malformed)?;
    let values = elements
        .into_iter()
        .map(|element| match element {
            Some(element) => ScalarValue::Utf8(Some(element)).cast_to(of).map_err(|_| malformed()),
            None => ScalarValue::try_from(of).map_err(|_| malformed()),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(ScalarValue::List(ScalarValue::new_list(&values, of, true)))
}

/// The elements of a one-dimensional array literal; `None` when it is not one.
pub fn elements(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    let mut elements = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    let mut was_quoted = false;
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            '\\' => current.push(characters.next()?),
            ',' if !quoted => {
                elements.push(element(&current, was_quoted));
                current.clear();
                was_quoted = false;
            }
            '{' | '}' if !quoted => return None,
            other => current.push(other),
        }
    }
    if quoted {
        return None;
    }
    elements.push(element(&current, was_quoted));
    Some(elements)
}

fn element(text: &str, was_quoted: bool) -> Option<String> {
    match was_quoted {
        true => Some(text.to_owned()),
        false if text.trim().eq_ignore_ascii_case("null") => None,
        false => Some(text.trim().to_owned()),
    }
}

/// A list of text.
pub fn text_list(values: impl IntoIterator<Item = String>) -> ScalarValue {
    let values: Vec<ScalarValue> = values.into_iter().map(|value| ScalarValue::Utf8(Some(value))).collect();
    ScalarValue::List(Arc::clone(&ScalarValue::new_list(&values, &DataType::Utf8, true)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn literals_are_read_as_postgres_does() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(elements("{}"), Some(vec![]));
        assert_eq!(elements("{1, 2,NULL}"), Some(vec![some("1"), some("2"), None]));
        assert_eq!(
            elements(r#"{"a,b","NULL","c\"d"}"#),
            Some(vec![some("a,b"), some("NULL"), some("c\"d")])
        );
        assert_eq!(elements("1,2"), None);
        assert_eq!(elements("{\"a}"), None);
        assert!(parse("{x}", &DataType::Int32).is_err());
        assert_eq!(parse("{7}", &DataType::Int32).unwrap().to_string(), "[7]");
    }
}
