//! Walks one line of JSON (RFC 8259) without building anything: whitespace, strings, numbers, values to be skipped.
//!
//! The bytes end with a line feed, which no JSON token may contain: every loop stops there at the latest, so a record that
//! was cut short never runs into the next one.

use crate::engine::formats::json::scan;

/// Nesting of values that no column wants; as deep as other decoders go.
pub const DEPTH_MAX: usize = 128;

/// Why a record was refused.
#[derive(Debug)]
pub enum Fault {
    /// Not JSON.
    Syntax { at: usize, what: &'static str },
    /// JSON, but not a value of the column.
    Value { column: String, message: String },
    /// JSON, but not a record of the format.
    Record { message: String },
}

pub type Parsed<T> = Result<T, Box<Fault>>;

#[cold]
pub fn syntax<T>(at: usize, what: &'static str) -> Parsed<T> {
    Err(Box::new(Fault::Syntax { at, what }))
}

pub struct Parser<'a> {
    /// Ends with a line feed.
    pub bytes: &'a [u8],
    pub at: usize,
    /// The last string that had escapes, without them.
    pub unescaped: Vec<u8>,
}

/// Where a string's characters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringToken {
    /// In the input as they are.
    Plain { start: usize, end: usize },
    /// In [`Parser::unescaped`].
    Unescaped,
}

/// A number as written, and its value when it is a plain integer of at most 18 digits.
#[derive(Clone, Copy, Debug)]
pub struct NumberToken {
    pub start: usize,
    pub end: usize,
    pub short_integer: Option<i64>,
}

