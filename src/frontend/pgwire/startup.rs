//! From an accepted socket to a logged-in client: encryption, cancel requests, protocol version, who and where.
//!
//!     SSLRequest -> S and TLS, or N      GSSENCRequest -> N      TLS at once (first byte 0x16, ALPN postgresql)
//!     CancelRequest -> done, no reply    StartupMessage 3.x -> versions, parameters
//!
//! <https://www.postgresql.org/docs/16/protocol-flow.html#PROTOCOL-FLOW-START-UP>
//!
//! Guarantee: until TLS is up nothing is read ahead, so bytes sent in clear before the handshake never count as data
//! (CVE-2021-23214).

use bytes::Bytes;
use pgwire::messages::startup::NegotiateProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::error::Error;
use super::limits::STARTUP_BYTES_MAX;
use super::message::Cursor;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::tls::Tls;

/// A connection, encrypted or not.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

pub type BoxedSocket = Box<dyn Socket>;

/// What a client wants.
pub enum Opening {
    Session {
        socket: BoxedSocket,
        encrypted: bool,
        startup: Startup,
    },
    Cancel {
        pid: i32,
        key: Bytes,
    },
    /// It went away, or said what no Postgres client says.
    Nothing,
}

/// A StartupMessage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    pub protocol: Protocol,
    pub parameters: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol {
    pub major: u16,
    pub minor: u16,
}

impl Protocol {
    pub const NEWEST: Protocol = Protocol { major: 3, minor: 2 };

    /// The cancel key became longer in 3.2.
    pub fn cancel_key_bytes(self) -> usize {
        if self >= Protocol::NEWEST { 32 } else { 4 }
    }
}

const SSL_REQUEST: Protocol = Protocol {
    major: 1234,
    minor: 5679,
};
const GSS_REQUEST: Protocol = Protocol {
    major: 1234,
    minor: 5680,
};
const CANCEL_REQUEST: Protocol = Protocol {
    major: 1234,
    minor: 5678,
};
const TLS_HANDSHAKE: u8 = 0x16;
/// The protocol name that Postgres clients ask for; required when TLS starts without SSLRequest.
pub const ALPN_POSTGRES: &[u8] = b"postgresql";
/// SSLRequest, GSSENCRequest and the startup message itself, each at most once.
const PACKETS_MAX: usize = 3;

/// Reads packets until it is known what the client wants. Errors are told to the client here, as FATAL.
pub async fn open(stream: TcpStream, tls: Option<&Tls>) -> Result<Opening, Error> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 0 {
        return Ok(Opening::Nothing);
    }
    if first[0] == TLS_HANDSHAKE {
        let Some(tls) = tls else {
            return Ok(Opening::Nothing);
        };
        let stream = tls.acceptor.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_POSTGRES) {
            return Ok(Opening::Nothing);
        }
        return read_packets(Box::new(stream), true, None).await;
    }
    negotiate(stream, tls).await
}

/// Packets in clear, until the client asks for TLS or starts.
async fn negotiate(mut stream: TcpStream, tls: Option<&Tls>) -> Result<Opening, Error> {
    for _ in 0..PACKETS_MAX {
        let Some(packet) = read_packet(&mut stream).await? else {
            return Ok(Opening::Nothing);
        };
        match (packet.protocol, tls) {
            (SSL_REQUEST, Some(tls)) => {
                stream.write_all(b"S").await?;
                let stream = tls.acceptor.accept(stream).await?;
                return read_packets(Box::new(stream), true, None).await;
            }
            (SSL_REQUEST | GSS_REQUEST, _) => stream.write_all(b"N").await?,
            _ => return read_packets(Box::new(stream), false, Some(packet)).await,
        }
    }
    Ok(Opening::Nothing)
}

