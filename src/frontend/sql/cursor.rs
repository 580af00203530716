//! Reads the tokens of one statement; speaks of errors as Postgres does.
//!
//! The parser underneath is asked for queries, expressions and standard statements at the current place; everything
//! around them is read here.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use crate::catalog::snapshot::QualifiedName;
use crate::engine::graph::EmitMode;
use crate::frontend::error::{Error, Result};
use crate::frontend::sql::identifier::{fold_word, is_reserved};
use crate::frontend::sql::statement::QueryText;
use crate::frontend::sql::tokens::{LocatedToken, NESTING_DEPTH_MAX, Tokens, characters_before};
use crate::planner::dialect::QueryDialect;

/// Levels of the parser's own recursion: it uses several for one level of nesting.
const RECURSION_MAX: usize = NESTING_DEPTH_MAX * 6;

pub struct Cursor<'a> {
    parser: Parser<'a>,
    tokens: &'a [LocatedToken],
    source: &'a str,
    shared_source: Arc<str>,
}

impl<'a> Cursor<'a> {
    pub fn new(tokens: &'a Tokens<'a>, range: std::ops::Range<usize>, shared_source: &Arc<str>) -> Cursor<'a> {
        Cursor::over(tokens.source, &tokens.list[range], shared_source)
    }

    fn over(source: &'a str, tokens: &'a [LocatedToken], shared_source: &Arc<str>) -> Cursor<'a> {
        let list: Vec<TokenWithSpan> = tokens.iter().map(|token| token.token.clone()).collect();
        let parser = Parser::new(&QueryDialect)
            .with_recursion_limit(RECURSION_MAX)
            .with_tokens_with_locations(list);
        Cursor {
            parser,
            tokens,
            source,
            shared_source: Arc::clone(shared_source),
        }
    }

    /// A cursor over some of this one's tokens.
    pub fn part(&self, range: std::ops::Range<usize>) -> Cursor<'a> {
        Cursor::over(self.source, &self.tokens[range], &self.shared_source)
    }

    pub fn shared_source(&self) -> Arc<str> {
        Arc::clone(&self.shared_source)
    }

    /// How many tokens were read.
    pub fn index(&self) -> usize {
        self.parser.index().min(self.tokens.len())
    }

    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    pub fn at_end(&self) -> bool {
        self.index() >= self.tokens.len()
    }

    /// Where token `index` begins in the source.
    pub fn byte_of(&self, index: usize) -> Option<usize> {
        self.tokens.get(index).map(|token| token.start)
    }

    /// Goes back to where [`Cursor::index`] was.
    pub fn back_to(&mut self, index: usize) {
        while self.parser.index() > index {
            self.parser.prev_token();
        }
    }

    pub fn peek(&self) -> Option<&Token> {
        self.peek_at(0)
    }

    pub fn peek_at(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.index() + ahead).map(|token| &token.token.token)
    }

    fn word_at(&self, ahead: usize) -> Option<&Word> {
        match self.peek_at(ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Whether the next tokens are these words (upper case), unquoted.
    pub fn sees(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, expected)| {
            self.word_at(ahead)
                .is_some_and(|word| word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
        })
    }

    /// Reads these words if they come next.
    pub fn take(&mut self, words: &[&str]) -> bool {
        let seen = self.sees(words);
        if seen {
            self.skip(words.len());
        }
        seen
    }

    /// Reads one of these words, if one comes next.
    pub fn take_one_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let found = words.iter().copied().find(|word| self.sees(&[word]));
        if found.is_some() {
            self.skip(1);
        }
        found
    }

    pub fn expect(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.take(&[word]) {
                return Err(self.unexpected(word));
            }
        }
        Ok(())
    }

    pub fn sees_token(&self, token: &Token) -> bool {
        self.peek() == Some(token)
    }

    pub fn take_token(&mut self, token: &Token) -> bool {
        let seen = self.sees_token(token);
        if seen {
            self.skip(1);
        }
        seen
    }

    pub fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.take_token(token) {
            return Ok(());
        }
        Err(self.unexpected(&format!("\"{token}\"")))
    }

    pub fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.parser.next_token();
        }
    }

    /// Reads a name; reserved words must be quoted.
    pub fn name(&mut self) -> Result<String> {
        match self.word_at(0) {
            Some(word) if word.quote_style.is_some() || !is_reserved(&word.value.to_lowercase()) => {
                let name = fold_word(word);
                if name.is_empty() {
                    return Err(self.error_at(self.index(), "zero-length delimited identifier", None));
                }
                self.skip(1);
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// Reads `name` or `schema.name`; a third part in front, the database, is read and dropped.
    pub fn qualified_name(&mut self) -> Result<QualifiedName> {
        let mut parts = vec![self.name()?];
        while self.take_token(&Token::Period) {
            parts.push(self.any_word("a name")?);
        }
        if parts.len() > 3 {
            return Err(self.error_at(
                self.index().saturating_sub(1),
                "improper qualified name (too many dotted names)",
                None,
            ));
        }
        let name = parts.pop().unwrap_or_default();
        Ok(QualifiedName {
            schema: parts.pop(),
            name,
        })
    }

    /// Reads any word, reserved or not, as a name.
    pub fn any_word(&mut self, expected: &str) -> Result<String> {
        let Some(word) = self.word_at(0) else {
            return Err(self.unexpected(expected));
        };
        let name = fold_word(word);
        self.skip(1);
        Ok(name)
    }

    /// Reads `(name, ..)`.
    pub fn name_list(&mut self) -> Result<Vec<String>> {
        self.expect_token(&Token::LParen)?;
        let mut names = vec![self.name()?];
        while self.take_token(&Token::Comma) {
            names.push(self.name()?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(names)
    }

    /// Reads a string literal of any quoting.
    pub fn string(&mut self) -> Result<String> {
        let text = match self.peek() {
            Some(
                Token::SingleQuotedString(text)
                | Token::EscapedStringLiteral(text)
                | Token::UnicodeStringLiteral(text)
                | Token::NationalStringLiteral(text),
            ) => text.clone(),
            Some(Token::DollarQuotedString(text)) => text.value.clone(),
            _ => return Err(self.unexpected("a string")),
        };
        self.skip(1);
        Ok(text)
    }

    pub fn sees_string(&self) -> bool {
        matches!(
            self.peek(),
            Some(
                Token::SingleQuotedString(_)
                    | Token::EscapedStringLiteral(_)
                    | Token::UnicodeStringLiteral(_)
                    | Token::NationalStringLiteral(_)
                    | Token::DollarQuotedString(_)
            )
        )
    }

    pub fn integer(&mut self) -> Result<u64> {
        let value = match self.peek() {
            Some(Token::Number(digits, _)) => digits.parse().ok(),
            _ => None,
        };
        let value = value.ok_or_else(|| self.unexpected("a whole number"))?;
        self.skip(1);
        Ok(value)
    }

    /// `IF NOT EXISTS`.
    pub fn if_not_exists(&mut self) -> bool {
        self.take(&["IF", "NOT", "EXISTS"])
    }

    /// `IF EXISTS`.
    pub fn if_exists(&mut self) -> bool {
        self.take(&["IF", "EXISTS"])
    }

    /// The exact text of tokens `range`.
    pub fn text(&self, range: std::ops::Range<usize>) -> &'a str {
        if range.is_empty() {
            return "";
        }
        &self.source[self.tokens[range.start].start..self.tokens[range.end - 1].end]
    }

    pub fn text_from(&self, start: usize) -> &'a str {
        self.text(start..self.index())
    }

    /// Reads an expression and gives its exact text.
    pub fn expression_text(&mut self) -> Result<String> {
        let start = self.index();
        self.expression()?;
        Ok(self.text_from(start).to_owned())
    }

    pub fn expression(&mut self) -> Result<ast::Expr> {
        self.parser.parse_expr().map_err(|error| self.translate(&error))
    }

    pub fn statement(&mut self) -> Result<ast::Statement> {
        self.parser.parse_statement().map_err(|error| self.translate(&error))
    }

    /// The index just behind the parenthesis that closes the one at the current place.
    pub fn closing(&self) -> Result<usize> {
        let mut depth = 0_usize;
        for index in self.index()..self.tokens.len() {
            match &self.tokens[index].token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 1 => return Ok(index + 1),
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        Err(self.error_at_end("\")\""))
    }

    /// Reads the rest, a query and perhaps `EMIT ON ..`.
    pub fn rest_as_query(&mut self) -> Result<QueryText> {
        let start = self.index();
        let (end, emit) = self.emit_suffix();
        let mut inner = self.part(start..end);
        if inner.at_end() {
            return Err(self.unexpected("a query"));
        }
        let query = inner.parser.parse_query().map_err(|error| inner.translate(&error))?;
        inner.expect_end()?;
        self.skip(self.tokens.len() - start);
        Ok(QueryText {
            text: self.text_from(start).to_owned(),
            query,
            emit,
        })
    }

    /// Where the statement ends without its `EMIT ON ..`, and what that says.
    pub fn emit_suffix(&self) -> (usize, Option<EmitMode>) {
        for (words, mode) in [
            (&["EMIT", "ON", "UPDATE"][..], EmitMode::OnUpdate),
            (&["EMIT", "CHANGES"][..], EmitMode::OnUpdate),
            (&["EMIT", "ON", "WINDOW", "CLOSE"][..], EmitMode::OnWindowClose),
        ] {
            let Some(start) = self.tokens.len().checked_sub(words.len()) else {
                continue;
            };
            let same = words.iter().zip(&self.tokens[start..]).all(|(expected, token)| {
                matches!(&token.token.token, Token::Word(word)
                    if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
            });
            if same && start >= self.index() {
                return (start, Some(mode));
            }
        }
        (self.tokens.len(), None)
    }

    pub fn expect_end(&self) -> Result<()> {
        if self.at_end() {
            return Ok(());
        }
        Err(self.unexpected("the end of the statement"))
    }

    /// A syntax error at the next token.
    pub fn unexpected(&self, expected: &str) -> Error {
        let index = self.index();
        match self.tokens.get(index) {
            None => self.error_at_end(expected),
            Some(token) => {
                let found = &self.source[token.start..token.end];
                self.error_at(
                    index,
                    &format!("syntax error at or near \"{found}\""),
                    Some(expected.to_owned()),
                )
            }
        }
    }

    /// An error at a token, with a message of the caller's.
    pub fn error_at(&self, index: usize, message: &str, expected: Option<String>) -> Error {
        let byte = match self.tokens.get(index) {
            Some(token) => token.start,
            None => self.end_byte(),
        };
        Error::Syntax {
            message: message.to_owned(),
            position: characters_before(self.source, byte) + 1,
            expected,
        }
    }

    fn error_at_end(&self, expected: &str) -> Error {
        Error::Syntax {
            message: "syntax error at end of input".to_owned(),
            position: characters_before(self.source, self.end_byte()) + 1,
            expected: Some(expected.to_owned()),
        }
    }

    fn end_byte(&self) -> usize {
        self.tokens.last().map_or(self.source.len(), |token| token.end)
    }

    /// An error of the parser underneath, which carries its place as text.
    fn translate(&self, error: &ParserError) -> Error {
        let text = match error {
            ParserError::RecursionLimitExceeded => {
                return Error::TooComplex {
                    what: format!("statement nests too deep, the limit is {NESTING_DEPTH_MAX}"),
                    hint: "Write it as smaller views or common table expressions.".to_owned(),
                };
            }
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        };
        let (message, place) = split_place(text);
        let found = place.and_then(|(line, column)| {
            self.tokens
                .iter()
                .position(|token| (token.token.span.start.line, token.token.span.start.column) == (line, column))
        });
        let expected = message
            .strip_prefix("Expected: ")
            .map(|rest| rest.split(", found: ").next().unwrap_or(rest).to_owned());
        match (found, expected) {
            (Some(index), expected) => {
                let token = &self.tokens[index];
                let near = &self.source[token.start..token.end];
                let expected = expected.or_else(|| Some(decapitalize(message)));
                self.error_at(index, &format!("syntax error at or near \"{near}\""), expected)
            }
            (None, Some(expected)) => self.error_at_end(&expected),
            (None, None) => self.error_at(self.index(), &format!("syntax error: {}", decapitalize(message)), None),
        }
    }
}

/// `.. at Line: 3, Column: 7` into the message and the place.
fn split_place(text: &str) -> (&str, Option<(u64, u64)>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return (text, None);
    };
    let parsed = place
        .split_once(", Column: ")
        .and_then(|(line, column)| Some((line.trim().parse().ok()?, column.trim().parse().ok()?)));
    (message, parsed)
}

fn decapitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
