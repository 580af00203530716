//! `COPY relation [(columns)] | (query) | (SUBSCRIBE ..) TO STDOUT`, `COPY .. FROM STDIN`, with today's and yesterday's options.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::options;
use crate::frontend::sql::reading::{self, boolean_word};
use crate::frontend::sql::statement::{Copy, CopyDirection, CopyFormat, CopyKind, CopySource, ForceQuote, Statement};
use crate::options::RawOptionValue;

pub fn statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["COPY"])?;
    let binary = cursor.take(&["BINARY"]);
    let source = source(cursor)?;
    let direction = if cursor.take(&["TO"]) {
        CopyDirection::ToClient
    } else if cursor.take(&["FROM"]) {
        CopyDirection::FromClient
    } else {
        return Err(cursor.unexpected("TO or FROM"));
    };
    let here = cursor.take(&["STDOUT"]) || cursor.take(&["STDIN"]);
    if !here {
        return Err(Error::not_supported(
            "COPY with a file or program of the server",
            "Use COPY .. TO STDOUT (psql: \\copy), or a table with connector = 'single_file'.",
        ));
    }
    let mut options = CopyOptions::default();
    if binary {
        options.kind = Some(CopyKind::Binary);
    }
    cursor.take(&["WITH"]);
    if cursor.sees_token(&Token::LParen) {
        option_list(cursor, &mut options)?;
    } else {
        while legacy_option(cursor, &mut options)? {}
    }
    Ok(Statement::Copy(Box::new(Copy {
        source,
        direction,
        format: options.finish()?,
    })))
}

fn source(cursor: &mut Cursor<'_>) -> Result<CopySource> {
    if !cursor.sees_token(&Token::LParen) {
        let name = cursor.qualified_name()?;
        let columns = match cursor.sees_token(&Token::LParen) {
            true => cursor.name_list()?,
            false => Vec::new(),
        };
        return Ok(CopySource::Relation { name, columns });
    }
    let close = cursor.closing()?;
    let mut inner = cursor.part(cursor.index() + 1..close - 1);
    let source = if inner.sees(&["SUBSCRIBE"]) {
        let subscribe = reading::subscribe(&mut inner)?;
        inner.expect_end()?;
        CopySource::Subscribe(subscribe)
    } else {
        CopySource::Query(inner.rest_as_query()?)
    };
    cursor.skip(close - cursor.index());
    Ok(source)
}

#[derive(Default)]
struct CopyOptions {
    kind: Option<CopyKind>,
    header: Option<bool>,
    delimiter: Option<String>,
    null: Option<String>,
    quote: Option<String>,
    escape: Option<String>,
    force_quote: Option<ForceQuote>,
}

impl CopyOptions {
    fn finish(self) -> Result<CopyFormat> {
        let mut format = CopyFormat::new(self.kind.unwrap_or(CopyKind::Text));
        let csv_only = self.quote.is_some() || self.escape.is_some() || self.force_quote.is_some();
        if csv_only && format.kind != CopyKind::Csv {
            return Err(Error::user(
                SqlState::FEATURE_NOT_SUPPORTED,
                "COPY QUOTE, ESCAPE and FORCE_QUOTE require CSV mode",
            ));
        }
        let text_only = self.header == Some(true) || self.delimiter.is_some() || self.null.is_some();
        if text_only && format.kind == CopyKind::Binary {
            return Err(Error::user(
                SqlState::SYNTAX_ERROR,
                "cannot specify DELIMITER, NULL or HEADER in BINARY mode",
            ));
        }
        format.header = self.header.unwrap_or(false);
        if let Some(text) = self.delimiter {
            format.delimiter = single("delimiter", &text)?;
        }
        if let Some(null) = self.null {
            format.null = null;
        }
        if let Some(text) = self.quote {
            format.quote = single("quote", &text)?;
            format.escape = format.quote;
        }
        if let Some(text) = self.escape {
            format.escape = single("escape", &text)?;
        }
        if let Some(force) = self.force_quote {
            format.force_quote = force;
        }
        Ok(format)
    }
}

fn single(what: &str, text: &str) -> Result<char> {
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) if character.is_ascii() && character != '\n' && character != '\r' => Ok(character),
        _ => Err(Error::user(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("COPY {what} must be a single one-byte character"),
        )),
    }
}

fn kind(word: &str) -> Option<CopyKind> {
    match word.to_lowercase().as_str() {
        "text" => Some(CopyKind::Text),
        "csv" => Some(CopyKind::Csv),
        "binary" => Some(CopyKind::Binary),
        _ => None,
    }
}

