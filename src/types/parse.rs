//! Reads a type as SQL spells it: Postgres's names and their aliases, `T[]` and `ARRAY<T>`, `STRUCT<name T, ..>` with and
//! without colon, `MAP<K, V>`, unsigned integers.
//!
//! Guarantee: what is not a supported type is an error that says what to use; nothing is guessed.
//! Not kept: the precision of TIME, TIMESTAMP and INTERVAL (always microseconds) and the fields of INTERVAL.

use super::{NUMERIC_DEFAULT_PRECISION, NUMERIC_DEFAULT_SCALE, NUMERIC_MAX_PRECISION, SqlType};
use crate::error::{ErrorReport, SqlState, nearest};

/// Nesting deeper than this is refused, so that no text can exhaust the stack.
const NESTING_MAX: usize = 32;

/// The type that `text` spells.
pub fn parse(text: &str) -> Result<SqlType, ErrorReport> {
    let tokens = tokenize(text)?;
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
        depth: 0,
    };
    let parsed = parser.sql_type()?;
    match parser.peek() {
        None => Ok(parsed),
        Some(_) => Err(parser.syntax_error()),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// Unquoted, in lower case.
    Word(String),
    Quoted(String),
    Number(u64),
    Symbol(char),
}

fn tokenize(text: &str) -> Result<Vec<Token>, ErrorReport> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, character)) = rest.next() {
        match character {
            c if c.is_whitespace() => {}
            '"' => tokens.push(Token::Quoted(quoted(text, &mut rest)?)),
            c if c.is_ascii_digit() => {
                let mut end = start + 1;
                while rest.next_if(|(_, c)| c.is_ascii_digit()).is_some() {
                    end += 1;
                }
                let number = text[start..end]
                    .parse()
                    .map_err(|_| syntax_error(text, &text[start..end]))?;
                tokens.push(Token::Number(number));
            }
            c if c.is_alphabetic() || c == '_' => {
                let mut word = c.to_lowercase().to_string();
                while let Some((_, c)) = rest.next_if(|(_, c)| c.is_alphanumeric() || *c == '_' || *c == '$') {
                    word.extend(c.to_lowercase());
                }
                tokens.push(Token::Word(word));
            }
            '(' | ')' | '<' | '>' | '[' | ']' | ',' | ':' | '.' | '-' => tokens.push(Token::Symbol(character)),
            other => return Err(syntax_error(text, &other.to_string())),
        }
    }
    Ok(tokens)
}