/// The packets after encryption is settled.
async fn read_packets(mut socket: BoxedSocket, encrypted: bool, first: Option<Packet>) -> Result<Opening, Error> {
    let mut next = first;
    for _ in 0..PACKETS_MAX {
        let packet = match next.take() {
            Some(packet) => packet,
            None => match read_packet(&mut socket).await? {
                Some(packet) => packet,
                None => return Ok(Opening::Nothing),
            },
        };
        match packet.protocol {
            SSL_REQUEST | GSS_REQUEST => socket.write_all(b"N").await?,
            CANCEL_REQUEST => return Ok(cancel(packet)),
            _ => {
                let startup = match startup(&mut socket, packet).await {
                    Ok(startup) => startup,
                    Err(error) => {
                        refuse(&mut socket, &error).await;
                        return Ok(Opening::Nothing);
                    }
                };
                return Ok(Opening::Session {
                    socket,
                    encrypted,
                    startup,
                });
            }
        }
    }
    Ok(Opening::Nothing)
}

/// Tells why, before there is a session to tell it.
pub async fn refuse(socket: &mut (impl AsyncWrite + Unpin), error: &Error) {
    use crate::error::Report;
    let mut replies = super::reply::ReplyWriter::new(socket);
    if replies.error(super::error::Severity::Fatal, &error.report()).is_ok() {
        replies.close().await;
    }
}

struct Packet {
    protocol: Protocol,
    body: Bytes,
}

/// `None`: closed, or a length that no startup packet has.
async fn read_packet(socket: &mut (impl AsyncRead + Unpin)) -> Result<Option<Packet>, Error> {
    const HEADER_BYTES: usize = 8;
    let mut header = [0; HEADER_BYTES];
    if socket.read_exact(&mut header).await.is_err() {
        return Ok(None);
    }
    let [a, b, c, d, major_high, major_low, minor_high, minor_low] = header;
    let length = match usize::try_from(i32::from_be_bytes([a, b, c, d])) {
        Ok(length @ HEADER_BYTES..=STARTUP_BYTES_MAX) => length,
        _ => return Ok(None),
    };
    let mut body = vec![0; length - HEADER_BYTES];
    if socket.read_exact(&mut body).await.is_err() {
        return Ok(None);
    }
    Ok(Some(Packet {
        protocol: Protocol {
            major: u16::from_be_bytes([major_high, major_low]),
            minor: u16::from_be_bytes([minor_high, minor_low]),
        },
        body: Bytes::from(body),
    }))
}

fn cancel(packet: Packet) -> Opening {
    let mut input = Cursor::new(packet.body);
    match input.i32() {
        Ok(pid) => Opening::Cancel { pid, key: input.rest() },
        Err(_) => Opening::Nothing,
    }
}

/// Checks the version and reads the parameters; a newer minor version or an unknown protocol option is negotiated down.
async fn startup(socket: &mut BoxedSocket, packet: Packet) -> Result<Startup, Error> {
    let asked = packet.protocol;
    if asked.major != Protocol::NEWEST.major {
        return Err(Error::fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!(
                "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{}",
                asked.major,
                asked.minor,
                Protocol::NEWEST.minor
            ),
        ));
    }
    let mut parameters = read_parameters(packet.body)?;
    let options: Vec<String> = parameters
        .extract_if(.., |(name, _)| name.starts_with("_pq_."))
        .map(|(name, _)| name)
        .collect();
    let protocol = asked.min(Protocol::NEWEST);
    if protocol != asked || !options.is_empty() {
        let mut replies = super::reply::ReplyWriter::new(socket);
        let newest = i32::from(Protocol::NEWEST.major) << 16 | i32::from(Protocol::NEWEST.minor);
        replies.put(&NegotiateProtocolVersion::new(newest, options))?;
        replies.flush().await?;
    }
    Ok(Startup { protocol, parameters })
}

fn read_parameters(body: Bytes) -> Result<Vec<(String, String)>, Error> {
    let layout = || {
        Error::fatal(
            SqlState::PROTOCOL_VIOLATION,
            "invalid startup packet layout: expected terminator as last byte",
        )
    };
    let mut input = Cursor::new(body);
    let mut parameters = Vec::new();
    loop {
        let name = input.text().map_err(|_| layout())?;
        if name.is_empty() {
            break;
        }
        let value = input.text().map_err(|_| layout())?;
        parameters.push((name, value));
    }
    if input.is_empty() {
        Ok(parameters)
    } else {
        Err(layout())
    }
}