impl<'a> Parser<'a> {
    /// The byte at the position; a line feed at the end.
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(b'\n')
    }

    /// Blanks, but not the end of the line.
    #[inline(always)]
    pub fn skip_blanks(&mut self) {
        if self.peek() <= b' ' {
            self.skip_some_blanks();
        }
    }

    /// Out of line: most producers write none.
    #[inline(never)]
    fn skip_some_blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r') {
            self.at += 1;
        }
    }

    #[inline(always)]
    pub fn expect_literal(&mut self, literal: &'static [u8]) -> Parsed<()> {
        if self.bytes[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            syntax(self.at, "expected a value")
        }
    }

    pub fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        &self.bytes[start..end]
    }

    pub fn token_bytes(&self, token: StringToken) -> &[u8] {
        match token {
            StringToken::Plain { start, end } => &self.bytes[start..end],
            StringToken::Unescaped => &self.unescaped,
        }
    }

    /// A string; the position is at its opening quote.
    #[inline(always)]
    pub fn string(&mut self) -> Parsed<StringToken> {
        let start = self.at + 1;
        let end = scan::string_end(self.bytes, start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(StringToken::Plain { start, end });
        }
        self.escaped_string(start, end)
    }

    /// The rest of a string whose plain part ended at `end` with something other than the closing quote.
    #[cold]
    fn escaped_string(&mut self, start: usize, end: usize) -> Parsed<StringToken> {
        self.unescaped.clear();
        let (mut start, mut end) = (start, end);
        loop {
            self.unescaped.extend_from_slice(&self.bytes[start..end]);
            match self.bytes.get(end) {
                Some(b'"') => {
                    self.at = end + 1;
                    return Ok(StringToken::Unescaped);
                }
                Some(b'\\') => start = self.escape(end)?,
                _ => return syntax(end, "control character in a string, or string without an end"),
            }
            end = scan::string_end(self.bytes, start);
        }
    }

    /// Unescapes what stands at the backslash at `at`; gives the position after it.
    fn escape(&mut self, at: usize) -> Parsed<usize> {
        let plain = match self.bytes.get(at + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode_escape(at),
            _ => return syntax(at, "unknown escape in a string"),
        };
        self.unescaped.push(plain);
        Ok(at + 2)
    }

    fn unicode_escape(&mut self, at: usize) -> Parsed<usize> {
        let first = self.hex4(at + 2)?;
        let (code, next) = match first {
            0xD800..=0xDBFF => {
                let second = match self.bytes.get(at + 6..at + 8) {
                    Some(b"\\u") => self.hex4(at + 8)?,
                    _ => return syntax(at, "half of a surrogate pair"),
                };
                if !(0xDC00..=0xDFFF).contains(&second) {
                    return syntax(at, "half of a surrogate pair");
                }
                (0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00), at + 12)
            }
            _ => (first, at + 6),
        };
        let Some(character) = char::from_u32(code) else {
            return syntax(at, "half of a surrogate pair");
        };
        let mut buffer = [0u8; 4];
        self.unescaped
            .extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        Ok(next)
    }

    fn hex4(&self, at: usize) -> Parsed<u32> {
        let Some(digits) = self.bytes.get(at..at + 4) else {
            return syntax(at, "expected four hexadecimal digits");
        };
        let mut value = 0;
        for digit in digits {
            match char::from(*digit).to_digit(16) {
                Some(digit) => value = value * 16 + digit,
                None => return syntax(at, "expected four hexadecimal digits"),
            }
        }
        Ok(value)
    }

    /// A number; the position is at its first character.
    #[inline(always)]
    pub fn number(&mut self) -> Parsed<NumberToken> {
        let start = self.at;
        let negative = self.peek() == b'-';
        self.at += usize::from(negative);
        let first = self.at;
        let mut value = 0u64;
        loop {
            let digit = self.peek().wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        let count = self.at - first;
        if count == 0 || (count > 1 && self.bytes[first] == b'0') {
            return syntax(start, "expected a value");
        }
        if matches!(self.peek(), b'.' | b'e' | b'E') {
            return self.fraction(start);
        }
        let value = if negative {
            (value as i64).wrapping_neg()
        } else {
            value as i64
        };
        Ok(NumberToken {
            start,
            end: self.at,
            short_integer: (count <= 18).then_some(value),
        })
    }

    /// The rest of a number from its point or exponent on.
    fn fraction(&mut self, start: usize) -> Parsed<NumberToken> {
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(NumberToken {
            start,
            end: self.at,
            short_integer: None,
        })
    }

    fn digits(&mut self) -> Parsed<()> {
        let first = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == first {
            return syntax(self.at, "expected a digit");
        }
        Ok(())
    }

    /// Steps over one value of any kind, checking that it is JSON.
    pub fn skip_value(&mut self, depth: usize) -> Parsed<()> {
        match self.peek() {
            b'"' => self.string().map(|_| ()),
            b'{' => self.skip_object(depth),
            b'[' => self.skip_array(depth),
            b'n' => self.expect_literal(b"null"),
            b't' => self.expect_literal(b"true"),
            b'f' => self.expect_literal(b"false"),
            _ => self.number().map(|_| ()),
        }
    }

    fn skip_object(&mut self, depth: usize) -> Parsed<()> {
        self.enter(depth)?;
        if self.closes(b'}') {
            return Ok(());
        }
        loop {
            self.field_name()?;
            self.skip_value(depth + 1)?;
            if !self.another(b'}')? {
                return Ok(());
            }
        }
    }

    fn skip_array(&mut self, depth: usize) -> Parsed<()> {
        self.enter(depth)?;
        if self.closes(b']') {
            return Ok(());
        }
        loop {
            self.skip_value(depth + 1)?;
            if !self.another(b']')? {
                return Ok(());
            }
        }
    }

    /// Steps over an opening bracket and the blanks after it.
    #[inline(always)]
    pub fn enter(&mut self, depth: usize) -> Parsed<()> {
        if depth >= DEPTH_MAX {
            return syntax(self.at, "nested too deeply");
        }
        self.at += 1;
        self.skip_blanks();
        Ok(())
    }

    /// Steps over `close` if it is next.
    #[inline(always)]
    pub fn closes(&mut self, close: u8) -> bool {
        let closes = self.peek() == close;
        self.at += usize::from(closes);
        closes
    }

    /// After a member: whether another one follows, with the position at its start, or `close` was stepped over.
    #[inline(always)]
    pub fn another(&mut self, close: u8) -> Parsed<bool> {
        let mut byte = self.peek();
        if byte <= b' ' {
            self.skip_blanks();
            byte = self.peek();
        }
        if byte == b',' {
            self.at += 1;
            self.skip_blanks();
            Ok(true)
        } else if byte == close {
            self.at += 1;
            Ok(false)
        } else {
            syntax(self.at, "expected a comma or a closing bracket")
        }
    }

    /// A field's name, the colon and the blanks around it.
    pub fn field_name(&mut self) -> Parsed<StringToken> {
        if self.peek() != b'"' {
            return syntax(self.at, "expected a field name");
        }
        let name = self.string()?;
        self.skip_blanks();
        if self.peek() != b':' {
            return syntax(self.at, "expected a colon");
        }
        self.at += 1;
        self.skip_blanks();
        Ok(name)
    }
}
