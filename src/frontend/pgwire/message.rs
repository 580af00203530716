//! Messages of clients: frames within limits, then typed messages.
//!
//! The decoders of the pgwire crate trust a message's inner lengths (they panic on short ones) and take broken UTF-8, so the
//! client's side is read here, with every length checked against what is there; replies are encoded by that crate.
//!
//! Guarantee: no byte of a client makes this panic or allocate more than what was received; a message that is wrong inside
//! does not lose the place of the next one.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::Error;
use crate::error::SqlState;

/// A message from a logged-in client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontendMessage {
    Query(String),
    Parse(Parse),
    Bind(Bind),
    Describe(Target),
    Execute {
        portal: String,
        rows_max: i32,
    },
    Close(Target),
    Flush,
    Sync,
    Terminate,
    CopyData(Bytes),
    CopyDone,
    /// With the client's reason.
    CopyFail(String),
    FunctionCall,
    Password,
    Unknown(u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parse {
    pub name: String,
    pub text: String,
    /// 0 leaves a type to the server.
    pub parameter_oids: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    pub parameter_formats: Vec<i16>,
    pub parameters: Vec<Option<Bytes>>,
    pub result_formats: Vec<i16>,
}

/// What Describe and Close name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Statement(String),
    Portal(String),
}

/// One message as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Whole {
        kind: u8,
        body: Bytes,
    },
    /// Over the limit: its bytes are skipped.
    TooLong {
        kind: u8,
        bytes: usize,
    },
    /// The length makes no sense: what follows cannot be found.
    Broken,
    /// The client has closed its side.
    Closed,
}

/// Cuts the input into frames. A call that is dropped while waiting loses nothing.
pub struct FrameReader<R> {
    input: R,
    buffer: BytesMut,
    /// Bytes of a message over the limit that are still to come.
    to_skip: usize,
}

/// Type byte and length.
const HEADER_BYTES: usize = 5;
/// What the length word counts beside the body: itself.
const LENGTH_BYTES: usize = 4;
const READ_BYTES: usize = 8 * 1024;

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(input: R) -> FrameReader<R> {
        FrameReader {
            input,
            buffer: BytesMut::new(),
            to_skip: 0,
        }
    }

    /// The next message, whose body has at most `limit` bytes.
    pub async fn next(&mut self, limit: usize) -> std::io::Result<Frame> {
        loop {
            if self.to_skip > 0 {
                let skipped = self.to_skip.min(self.buffer.len());
                self.buffer.advance(skipped);
                self.to_skip -= skipped;
            }
            if self.to_skip == 0
                && let Some(frame) = self.buffered(limit)
            {
                return Ok(frame);
            }
            self.buffer.reserve(READ_BYTES);
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return Ok(Frame::Closed);
            }
        }
    }

    fn buffered(&mut self, limit: usize) -> Option<Frame> {
        let header = self.buffer.first_chunk::<HEADER_BYTES>()?;
        let kind = header[0];
        let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let Some(body_bytes) = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(LENGTH_BYTES))
        else {
            return Some(Frame::Broken);
        };
        if body_bytes > limit {
            self.buffer.advance(HEADER_BYTES);
            self.to_skip = body_bytes;
            return Some(Frame::TooLong {
                kind,
                bytes: body_bytes,
            });
        }
        if self.buffer.len() < HEADER_BYTES + body_bytes {
            return None;
        }
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(body_bytes).freeze();
        Some(Frame::Whole { kind, body })
    }
}

