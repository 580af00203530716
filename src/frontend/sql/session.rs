//! Statements of a session: settings, prepared statements, cursors.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::frontend::error::{Error, Result};
use crate::frontend::sql::create_table::type_text;
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::options;
use crate::frontend::sql::reading;
use crate::frontend::sql::statement::{
    Declare, DeclareSource, DiscardKind, Fetch, ParsedStatement, Prepare, Set, SetScope, Statement,
};
use crate::frontend::sql::tokens::characters_before;
use crate::options::RawOptionValue;

/// All spellings of SET.
pub fn set(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["SET"])?;
    if cursor.take(&["CONSTRAINTS"]) {
        cursor.skip(cursor.count());
        return Ok(Statement::Accepted {
            tag: "SET CONSTRAINTS",
            notice: None,
        });
    }
    if cursor.take(&["SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"]) {
        return transaction_modes(cursor, "default_transaction_");
    }
    if cursor.take(&["TRANSACTION"]) {
        return transaction_modes(cursor, "transaction_");
    }
    if cursor.take(&["SESSION", "AUTHORIZATION"]) {
        return role(cursor, "session_authorization");
    }
    let scope = if cursor.take(&["LOCAL"]) {
        SetScope::Local
    } else {
        cursor.take(&["SESSION"]);
        SetScope::Session
    };
    if cursor.take(&["TIME", "ZONE"]) {
        let value = match cursor.take(&["LOCAL"]) || cursor.take(&["DEFAULT"]) {
            true => None,
            false => Some(setting_value(cursor)?),
        };
        return Ok(set_to(scope, "timezone", value));
    }
    if cursor.take(&["NAMES"]) {
        let value = match cursor.at_end() || cursor.take(&["DEFAULT"]) {
            true => None,
            false => Some(setting_value(cursor)?),
        };
        return Ok(set_to(scope, "client_encoding", value));
    }
    if cursor.take(&["ROLE"]) {
        return role(cursor, "role");
    }
    let name = setting_name(cursor)?;
    if !cursor.take_token(&Token::Eq) && !cursor.take(&["TO"]) {
        return Err(cursor.unexpected("TO or \"=\""));
    }
    let value = match cursor.take(&["DEFAULT"]) {
        true => None,
        false => Some(setting_value(cursor)?),
    };
    Ok(set_to(scope, &name, value))
}

fn set_to(scope: SetScope, name: &str, value: Option<String>) -> Statement {
    Statement::Set(Set {
        scope,
        name: name.to_owned(),
        value,
    })
}

fn role(cursor: &mut Cursor<'_>, setting: &str) -> Result<Statement> {
    cursor.take_token(&Token::Eq);
    cursor.take(&["TO"]);
    let value = match cursor.take(&["DEFAULT"]) || cursor.take(&["NONE"]) {
        true => None,
        false => Some(setting_value(cursor)?),
    };
    Ok(set_to(SetScope::Session, setting, value))
}

/// `ISOLATION LEVEL x`, `READ ONLY`, `READ WRITE`, `[NOT] DEFERRABLE`, with commas between or not; the last one decides
/// which setting it is.
fn transaction_modes(cursor: &mut Cursor<'_>, prefix: &str) -> Result<Statement> {
    let mut last = None;
    while let Some((name, value)) = transaction_mode(cursor)? {
        last = Some((name, value));
        cursor.take_token(&Token::Comma);
    }
    let Some((name, value)) = last else {
        return Err(cursor.unexpected("ISOLATION LEVEL, READ ONLY or READ WRITE"));
    };
    Ok(set_to(SetScope::Session, &format!("{prefix}{name}"), Some(value)))
}

/// One transaction mode, as a setting's name without its prefix and a value.
pub fn transaction_mode(cursor: &mut Cursor<'_>) -> Result<Option<(&'static str, String)>> {
    if cursor.take(&["ISOLATION", "LEVEL"]) {
        for (words, level) in [
            (&["SERIALIZABLE"][..], "serializable"),
            (&["REPEATABLE", "READ"][..], "repeatable read"),
            (&["READ", "COMMITTED"][..], "read committed"),
            (&["READ", "UNCOMMITTED"][..], "read uncommitted"),
        ] {
            if cursor.take(words) {
                return Ok(Some(("isolation", level.to_owned())));
            }
        }
        return Err(cursor.unexpected("an isolation level"));
    }
    if cursor.take(&["READ", "ONLY"]) {
        return Ok(Some(("read_only", "on".to_owned())));
    }
    if cursor.take(&["READ", "WRITE"]) {
        return Ok(Some(("read_only", "off".to_owned())));
    }
    if cursor.take(&["NOT", "DEFERRABLE"]) {
        return Ok(Some(("deferrable", "off".to_owned())));
    }
    if cursor.take(&["DEFERRABLE"]) {
        return Ok(Some(("deferrable", "on".to_owned())));
    }
    Ok(None)
}