fn quoted(text: &str, rest: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Result<String, ErrorReport> {
    let mut name = String::new();
    while let Some((_, character)) = rest.next() {
        if character != '"' {
            name.push(character);
        } else if rest.next_if(|(_, c)| *c == '"').is_some() {
            name.push('"');
        } else {
            return Ok(name);
        }
    }
    Err(ErrorReport::new(
        SqlState::SYNTAX_ERROR,
        format!("unterminated quoted identifier in type {text}"),
    ))
}

fn syntax_error(text: &str, near: &str) -> ErrorReport {
    ErrorReport::new(
        SqlState::SYNTAX_ERROR,
        format!("syntax error at or near \"{near}\" in type {text}"),
    )
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn next_if_word(&mut self, expected: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word == expected);
        self.at += usize::from(found);
        found
    }

    fn next_if_symbol(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(&Token::Symbol(expected));
        self.at += usize::from(found);
        found
    }

    fn expect_symbol(&mut self, expected: char) -> Result<(), ErrorReport> {
        if self.next_if_symbol(expected) {
            Ok(())
        } else {
            Err(self.syntax_error())
        }
    }

    fn syntax_error(&self) -> ErrorReport {
        match self.peek() {
            None => ErrorReport::new(
                SqlState::SYNTAX_ERROR,
                format!("syntax error at end of type \"{}\"", self.text),
            ),
            Some(token) => {
                let near = match token {
                    Token::Word(word) | Token::Quoted(word) => word.clone(),
                    Token::Number(number) => number.to_string(),
                    Token::Symbol(symbol) => symbol.to_string(),
                };
                syntax_error(self.text, &near)
            }
        }
    }

    fn sql_type(&mut self) -> Result<SqlType, ErrorReport> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(ErrorReport::new(
                SqlState::STATEMENT_TOO_COMPLEX,
                format!("types can be nested at most {NESTING_MAX} deep"),
            ));
        }
        let mut parsed = self.base()?;
        let mut dimensions = self.depth;
        loop {
            let array = if self.next_if_symbol('[') {
                self.array_size()?;
                true
            } else if self.next_if_word("array") {
                if self.next_if_symbol('[') {
                    self.array_size()?;
                }
                true
            } else {
                false
            };
            if !array {
                break;
            }
            dimensions += 1;
            if dimensions > NESTING_MAX {
                return Err(self.syntax_error());
            }
            parsed = SqlType::Array(Box::new(parsed));
        }
        self.depth -= 1;
        Ok(parsed)
    }

    /// Postgres accepts a size and ignores it.
    fn array_size(&mut self) -> Result<(), ErrorReport> {
        if let Some(Token::Number(_)) = self.peek() {
            self.at += 1;
        }
        self.expect_symbol(']')
    }

    fn base(&mut self) -> Result<SqlType, ErrorReport> {
        let word = match self.next() {
            Some(Token::Word(word)) => word,
            Some(Token::Quoted(name)) if name == "char" => return Ok(SqlType::SystemChar),
            Some(Token::Quoted(name)) => name,
            _ => {
                self.at -= 1;
                return Err(self.syntax_error());
            }
        };
        if word == "pg_catalog" && self.next_if_symbol('.') {
            return self.base();
        }
        if word == "unsigned" {
            let signed = self.base()?;
            return unsigned(signed).ok_or_else(|| self.syntax_error());
        }
        if let Some(integer) = integer(&word) {
            let is_unsigned = self.next_if_word("unsigned");
            return Ok(if is_unsigned {
                unsigned(integer.clone()).unwrap_or(integer)
            } else {
                integer
            });
        }
        if let Some(simple) = simple(&word) {
            return Ok(simple);
        }
        self.with_arguments(&word)
    }

    /// Types whose name is followed by something.
    fn with_arguments(&mut self, word: &str) -> Result<SqlType, ErrorReport> {
        match word {
            "double" => {
                self.next_if_word("precision");
                Ok(SqlType::Double)
            }
            "float" => self.float(),
            "numeric" | "decimal" | "dec" => self.numeric(),
            "varchar" | "nvarchar" => Ok(SqlType::Varchar(self.length()?)),
            "char" | "character" | "nchar" | "bpchar" => {
                let varying = self.next_if_word("varying");
                let length = self.length()?;
                Ok(if varying {
                    SqlType::Varchar(length)
                } else {
                    SqlType::Char(length)
                })
            }
            "text" | "string" => {
                self.length()?;
                Ok(SqlType::Text)
            }
            "bytea" | "bytes" | "blob" | "varbinary" | "binary" => {
                self.next_if_word("varying");
                self.length()?;
                Ok(SqlType::Bytea)
            }
            "time" => self.time(),
            "timestamp" => self.timestamp(),
            "timestamptz" => {
                self.precision()?;
                Ok(SqlType::TimestampTz)
            }
            "datetime" => {
                self.precision()?;
                Ok(SqlType::Timestamp)
            }
            "interval" => self.interval(),
            "array" | "list" => {
                let close = self.open()?;
                let element = self.sql_type()?;
                self.expect_symbol(close)?;
                Ok(SqlType::Array(Box::new(element)))
            }
            "struct" | "row" => self.structure(),
            "map" => {
                let close = self.open()?;
                let key = self.sql_type()?;
                self.expect_symbol(',')?;
                let value = self.sql_type()?;
                self.expect_symbol(close)?;
                Ok(SqlType::Map(Box::new(key), Box::new(value)))
            }
            unknown => Err(unknown_type(unknown)),
        }
    }

    /// `<` or `(`; gives what closes it.
    fn open(&mut self) -> Result<char, ErrorReport> {
        if self.next_if_symbol('<') {
            Ok('>')
        } else {
            self.expect_symbol('(').map(|()| ')')
        }
    }

    fn structure(&mut self) -> Result<SqlType, ErrorReport> {
        let close = self.open()?;
        let mut fields: Vec<(String, SqlType)> = Vec::new();
        loop {
            let name = match self.next() {
                Some(Token::Word(name) | Token::Quoted(name)) => name,
                _ => {
                    self.at -= 1;
                    return Err(self.syntax_error());
                }
            };
            self.next_if_symbol(':');
            let of = self.sql_type()?;
            if self.next_if_word("not") && !self.next_if_word("null") {
                return Err(self.syntax_error());
            }
            fields.push((name, of));
            if self.next_if_symbol(close) {
                return Ok(SqlType::Struct(fields));
            }
            self.expect_symbol(',')?;
        }
    }

    fn length(&mut self) -> Result<Option<u32>, ErrorReport> {
        let Some(length) = self.one_number()? else {
            return Ok(None);
        };
        match u32::try_from(length) {
            Ok(length @ 1..=10_485_760) => Ok(Some(length)),
            _ => Err(ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("length {length} must be between 1 and 10485760"),
            )),
        }
    }

    /// `(n)`, when there is one.
    fn one_number(&mut self) -> Result<Option<u64>, ErrorReport> {
        if !self.next_if_symbol('(') {
            return Ok(None);
        }
        let Some(Token::Number(number)) = self.next() else {
            self.at -= 1;
            return Err(self.syntax_error());
        };
        self.expect_symbol(')')?;
        Ok(Some(number))
    }

    fn precision(&mut self) -> Result<(), ErrorReport> {
        match self.one_number()? {
            None | Some(0..=9) => Ok(()),
            Some(other) => Err(ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("precision {other} must be between 0 and 9"),
            )),
        }
    }

    fn float(&mut self) -> Result<SqlType, ErrorReport> {
        match self.one_number()? {
            Some(1..=24) => Ok(SqlType::Real),
            None | Some(25..=53) => Ok(SqlType::Double),
            Some(other) => Err(ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("precision for type float must be between 1 and 53, not {other}"),
            )),
        }
    }

    fn numeric(&mut self) -> Result<SqlType, ErrorReport> {
        if !self.next_if_symbol('(') {
            return Ok(SqlType::Numeric {
                precision: NUMERIC_DEFAULT_PRECISION,
                scale: NUMERIC_DEFAULT_SCALE,
            });
        }
        let Some(Token::Number(precision)) = self.next() else {
            self.at -= 1;
            return Err(self.syntax_error());
        };
        let mut scale = 0;
        if self.next_if_symbol(',') {
            let negative = self.next_if_symbol('-');
            let Some(Token::Number(number)) = self.next() else {
                self.at -= 1;
                return Err(self.syntax_error());
            };
            if negative && number != 0 {
                return Err(ErrorReport::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "a negative NUMERIC scale is not supported",
                )
                .with_hint("Use scale 0."));
            }
            scale = number;
        }
        self.expect_symbol(')')?;
        numeric_type(precision, scale)
    }

    fn time(&mut self) -> Result<SqlType, ErrorReport> {
        self.precision()?;
        if self.time_zone()? == Some(true) {
            return Err(unknown_type("timetz"));
        }
        Ok(SqlType::Time)
    }

    fn timestamp(&mut self) -> Result<SqlType, ErrorReport> {
        self.precision()?;
        Ok(match self.time_zone()? {
            Some(true) => SqlType::TimestampTz,
            Some(false) | None => SqlType::Timestamp,
        })
    }

    /// `WITH TIME ZONE` and the like; `Some(true)` for WITH.
    fn time_zone(&mut self) -> Result<Option<bool>, ErrorReport> {
        let with = if self.next_if_word("with") {
            self.next_if_word("local");
            true
        } else if self.next_if_word("without") {
            false
        } else {
            return Ok(None);
        };
        if self.next_if_word("time") && self.next_if_word("zone") {
            Ok(Some(with))
        } else {
            Err(self.syntax_error())
        }
    }

    fn interval(&mut self) -> Result<SqlType, ErrorReport> {
        const FIELDS: [&str; 6] = ["year", "month", "day", "hour", "minute", "second"];
        self.precision()?;
        if FIELDS.iter().any(|field| self.next_if_word(field)) {
            self.precision()?;
            if self.next_if_word("to") {
                if !FIELDS.iter().any(|field| self.next_if_word(field)) {
                    return Err(self.syntax_error());
                }
                self.precision()?;
            }
        }
        Ok(SqlType::Interval)
    }
}