/// The message of a frame.
pub fn decode(kind: u8, body: Bytes) -> Result<FrontendMessage, Error> {
    let mut input = Cursor { rest: body };
    let message = match kind {
        b'Q' => FrontendMessage::Query(input.text()?),
        b'P' => FrontendMessage::Parse(parse(&mut input)?),
        b'B' => FrontendMessage::Bind(bind(&mut input)?),
        b'D' => FrontendMessage::Describe(target(&mut input)?),
        b'E' => FrontendMessage::Execute {
            portal: input.text()?,
            rows_max: input.i32()?,
        },
        b'C' => FrontendMessage::Close(target(&mut input)?),
        b'H' => FrontendMessage::Flush,
        b'S' => FrontendMessage::Sync,
        b'X' => FrontendMessage::Terminate,
        b'd' => return Ok(FrontendMessage::CopyData(input.rest)),
        b'c' => FrontendMessage::CopyDone,
        b'f' => FrontendMessage::CopyFail(input.text()?),
        b'F' => return Ok(FrontendMessage::FunctionCall),
        b'p' => return Ok(FrontendMessage::Password),
        other => return Ok(FrontendMessage::Unknown(other)),
    };
    if input.rest.is_empty() {
        Ok(message)
    } else {
        Err(Error::protocol("invalid message format"))
    }
}

fn parse(input: &mut Cursor) -> Result<Parse, Error> {
    let (name, text) = (input.text()?, input.text()?);
    let count = input.count(4)?;
    let mut parameter_oids = Vec::with_capacity(count);
    for _ in 0..count {
        parameter_oids.push(u32::from_be_bytes(input.take()?));
    }
    Ok(Parse {
        name,
        text,
        parameter_oids,
    })
}

fn bind(input: &mut Cursor) -> Result<Bind, Error> {
    let (portal, statement) = (input.text()?, input.text()?);
    let parameter_formats = input.format_codes()?;
    let count = input.count(4)?;
    let mut parameters = Vec::with_capacity(count);
    for _ in 0..count {
        parameters.push(match input.i32()? {
            -1 => None,
            length => Some(input.bytes(length)?),
        });
    }
    let result_formats = input.format_codes()?;
    Ok(Bind {
        portal,
        statement,
        parameter_formats,
        parameters,
        result_formats,
    })
}

fn target(input: &mut Cursor) -> Result<Target, Error> {
    match input.take::<1>()?[0] {
        b'S' => Ok(Target::Statement(input.text()?)),
        b'P' => Ok(Target::Portal(input.text()?)),
        other => Err(Error::protocol(format!("invalid message subtype {other}"))),
    }
}

/// Reads the parts of a body; running out of bytes is an error, never a panic.
pub(super) struct Cursor {
    rest: Bytes,
}

impl Cursor {
    pub(super) fn new(body: Bytes) -> Cursor {
        Cursor { rest: body }
    }

    pub(super) fn rest(self) -> Bytes {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let first = *self.rest.first_chunk::<N>().ok_or_else(insufficient)?;
        self.rest.advance(N);
        Ok(first)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Error> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    /// A count of things that take at least `bytes_each`.
    fn count(&mut self, bytes_each: usize) -> Result<usize, Error> {
        let count = usize::from(u16::from_be_bytes(self.take()?));
        if count * bytes_each > self.rest.len() {
            return Err(insufficient());
        }
        Ok(count)
    }

    fn format_codes(&mut self) -> Result<Vec<i16>, Error> {
        let count = self.count(2)?;
        let mut codes = Vec::with_capacity(count);
        for _ in 0..count {
            codes.push(i16::from_be_bytes(self.take()?));
        }
        Ok(codes)
    }

    pub(super) fn bytes(&mut self, length: i32) -> Result<Bytes, Error> {
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(self.rest.split_to(length)),
            _ => Err(insufficient()),
        }
    }

    /// Up to a zero byte.
    pub(super) fn text(&mut self) -> Result<String, Error> {
        let end = memchr::memchr(0, &self.rest).ok_or_else(|| Error::protocol("invalid string in message"))?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::BadValue {
                code: SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                message: "invalid byte sequence for encoding \"UTF8\"".into(),
            }),
        }
    }
}

