//! A client that sends any bytes and reads messages one by one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct RawClient {
    pub stream: TcpStream,
}

/// A message of the server: its type and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: char,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, wanted: u8) -> Option<String> {
        let mut rest = self.body.as_slice();
        while let Some((kind, after)) = rest.split_first() {
            let end = after.iter().position(|byte| *byte == 0)?;
            if *kind == wanted {
                return Some(String::from_utf8_lossy(&after[..end]).into_owned());
            }
            rest = &after[end + 1..];
        }
        None
    }

    pub fn code(&self) -> String {
        assert_eq!(self.kind, 'E', "{self:?}");
        self.field(b'C').expect("errors have a code")
    }
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> RawClient {
        let stream = TcpStream::connect(address).await.expect("the listener accepts");
        RawClient { stream }
    }

    /// Connected and ready.
    pub async fn login(address: SocketAddr) -> RawClient {
        let mut client = RawClient::connect(address).await;
        client
            .send(&startup(196_608, &[("user", "u"), ("database", "laminar")]))
            .await;
        client.until('Z').await;
        client
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// `None`: the server closed the connection.
    pub async fn message(&mut self) -> Option<Message> {
        let reading = async {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header).await.ok()?;
            let [kind, length @ ..] = header;
            let length = usize::try_from(i32::from_be_bytes(length)).expect("a length") - 4;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Message {
                kind: char::from(kind),
                body,
            })
        };
        tokio::time::timeout(Duration::from_secs(10), reading)
            .await
            .expect("the server answers in time")
    }

    /// All messages up to the first of `kind`.
    pub async fn until(&mut self, kind: char) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.message().await.expect("the server does not close the connection");
            let found = message.kind == kind;
            messages.push(message);
            if found {
                return messages;
            }
        }
    }

    /// The types of all messages up to ReadyForQuery.
    pub async fn kinds(&mut self) -> String {
        self.until('Z').await.iter().map(|message| message.kind).collect()
    }
}

pub fn startup(protocol: i32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = protocol.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut packet = length(body.len());
    packet.extend(body);
    packet
}

fn length(body: usize) -> Vec<u8> {
    i32::try_from(body + 4).expect("short").to_be_bytes().to_vec()
}

pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(length(body.len()));
    frame.extend_from_slice(body);
    frame
}

pub fn query(text: &str) -> Vec<u8> {
    frame(b'Q', &[text.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, text: &str, oids: &[u32]) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", text.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(oids.len()).expect("few").to_be_bytes());
    body.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &body)
}

pub fn bind(portal: &str, statement: &str, parameters: &[&[u8]], result_formats: &[i16]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0"].concat();
    body.extend(u16::try_from(parameters.len()).expect("few").to_be_bytes());
    for parameter in parameters {
        body.extend(i32::try_from(parameter.len()).expect("short").to_be_bytes());
        body.extend_from_slice(parameter);
    }
    body.extend(u16::try_from(result_formats.len()).expect("few").to_be_bytes());
    body.extend(result_formats.iter().flat_map(|format| format.to_be_bytes()));
    frame(b'B', &body)
}

pub fn execute(portal: &str, rows_max: i32) -> Vec<u8> {
    frame(b'E', &[portal.as_bytes(), b"\0", &rows_max.to_be_bytes()[..]].concat())
}

pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}
