//! Text to tokens that know where they stand, and tokens to statements.
//!
//! Splitting happens on tokens, never on text, so that semicolons in strings, quoted names, dollar quotes and nested
//! comments divide nothing. The semicolons of a pipeline's `BEGIN .. END` body do not either.
//!
//! Limits, each with an error of its own (54001): length of the text, nesting, length of one chain of operators. They keep
//! every later recursion over the parsed tree within a thread's stack.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::frontend::error::{Error, Result};
use crate::planner::asof_tokens;
use crate::planner::dialect::{QueryDialect, as_postgres};

/// The longest text of one request.
pub const STATEMENT_BYTES_MAX: usize = 16 << 20;
/// The deepest nesting of parentheses, brackets and CASE.
pub const NESTING_DEPTH_MAX: usize = 128;
/// The most operators in a row without a comma or parenthesis between them.
pub const OPERATOR_CHAIN_MAX: usize = 4000;

/// A token that is neither space nor comment.
#[derive(Clone, Debug)]
pub struct LocatedToken {
    pub token: TokenWithSpan,
    /// Bytes of the source.
    pub start: usize,
    pub end: usize,
}

/// The tokens of a text.
pub struct Tokens<'a> {
    pub source: &'a str,
    pub list: Vec<LocatedToken>,
}

impl<'a> Tokens<'a> {
    pub fn read(source: &'a str) -> Result<Tokens<'a>> {
        if source.len() > STATEMENT_BYTES_MAX {
            return Err(Error::TooComplex {
                what: format!(
                    "statement has {} bytes, the limit is {STATEMENT_BYTES_MAX}",
                    source.len()
                ),
                hint: "Send it in parts.".to_owned(),
            });
        }
        let mut raw = Vec::new();
        let outcome =
            Tokenizer::new(&QueryDialect, source).tokenize_with_location_into_buf_with_mapper(&mut raw, as_postgres);
        let mut places = PlaceReader::new(source);
        if let Err(error) = outcome {
            return Err(lexical_error(source, &error.message, places.byte_at(error.location)));
        }
        asof_tokens::respell(&mut raw);
        let mut list = Vec::with_capacity(raw.len() / 2 + 1);
        for token in raw {
            let start = places.byte_at(token.span.start);
            let end = places.byte_at(token.span.end);
            if matches!(token.token, Token::Whitespace(_)) {
                continue;
            }
            list.push(LocatedToken { token, start, end });
        }
        check_nesting(source, &list)?;
        Ok(Tokens { source, list })
    }

    /// Ranges of tokens, one a statement; empty statements are left out.
    pub fn statements(&self) -> Vec<std::ops::Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = 0;
        while start < self.list.len() {
            let end = self.statement_end(start);
            if end > start {
                ranges.push(start..end);
            }
            start = end + 1;
        }
        ranges
    }

    /// Where the statement that begins at `start` has its semicolon, or the end of the text.
    fn statement_end(&self, start: usize) -> usize {
        let next_semicolon = |from: usize| {
            (from..self.list.len())
                .find(|index| self.list[*index].token.token == Token::SemiColon)
                .unwrap_or(self.list.len())
        };
        let mut end = next_semicolon(start);
        if !self.begins_block_body(start..end) {
            return end;
        }
        // A block ends with END before a semicolon or the end of the text.
        while end < self.list.len() && !self.is_keyword(end - 1, Keyword::END) {
            end = next_semicolon(end + 1);
        }
        end
    }

    /// `CREATE .. PIPELINE .. AS BEGIN`, also after EXPLAIN, and `EXPLAIN REPLACE PIPELINE .. AS BEGIN`.
    fn begins_block_body(&self, range: std::ops::Range<usize>) -> bool {
        let may_have_one = [Keyword::CREATE, Keyword::EXPLAIN];
        let is_pipeline = may_have_one.iter().any(|word| self.is_keyword(range.start, *word))
            && range.clone().take(6).any(|index| self.is_word(index, "PIPELINE"));
        is_pipeline
            && range
                .skip(2)
                .any(|index| self.is_keyword(index - 1, Keyword::AS) && self.is_keyword(index, Keyword::BEGIN))
    }