fn numeric_type(precision: u64, scale: u64) -> Result<SqlType, ErrorReport> {
    if precision > u64::from(NUMERIC_MAX_PRECISION) && precision <= 1000 {
        return Err(ErrorReport::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("NUMERIC precision {precision} is not supported"),
        )
        .with_hint(format!("The largest precision is {NUMERIC_MAX_PRECISION}.")));
    }
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(digits @ 1..=NUMERIC_MAX_PRECISION), Ok(scale_digits)) if scale <= precision => Ok(SqlType::Numeric {
            precision: digits,
            scale: scale_digits,
        }),
        (Ok(1..=NUMERIC_MAX_PRECISION), _) => Err(ErrorReport::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("NUMERIC scale {scale} must be between 0 and precision {precision}"),
        )),
        _ => Err(ErrorReport::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("NUMERIC precision {precision} must be between 1 and {NUMERIC_MAX_PRECISION}"),
        )),
    }
}

fn integer(word: &str) -> Option<SqlType> {
    Some(match word {
        "tinyint" | "int1" => SqlType::TinyInt,
        "smallint" | "int2" => SqlType::SmallInt,
        "int" | "integer" | "int4" => SqlType::Int,
        "bigint" | "int8" => SqlType::BigInt,
        _ => return None,
    })
}

