//! `WITH (name = value, ..)`.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::frontend::error::Result;
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::identifier::quote_literal;
use crate::options::{RawOptionValue, RawOptions};

/// Reads `( name = value, .. )`; the equals sign may be missing, as in `TO KAFKA (BROKER 'h:9092')`.
pub fn list(cursor: &mut Cursor<'_>) -> Result<RawOptions> {
    cursor.expect_token(&Token::LParen)?;
    let mut options: Vec<(String, RawOptionValue)> = Vec::new();
    if cursor.take_token(&Token::RParen) {
        return Ok(RawOptions(options));
    }
    loop {
        let at = cursor.index();
        let name = name(cursor)?;
        let _ = cursor.take_token(&Token::Eq) || cursor.take_token(&Token::RArrow);
        let value = value(cursor)?;
        let normalized = crate::options::normalize_name(&name);
        if options
            .iter()
            .any(|(other, _)| crate::options::normalize_name(other) == normalized)
        {
            return Err(cursor.error_at(at, &format!("option \"{name}\" is given twice"), None));
        }
        options.push((name, value));
        if cursor.take_token(&Token::Comma) {
            continue;
        }
        cursor.expect_token(&Token::RParen)?;
        return Ok(RawOptions(options));
    }
}

/// Reads `(name, ..)`.
pub fn names(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
    cursor.expect_token(&Token::LParen)?;
    let mut names = vec![name(cursor)?];
    while cursor.take_token(&Token::Comma) {
        names.push(name(cursor)?);
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(names)
}

/// A word, dotted words, several words (`SASL MECHANISM`, joined by `_`), or any of them quoted either way.
pub fn name(cursor: &mut Cursor<'_>) -> Result<String> {
    if cursor.sees_string() {
        return cursor.string();
    }
    // Option names keep the case they are written in: camelCase spellings are told apart from words run together.
    let mut name = word(cursor)?;
    loop {
        if cursor.take_token(&Token::Period) {
            name.push('.');
            name.push_str(&word(cursor)?);
        } else if another_word(cursor) {
            name.push('_');
            name.push_str(&word(cursor)?);
        } else {
            return Ok(name);
        }
    }
}

/// Whether the next word belongs to the name: something other than a comma or the end follows it, and it is not SECRET.
fn another_word(cursor: &Cursor<'_>) -> bool {
    let is_word = matches!(cursor.peek(), Some(Token::Word(word)) if word.quote_style.is_none());
    let value_begins =
        cursor.sees(&["SECRET"]) || cursor.sees(&["INTERVAL"]) || cursor.sees(&["TRUE"]) || cursor.sees(&["FALSE"]);
    let ends_option = matches!(cursor.peek_at(1), Some(Token::Comma | Token::RParen) | None);
    is_word && !value_begins && !ends_option
}

fn word(cursor: &mut Cursor<'_>) -> Result<String> {
    match cursor.peek() {
        Some(Token::Word(word)) => {
            // Words all in capitals are keywords of habit, not names.
            let shouted = word.quote_style.is_none() && !word.value.chars().any(char::is_lowercase);
            let name = if shouted {
                word.value.to_lowercase()
            } else {
                word.value.clone()
            };
            cursor.skip(1);
            Ok(name)
        }
        _ => Err(cursor.unexpected("an option name")),
    }
}

/// A string, number, boolean, bare word, `INTERVAL '..'` or `SECRET name`.
pub fn value(cursor: &mut Cursor<'_>) -> Result<RawOptionValue> {
    if cursor.sees_string() {
        return cursor.string().map(RawOptionValue::Text);
    }
    if cursor.sees(&["SECRET"]) && matches!(cursor.peek_at(1), Some(Token::Word(_))) {
        cursor.skip(1);
        let name = cursor.qualified_name()?;
        return Ok(RawOptionValue::Secret(name.to_string()));
    }
    if cursor.sees(&["INTERVAL"]) {
        cursor.skip(1);
        let text = cursor.string()?;
        let unit = match cursor.peek() {
            Some(Token::Word(_)) => format!(" {}", cursor.any_word("a unit")?),
            _ => String::new(),
        };
        return Ok(RawOptionValue::Text(format!("{text}{unit}")));
    }
    let sign = if cursor.take_token(&Token::Minus) { "-" } else { "" };
    let text = match cursor.peek() {
        Some(Token::Number(digits, _)) => format!("{sign}{digits}"),
        Some(Token::Word(word)) if sign.is_empty() => word.value.clone(),
        _ => return Err(cursor.unexpected("a value")),
    };
    let is_word = matches!(cursor.peek(), Some(Token::Word(_)));
    cursor.skip(1);
    let lower = text.to_lowercase();
    Ok(RawOptionValue::Text(
        if is_word && (lower == "true" || lower == "false") {
            lower
        } else {
            text
        },
    ))
}

/// As they would be written: `name = 'value'`, one a line, each indented.
pub fn print(options: &RawOptions, indent: &str) -> String {
    let lines: Vec<String> = options
        .0
        .iter()
        .map(|(name, value)| format!("{indent}{} = {}", print_name(name), print_value(value)))
        .collect();
    lines.join(",\n")
}

fn print_name(name: &str) -> String {
    let plain = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { quote_literal(name) }
}

fn print_value(value: &RawOptionValue) -> String {
    match value {
        RawOptionValue::Text(text) => quote_literal(text),
        RawOptionValue::Secret(name) => {
            let parts: Vec<String> = name.split('.').map(crate::frontend::sql::identifier::quote).collect();
            format!("SECRET {}", parts.join("."))
        }
    }
}