    fn is_keyword(&self, index: usize, keyword: Keyword) -> bool {
        self.list
            .get(index)
            .is_some_and(|token| matches!(&token.token.token, Token::Word(word) if word.keyword == keyword))
    }

    fn is_word(&self, index: usize, upper: &str) -> bool {
        self.list.get(index).is_some_and(|token| {
            matches!(&token.token.token, Token::Word(word)
                if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(upper))
        })
    }

    /// The exact text of some tokens, with what is between them.
    pub fn text(&self, range: std::ops::Range<usize>) -> &'a str {
        if range.is_empty() {
            return "";
        }
        &self.source[self.list[range.start].start..self.list[range.end - 1].end]
    }
}

/// Characters before byte `byte`.
pub fn characters_before(source: &str, byte: usize) -> usize {
    source[..byte].chars().count()
}

/// Finds bytes for the tokenizer's places, which come in ascending order.
struct PlaceReader<'a> {
    source: &'a str,
    place: Location,
    byte: usize,
}

impl<'a> PlaceReader<'a> {
    fn new(source: &'a str) -> PlaceReader<'a> {
        PlaceReader {
            source,
            place: Location::new(1, 1),
            byte: 0,
        }
    }

    fn byte_at(&mut self, place: Location) -> usize {
        let later = (place.line, place.column) >= (self.place.line, self.place.column);
        if !later {
            (self.place, self.byte) = (Location::new(1, 1), 0);
        }
        for character in self.source[self.byte..].chars() {
            if (self.place.line, self.place.column) >= (place.line, place.column) {
                break;
            }
            self.byte += character.len_utf8();
            if character == '\n' {
                self.place = Location::new(self.place.line + 1, 1);
            } else {
                self.place.column += 1;
            }
        }
        self.byte
    }
}

/// An error of the tokenizer in Postgres's words.
fn lexical_error(source: &str, message: &str, byte: usize) -> Error {
    let lower = message.to_lowercase();
    let what = if lower.contains("comment") {
        "unterminated /* comment"
    } else if lower.contains("dollar") {
        "unterminated dollar-quoted string"
    } else if lower.contains("delimited identifier") || lower.contains("close delimiter") {
        "unterminated quoted identifier"
    } else if lower.contains("unterminated") {
        "unterminated quoted string"
    } else {
        "syntax error"
    };
    let rest: String = source[byte..].chars().take(40).collect();
    let message = if rest.is_empty() {
        format!("{what} at end of input")
    } else {
        format!("{what} at or near \"{rest}\"")
    };
    Error::Syntax {
        message,
        position: characters_before(source, byte) + 1,
        expected: None,
    }
}

/// How deep the tokens nest and how long their operator chains are.
fn check_nesting(source: &str, list: &[LocatedToken]) -> Result<()> {
    let too_complex = |what: &str, limit: usize, token: &LocatedToken| {
        let position = characters_before(source, token.start) + 1;
        Err(Error::TooComplex {
            what: format!("{what} at character {position}, the limit is {limit}"),
            hint: "Write it as smaller views or common table expressions.".to_owned(),
        })
    };
    let mut chains = vec![0_usize];
    for token in list {
        match &token.token.token {
            Token::LParen | Token::LBracket | Token::LBrace => chains.push(0),
            Token::RParen | Token::RBracket | Token::RBrace => drop_level(&mut chains),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::CASE => chains.push(0),
                Keyword::END => drop_level(&mut chains),
                Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT => {
                    count_operator(&mut chains);
                }
                Keyword::JOIN | Keyword::IS => count_operator(&mut chains),
                _ => {}
            },
            Token::Comma | Token::SemiColon => {
                if let Some(chain) = chains.last_mut() {
                    *chain = 0;
                }
            }
            other if is_operator(other) => count_operator(&mut chains),
            _ => {}
        }
        if chains.len() > NESTING_DEPTH_MAX {
            return too_complex("statement nests too deep", NESTING_DEPTH_MAX, token);
        }
        if chains.last().is_some_and(|chain| *chain > OPERATOR_CHAIN_MAX) {
            return too_complex("expression has too many operators in a row", OPERATOR_CHAIN_MAX, token);
        }
    }
    Ok(())
}