/// Lower case, dotted names too.
fn setting_name(cursor: &mut Cursor<'_>) -> Result<String> {
    let mut name = cursor.any_word("a configuration parameter")?.to_lowercase();
    while cursor.take_token(&Token::Period) {
        name.push('.');
        name.push_str(&cursor.any_word("a configuration parameter")?.to_lowercase());
    }
    Ok(name)
}

/// Values with commas between are one value with `, ` between, as SHOW prints search_path.
fn setting_value(cursor: &mut Cursor<'_>) -> Result<String> {
    let mut value = one_setting_value(cursor)?;
    while cursor.take_token(&Token::Comma) {
        value.push_str(", ");
        value.push_str(&one_setting_value(cursor)?);
    }
    Ok(value)
}

fn one_setting_value(cursor: &mut Cursor<'_>) -> Result<String> {
    if cursor.take_token(&Token::Plus) {
        return one_setting_value(cursor);
    }
    let quoted = match cursor.peek() {
        Some(Token::Word(word)) if word.quote_style.is_some() => Some(word.value.clone()),
        _ => None,
    };
    if let Some(name) = quoted {
        cursor.skip(1);
        return Ok(super::identifier::quote(&name));
    }
    if cursor.sees(&["INTERVAL"]) {
        return interval(cursor);
    }
    match options::value(cursor)? {
        RawOptionValue::Text(text) => Ok(text),
        RawOptionValue::Secret(_) => Err(cursor.unexpected("a value")),
    }
}

/// `INTERVAL '+00:00' HOUR TO MINUTE`, `INTERVAL '1' HOUR`: the text, with the unit when the text has none.
fn interval(cursor: &mut Cursor<'_>) -> Result<String> {
    cursor.expect(&["INTERVAL"])?;
    let text = cursor.string()?;
    let unit_at = cursor.index();
    while ["YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "TO"]
        .iter()
        .any(|word| cursor.take(&[word]))
    {}
    let unit = cursor.text_from(unit_at);
    let bare_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    Ok(if bare_number && !unit.is_empty() {
        format!("{text} {}", unit.to_lowercase())
    } else {
        text
    })
}

/// What `SHOW` reads when it lists nothing.
pub fn show_setting(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take(&["ALL"]) {
        return Ok(Statement::ShowAllSettings);
    }
    let name = setting_words(cursor)?;
    Ok(Statement::ShowSetting { name })
}

/// A setting's name in SHOW and RESET, where some are several words.
fn setting_words(cursor: &mut Cursor<'_>) -> Result<String> {
    for (words, name) in [
        (&["TRANSACTION", "ISOLATION", "LEVEL"][..], "transaction_isolation"),
        (&["TIME", "ZONE"][..], "timezone"),
        (&["SESSION", "AUTHORIZATION"][..], "session_authorization"),
    ] {
        if cursor.take(words) {
            return Ok(name.to_owned());
        }
    }
    setting_name(cursor)
}

pub fn reset(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["RESET"])?;
    if cursor.take(&["ALL"]) {
        return Ok(Statement::Reset { name: None });
    }
    Ok(Statement::Reset {
        name: Some(setting_words(cursor)?),
    })
}

pub fn discard(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["DISCARD"])?;
    let what = match cursor.take_one_of(&["ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY"]) {
        Some("ALL") => DiscardKind::All,
        Some("PLANS") => DiscardKind::Plans,
        Some("SEQUENCES") => DiscardKind::Sequences,
        Some(_) => DiscardKind::Temporary,
        None => return Err(cursor.unexpected("ALL, PLANS, SEQUENCES or TEMP")),
    };
    Ok(Statement::Discard { what })
}

/// `PREPARE name [(type, ..)] AS statement`.
pub fn prepare(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["PREPARE"])?;
    let name = cursor.name()?;
    let mut types = Vec::new();
    if cursor.take_token(&Token::LParen) {
        types.push(type_text(cursor)?);
        while cursor.take_token(&Token::Comma) {
            types.push(type_text(cursor)?);
        }
        cursor.expect_token(&Token::RParen)?;
    }
    cursor.expect(&["AS"])?;
    let start = cursor.index();
    let mut inner = cursor.part(start..cursor.count());
    let statement = super::parse_statement(&mut inner)?;
    inner.expect_end()?;
    cursor.skip(cursor.count() - start);
    let source = cursor.shared_source();
    let text = cursor.text_from(start).to_owned();
    // The text is a slice of the source: where it begins is where it stands.
    let offset = cursor.byte_of(start).map_or(0, |byte| characters_before(&source, byte));
    let statement = ParsedStatement {
        statement,
        text,
        offset,
        source,
    };
    Ok(Statement::Prepare(Box::new(Prepare { name, types, statement })))
}