fn unsigned(of: SqlType) -> Option<SqlType> {
    Some(match of {
        SqlType::TinyInt => SqlType::UnsignedTinyInt,
        SqlType::SmallInt => SqlType::UnsignedSmallInt,
        SqlType::Int => SqlType::UnsignedInt,
        SqlType::BigInt => SqlType::UnsignedBigInt,
        _ => return None,
    })
}

/// Types that are one word.
fn simple(word: &str) -> Option<SqlType> {
    Some(match word {
        "boolean" | "bool" => SqlType::Boolean,
        "real" | "float4" => SqlType::Real,
        "float8" => SqlType::Double,
        "date" => SqlType::Date,
        "uuid" => SqlType::Uuid,
        "json" => SqlType::Json,
        "jsonb" => SqlType::Jsonb,
        "oid" => SqlType::Oid,
        "name" => SqlType::Name,
        _ => return None,
    })
}

/// Known but unsupported types say what to use; the others get the nearest name.
fn unknown_type(name: &str) -> ErrorReport {
    let instead = match name {
        "serial" | "serial4" | "bigserial" | "serial8" | "smallserial" | "serial2" => Some("BIGINT"),
        "timetz" => Some("TIME, or TIMESTAMPTZ when the zone matters"),
        "money" => Some("NUMERIC(19,2)"),
        "xml" | "tsvector" | "tsquery" | "citext" | "inet" | "cidr" | "macaddr" | "bit" | "varbit" | "enum" => {
            Some("TEXT")
        }
        "hstore" => Some("MAP<TEXT, TEXT>"),
        "point" | "line" | "box" | "path" | "polygon" | "circle" | "geometry" | "geography" => {
            Some("STRUCT<x DOUBLE, y DOUBLE> or TEXT")
        }
        "uint8" | "uint16" | "uint32" | "uint64" => Some("TINYINT, SMALLINT, INT or BIGINT UNSIGNED"),
        _ => None,
    };
    if let Some(instead) = instead {
        return ErrorReport::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("type \"{name}\" is not supported"),
        )
        .with_hint(format!("Use {instead}."));
    }
    let report = ErrorReport::new(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"));
    match nearest(name, NAMES.iter().copied()) {
        Some(near) => report.with_hint(format!("Perhaps you meant the type \"{near}\".")),
        None => report,
    }
}