fn insufficient() -> Error {
    Error::protocol("insufficient data left in message")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Report;

    async fn frames(input: &[u8], limit: usize) -> Vec<Frame> {
        let mut reader = FrameReader::new(input);
        let mut found = Vec::new();
        loop {
            let frame = reader.next(limit).await.unwrap();
            let last = matches!(frame, Frame::Closed | Frame::Broken);
            found.push(frame);
            if last {
                return found;
            }
        }
    }

    fn whole(kind: u8, body: &'static [u8]) -> Frame {
        Frame::Whole {
            kind,
            body: Bytes::from_static(body),
        }
    }

    #[tokio::test]
    async fn frames_are_cut_at_their_length() {
        let found = frames(b"Q\0\0\0\x06x\0S\0\0\0\x04", 100).await;
        assert_eq!(found, vec![whole(b'Q', b"x\0"), whole(b'S', b""), Frame::Closed]);
    }

    #[tokio::test]
    async fn long_frames_are_skipped_and_the_next_is_found() {
        let found = frames(b"Q\0\0\0\x0bseven b\0S\0\0\0\x04", 6).await;
        let too_long = Frame::TooLong { kind: b'Q', bytes: 7 };
        assert_eq!(found[0], too_long);
        // Said to be seven bytes, and eight were sent: what follows is read as a frame, from the wrong place.
        assert_ne!(found[1], whole(b'S', b""));
        let found = frames(b"Q\0\0\0\x0cseven b\0S\0\0\0\x04", 6).await;
        assert_eq!(found[1..], [whole(b'S', b""), Frame::Closed]);
    }

    #[tokio::test]
    async fn senseless_lengths_end_it() {
        for length in [0i32, 3, -1, i32::MIN] {
            let mut input = vec![b'Q'];
            input.extend(length.to_be_bytes());
            assert_eq!(frames(&input, 100).await, vec![Frame::Broken], "{length}");
        }
    }

    fn check_bad(kind: u8, body: &'static [u8], code: SqlState) {
        let error = decode(kind, Bytes::from_static(body)).unwrap_err();
        assert_eq!(error.code(), code, "{kind} {body:?}");
    }

    #[test]
    fn short_and_long_bodies_are_violations() {
        check_bad(b'Q', b"no end", SqlState::PROTOCOL_VIOLATION);
        check_bad(b'Q', b"a\0more", SqlState::PROTOCOL_VIOLATION);
        check_bad(b'Q', b"\xff\0", SqlState::CHARACTER_NOT_IN_REPERTOIRE);
        check_bad(b'P', b"\0\0", SqlState::PROTOCOL_VIOLATION);
        check_bad(b'P', b"\0\0\xff\xff", SqlState::PROTOCOL_VIOLATION);
        check_bad(b'B', b"\0\0\0\0\0\x01\0\0\0\x09a\0\0", SqlState::PROTOCOL_VIOLATION);
        check_bad(
            b'B',
            b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
            SqlState::PROTOCOL_VIOLATION,
        );
        check_bad(b'E', b"\0\0\0", SqlState::PROTOCOL_VIOLATION);
        check_bad(b'D', b"Xa\0", SqlState::PROTOCOL_VIOLATION);
        check_bad(b'S', b"x", SqlState::PROTOCOL_VIOLATION);
    }

    #[test]
    fn bind_has_all_its_parts() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\x01";
        let bind = Bind {
            portal: "p".into(),
            statement: "s".into(),
            parameter_formats: vec![1],
            parameters: vec![Some(Bytes::from_static(b"ab")), None],
            result_formats: vec![1],
        };
        assert_eq!(
            decode(b'B', Bytes::from_static(body)).unwrap(),
            FrontendMessage::Bind(bind)
        );
    }

    #[test]
    fn no_body_makes_it_panic() {
        use proptest::prelude::*;
        let kinds = *b"QPBDECHSXdcfFp?";
        proptest!(|(kind in 0..kinds.len(), body in proptest::collection::vec(any::<u8>(), 0..64))| {
            let _ = decode(kinds[kind], Bytes::from(body));
        });
    }
}