/// `EXECUTE name [(expression, ..)]`.
pub fn execute(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["EXECUTE"])?;
    let name = cursor.name()?;
    let mut arguments = Vec::new();
    if cursor.take_token(&Token::LParen) && !cursor.take_token(&Token::RParen) {
        arguments.push(cursor.expression()?);
        while cursor.take_token(&Token::Comma) {
            arguments.push(cursor.expression()?);
        }
        cursor.expect_token(&Token::RParen)?;
    }
    Ok(Statement::Execute { name, arguments })
}

pub fn deallocate(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["DEALLOCATE"])?;
    cursor.take(&["PREPARE"]);
    let name = match cursor.take(&["ALL"]) {
        true => None,
        false => Some(cursor.name()?),
    };
    Ok(Statement::Deallocate { name })
}

/// `DECLARE name [BINARY] [INSENSITIVE] [[NO] SCROLL] CURSOR [WITH[OUT] HOLD] FOR query | SUBSCRIBE ..`.
pub fn declare(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["DECLARE"])?;
    let name = cursor.name()?;
    let mut binary = false;
    loop {
        if cursor.take(&["BINARY"]) {
            binary = true;
        } else if cursor.take(&["INSENSITIVE"]) || cursor.take(&["ASENSITIVE"]) || cursor.take(&["NO", "SCROLL"]) {
        } else if cursor.sees(&["SCROLL"]) {
            return Err(Error::not_supported(
                "a SCROLL cursor",
                "Cursors go forward; leave the word out.",
            ));
        } else {
            break;
        }
    }
    cursor.expect(&["CURSOR"])?;
    let hold = cursor.take(&["WITH", "HOLD"]);
    let _ = !hold && cursor.take(&["WITHOUT", "HOLD"]);
    cursor.expect(&["FOR"])?;
    let source = match cursor.sees(&["SUBSCRIBE"]) {
        true => DeclareSource::Subscribe(reading::subscribe(cursor)?),
        false => DeclareSource::Query(cursor.rest_as_query()?),
    };
    Ok(Statement::Declare(Box::new(Declare {
        name,
        binary,
        hold,
        source,
    })))
}

/// `FETCH | MOVE [NEXT | FORWARD [n | ALL] | n | ALL] [FROM | IN] cursor [WITH (timeout = '1 s')]`.
pub fn fetch(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let discard = cursor.take(&["MOVE"]);
    if !discard {
        cursor.expect(&["FETCH"])?;
    }
    for backward in ["PRIOR", "BACKWARD", "LAST", "FIRST", "ABSOLUTE", "RELATIVE"] {
        if cursor.sees(&[backward]) && cursor.count() > cursor.index() + 1 {
            return Err(Error::not_supported(
                format!("FETCH {backward}"),
                "Cursors go forward: FETCH n FROM cursor.",
            ));
        }
    }
    let more_follows = |cursor: &Cursor<'_>| cursor.count() > cursor.index() + 1;
    let mut rows = Some(1);
    if more_follows(cursor) && cursor.take(&["NEXT"]) {
    } else if (more_follows(cursor) && cursor.take(&["FORWARD"]))
        || matches!(cursor.peek(), Some(Token::Number(..)))
        || cursor.sees(&["ALL"])
    {
        if cursor.take(&["ALL"]) {
            rows = None;
        } else if matches!(cursor.peek(), Some(Token::Number(..))) {
            rows = Some(cursor.integer()?);
        }
    }
    let _ = cursor.take(&["FROM"]) || cursor.take(&["IN"]);
    let name = cursor.name()?;
    let mut timeout = None;
    if cursor.take(&["WITH"]) {
        let options = options::list(cursor)?;
        timeout = options.text("timeout").map(str::to_owned);
        if timeout.is_none() || options.0.len() != 1 {
            return Err(cursor.unexpected("timeout"));
        }
    }
    Ok(Statement::Fetch(Fetch {
        cursor: name,
        rows,
        timeout,
        discard,
    }))
}

pub fn close(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CLOSE"])?;
    let name = match cursor.take(&["ALL"]) {
        true => None,
        false => Some(cursor.name()?),
    };
    Ok(Statement::Close { name })
}