/// For hints.
const NAMES: &[&str] = &[
    "boolean",
    "tinyint",
    "smallint",
    "int",
    "integer",
    "bigint",
    "real",
    "double",
    "float",
    "numeric",
    "decimal",
    "text",
    "varchar",
    "char",
    "string",
    "bytea",
    "binary",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "jsonb",
    "array",
    "struct",
    "map",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str, canonical: &str) {
        assert_eq!(parse(text).unwrap().to_sql(), canonical, "{text}");
    }

    #[test]
    fn scalar_spellings() {
        check("bool", "BOOLEAN");
        check("TinyInt", "TINYINT");
        check("int2", "SMALLINT");
        check("INTEGER", "INT");
        check("pg_catalog.int8", "BIGINT");
        check("int unsigned", "INT UNSIGNED");
        check("UNSIGNED BIGINT", "BIGINT UNSIGNED");
        check("float", "DOUBLE PRECISION");
        check("float(24)", "REAL");
        check("double", "DOUBLE PRECISION");
        check("double precision", "DOUBLE PRECISION");
        check("decimal(10, 2)", "NUMERIC(10,2)");
        check("numeric(5)", "NUMERIC(5,0)");
        check("NUMERIC", "NUMERIC(38,9)");
        check("character varying(20)", "VARCHAR(20)");
        check("char(3)", "CHAR(3)");
        check("\"char\"", "\"char\"");
        check("string", "TEXT");
        check("varbinary(10)", "BYTEA");
        check("timestamp(3) with time zone", "TIMESTAMPTZ");
        check("timestamp without time zone", "TIMESTAMP");
        check("time(6)", "TIME");
        check("interval day to second(3)", "INTERVAL");
    }

    #[test]
    fn nested_spellings() {
        check("int[]", "INT[]");
        check("int[3][]", "INT[][]");
        check("int array", "INT[]");
        check("ARRAY<STRUCT<a INT, b: TEXT>>", "STRUCT<a INT, b TEXT>[]");
        check(
            "struct<\"Mixed Case\" int, \"a\"\"b\" text[]>",
            "STRUCT<\"Mixed Case\" INT, \"a\"\"b\" TEXT[]>",
        );
        check("map<text, map<text,int>>", "MAP<TEXT, MAP<TEXT, INT>>");
        check("STRUCT(a INT NOT NULL)", "STRUCT<a INT>");
        check("STRUCT<Name TEXT>", "STRUCT<name TEXT>");
    }

    fn check_error(text: &str, code: SqlState, message: &str) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.code, code, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
    }

    #[test]
    fn wrong_types_say_why() {
        check_error("", SqlState::SYNTAX_ERROR, "end of type");
        check_error("int int", SqlState::SYNTAX_ERROR, "near \"int\"");
        check_error("numeric(39,2)", SqlState::FEATURE_NOT_SUPPORTED, "precision 39");
        check_error("numeric(5,6)", SqlState::INVALID_PARAMETER_VALUE, "scale 6");
        check_error("varchar(0)", SqlState::INVALID_PARAMETER_VALUE, "length 0");
        check_error("struct<>", SqlState::SYNTAX_ERROR, "near \">\"");
        check_error("map<text>", SqlState::SYNTAX_ERROR, "near \">\"");
        check_error("serial", SqlState::FEATURE_NOT_SUPPORTED, "serial");
        check_error("\"open", SqlState::SYNTAX_ERROR, "unterminated");
        let deep = format!("{}int{}", "array<".repeat(40), ">".repeat(40));
        check_error(&deep, SqlState::STATEMENT_TOO_COMPLEX, "nested");
        check_error(&format!("int{}", "[]".repeat(40)), SqlState::SYNTAX_ERROR, "near");
    }

    #[test]
    fn misspelt_types_get_the_nearest() {
        let error = parse("varchr").unwrap_err();
        assert_eq!(error.code, SqlState::UNDEFINED_OBJECT);
        assert_eq!(error.hint.unwrap(), "Perhaps you meant the type \"varchar\".");
    }

    #[test]
    fn no_text_makes_it_panic() {
        use proptest::prelude::*;
        proptest!(|(text in "[a-z0-9<>()\\[\\], :.\"é-]{0,40}")| {
            let _ = parse(&text);
        });
    }
}