fn option_list(cursor: &mut Cursor<'_>, copy: &mut CopyOptions) -> Result<()> {
    cursor.expect_token(&Token::LParen)?;
    loop {
        let at = cursor.index();
        let name = cursor.any_word("an option of COPY")?;
        match name.as_str() {
            "format" => {
                let word = value(cursor)?;
                let message = format!("COPY format \"{word}\" not recognized");
                copy.kind = Some(kind(&word).ok_or_else(|| Error::user(SqlState::INVALID_PARAMETER_VALUE, message))?);
            }
            "header" => copy.header = Some(optional_boolean(cursor)?),
            "delimiter" => copy.delimiter = Some(cursor.string()?),
            "null" => copy.null = Some(cursor.string()?),
            "quote" => copy.quote = Some(cursor.string()?),
            "escape" => copy.escape = Some(cursor.string()?),
            "force_quote" => copy.force_quote = Some(force_quote(cursor)?),
            "encoding" => check_encoding(&cursor.string()?)?,
            "freeze" => drop(optional_boolean(cursor)?),
            "oids" => {
                optional_boolean(cursor)?;
            }
            "force_not_null" | "force_null" => drop(force_quote(cursor)?),
            "default" | "on_error" | "log_verbosity" => {
                return Err(Error::not_supported(format!("COPY option \"{name}\""), "Leave it out."));
            }
            _ => return Err(cursor.error_at(at, &format!("option \"{name}\" not recognized"), None)),
        }
        if cursor.take_token(&Token::Comma) {
            continue;
        }
        return cursor.expect_token(&Token::RParen);
    }
}

fn value(cursor: &mut Cursor<'_>) -> Result<String> {
    match options::value(cursor)? {
        RawOptionValue::Text(text) => Ok(text),
        RawOptionValue::Secret(_) => Err(cursor.unexpected("a value")),
    }
}

fn optional_boolean(cursor: &mut Cursor<'_>) -> Result<bool> {
    if matches!(cursor.peek(), Some(Token::Comma | Token::RParen) | None) {
        return Ok(true);
    }
    let text = value(cursor)?;
    if text.eq_ignore_ascii_case("match") {
        return Ok(true);
    }
    boolean_word(&text).ok_or_else(|| cursor.unexpected("true or false"))
}

fn force_quote(cursor: &mut Cursor<'_>) -> Result<ForceQuote> {
    if cursor.take_token(&Token::Mul) {
        return Ok(ForceQuote::All);
    }
    cursor.name_list().map(ForceQuote::Columns)
}

fn check_encoding(name: &str) -> Result<()> {
    let plain: String = name
        .to_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    if ["utf8", "unicode", "sqlascii"].contains(&plain.as_str()) {
        return Ok(());
    }
    Err(Error::not_supported(
        format!("the encoding \"{name}\""),
        "All text is UTF8.",
    ))
}

/// `CSV HEADER DELIMITER ',' NULL '' QUOTE '"' ESCAPE '"' FORCE QUOTE a, b`.
fn legacy_option(cursor: &mut Cursor<'_>, copy: &mut CopyOptions) -> Result<bool> {
    if cursor.take(&["CSV"]) {
        copy.kind = Some(CopyKind::Csv);
    } else if cursor.take(&["BINARY"]) {
        copy.kind = Some(CopyKind::Binary);
    } else if cursor.take(&["HEADER"]) {
        copy.header = Some(true);
    } else if cursor.take(&["DELIMITER"]) || cursor.take(&["DELIMITERS"]) {
        cursor.take(&["AS"]);
        copy.delimiter = Some(cursor.string()?);
    } else if cursor.take(&["NULL"]) {
        cursor.take(&["AS"]);
        copy.null = Some(cursor.string()?);
    } else if cursor.take(&["QUOTE"]) {
        cursor.take(&["AS"]);
        copy.quote = Some(cursor.string()?);
    } else if cursor.take(&["ESCAPE"]) {
        cursor.take(&["AS"]);
        copy.escape = Some(cursor.string()?);
    } else if cursor.take(&["ENCODING"]) {
        check_encoding(&cursor.string()?)?;
    } else if cursor.take(&["FORCE", "QUOTE"]) {
        copy.force_quote = Some(if cursor.take_token(&Token::Mul) {
            ForceQuote::All
        } else {
            let mut names = vec![cursor.name()?];
            while cursor.take_token(&Token::Comma) {
                names.push(cursor.name()?);
            }
            ForceQuote::Columns(names)
        });
    } else {
        return Ok(false);
    }
    Ok(true)
}