/// User, database and settings of a startup message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub database: String,
    pub settings: Vec<(String, String)>,
}

impl Startup {
    /// Takes the parameters apart. Settings of `options` come first, so that those of their own win.
    pub fn identity(&self) -> Result<Identity, Error> {
        let parameter = |wanted: &str| {
            let found = self.parameters.iter().rfind(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let Some(user) = parameter("user") else {
            return Err(Error::fatal(
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "no PostgreSQL user name specified in startup packet",
            ));
        };
        if let Some(mode) = parameter("replication")
            && !["false", "off", "no", "0"].contains(&mode)
        {
            return Err(Error::Fatal(
                ErrorReport::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "replication connections are not supported",
                )
                .with_hint("Read changes with SUBSCRIBE over an ordinary connection."),
            ));
        }
        let mut settings = Vec::new();
        if let Some(options) = parameter("options") {
            settings.extend(command_line_settings(options)?);
        }
        for (name, value) in &self.parameters {
            if !["user", "database", "options", "replication"].contains(&name.as_str()) {
                settings.push((name.clone(), unquoted(value)));
            }
        }
        Ok(Identity {
            user: user.to_owned(),
            database: parameter("database").unwrap_or(user).to_owned(),
            settings,
        })
    }
}

/// Some drivers send `client_encoding` as `'utf-8'`, with the quotes.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    inner.unwrap_or(value).to_owned()
}

/// `-c name=value`, `-cname=value`, `--name=value`; backslash escapes a space.
fn command_line_settings(options: &str) -> Result<Vec<(String, String)>, Error> {
    let mut settings = Vec::new();
    let mut words = split_words(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next()
        } else if let Some(rest) = word.strip_prefix("--") {
            Some(rest.to_owned())
        } else {
            word.strip_prefix("-c").map(str::to_owned)
        };
        let Some((name, value)) = assignment.as_deref().and_then(|text| text.split_once('=')) else {
            return Err(Error::Fatal(
                ErrorReport::new(
                    SqlState::SYNTAX_ERROR,
                    format!("invalid command-line argument in startup options: {word}"),
                )
                .with_hint("Write settings as -c name=value."),
            ));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            c if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Report;

    fn startup_of(parameters: &[(&str, &str)]) -> Startup {
        Startup {
            protocol: Protocol { major: 3, minor: 0 },
            parameters: parameters
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn settings_come_from_options_and_from_themselves() {
        let startup = startup_of(&[
            ("user", "u"),
            ("options", "-c search_path=a\\ b --statement-timeout=5 -cx=1"),
            ("client_encoding", "'utf-8'"),
        ]);
        let identity = startup.identity().unwrap();
        assert_eq!(identity.database, "u");
        let expected = [
            ("search_path", "a b"),
            ("statement_timeout", "5"),
            ("x", "1"),
            ("client_encoding", "utf-8"),
        ];
        assert_eq!(
            identity.settings,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    fn code(parameters: &[(&str, &str)]) -> SqlState {
        startup_of(parameters).identity().unwrap_err().code()
    }

    #[test]
    fn wrong_startups_have_codes() {
        assert_eq!(code(&[]), SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        assert_eq!(code(&[("user", "u"), ("options", "-d")]), SqlState::SYNTAX_ERROR);
        assert_eq!(
            code(&[("user", "u"), ("replication", "database")]),
            SqlState::FEATURE_NOT_SUPPORTED
        );
    }

    #[test]
    fn parameters_must_end_properly() {
        assert!(read_parameters(Bytes::from_static(b"user\0u\0\0")).is_ok());
        for body in [&b"user\0u\0"[..], b"user\0u", b"user\0\0x", b""] {
            assert!(read_parameters(Bytes::copy_from_slice(body)).is_err(), "{body:?}");
        }
    }
}