fn drop_level(chains: &mut Vec<usize>) {
    if chains.len() > 1 {
        chains.pop();
    }
}

fn count_operator(chains: &mut [usize]) {
    if let Some(chain) = chains.last_mut() {
        *chain += 1;
    }
}

fn is_operator(token: &Token) -> bool {
    !matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::Placeholder(_)
            | Token::Period
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Report;

    fn split(text: &str) -> Vec<&str> {
        let tokens = Tokens::read(text).unwrap();
        tokens
            .statements()
            .into_iter()
            .map(|range| tokens.text(range))
            .collect()
    }

    #[test]
    fn semicolons_divide_only_statements() {
        assert_eq!(split(""), Vec::<&str>::new());
        assert_eq!(split(" ;; /* a;b */ -- ;\n ;"), Vec::<&str>::new());
        assert_eq!(split("select 1; select 2"), ["select 1", "select 2"]);
        assert_eq!(
            split("select 'a;b';select \"c;d\" ;"),
            ["select 'a;b'", "select \"c;d\""]
        );
        assert_eq!(
            split("select $x$ ; $y$ ; $x$; select E'it\\'s;'"),
            ["select $x$ ; $y$ ; $x$", "select E'it\\'s;'"]
        );
        assert_eq!(
            split("select 1 /* a /* b ; */ ; */ + 2; select 3"),
            ["select 1 /* a /* b ; */ ; */ + 2", "select 3"]
        );
        assert_eq!(split("select 'ä€😀' ; select 'b'"), ["select 'ä€😀'", "select 'b'"]);
    }

    #[test]
    fn a_block_body_is_one_statement() {
        let create = "CREATE PIPELINE p AS BEGIN INSERT INTO a SELECT CASE x WHEN 1 THEN 2 END FROM t; INSERT INTO b SELECT 1; END";
        assert_eq!(split(&format!("{create}; SELECT 1")), [create, "SELECT 1"]);
        let replace = "EXPLAIN REPLACE PIPELINE p AS BEGIN INSERT INTO a SELECT 1; INSERT INTO b SELECT 1; END";
        assert_eq!(split(&format!("{replace}; SELECT 1")), [replace, "SELECT 1"]);
        assert_eq!(
            split("BEGIN; SELECT 1; END; SELECT 2"),
            ["BEGIN", "SELECT 1", "END", "SELECT 2"]
        );
    }

    #[test]
    fn lexical_errors_point_at_their_beginning() {
        for (text, message, position) in [
            ("select 'abc", "unterminated quoted string at or near \"'abc\"", 8),
            (
                "select 'ä', \"abc",
                "unterminated quoted identifier at or near \"\"abc\"",
                13,
            ),
            ("select 1 /* x", "unterminated /* comment", 14),
        ] {
            let error = Tokens::read(text).err().unwrap();
            assert!(error.to_string().starts_with(message), "{text}: {error}");
            assert_eq!(error.code().as_str(), "42601");
            assert_eq!(error.position(), Some(position), "{text}");
        }
    }

    #[test]
    fn limits_have_their_own_error() {
        let deep = format!(
            "select {}1{}",
            "(".repeat(NESTING_DEPTH_MAX + 1),
            ")".repeat(NESTING_DEPTH_MAX + 1)
        );
        assert_eq!(Tokens::read(&deep).err().unwrap().code().as_str(), "54001");
        let chain = format!("select 1{}", "+1".repeat(OPERATOR_CHAIN_MAX + 1));
        assert_eq!(Tokens::read(&chain).err().unwrap().code().as_str(), "54001");
        let rows = format!("values {}", vec!["(-1, -2)"; 20_000].join(", "));
        assert!(Tokens::read(&rows).is_ok());
        let huge = " ".repeat(STATEMENT_BYTES_MAX + 1);
        assert_eq!(Tokens::read(&huge).err().unwrap().code().as_str(), "54001");
    }
}
