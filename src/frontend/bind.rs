//! Binds a listener's address, with an error that says how to choose another one.
//!
//! Guarantee: a client that is gone without a word is noticed within half a minute, also when nothing is sent to it, as in a SUBSCRIBE
//! without changes. Not while something that was sent is on its way to it: then the system's own patience counts.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;

use crate::error::{Blame, ErrorReport, SqlState};

/// Nothing was heard of a client for so long: it is asked whether it is there, three times in the same time again.
const SILENCE: Duration = Duration::from_secs(15);

/// Binds `listen` for `clients` (`HTTP`); `flag` is the command line's option for another address. Gives the address with the
/// port that the system chose when the wanted one was 0.
pub async fn bind(listen: SocketAddr, clients: &str, flag: &str) -> Result<(TcpListener, SocketAddr), ErrorReport> {
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        // Sockets have it from their listener.
        notice_silence(&listener, SILENCE)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error: std::io::Error| {
        let mut report = ErrorReport::new(
            SqlState::IO_ERROR,
            format!("could not listen on {listen} for {clients} clients: {error}"),
        );
        report.blame = Blame::External;
        if error.kind() == std::io::ErrorKind::AddrInUse {
            return report.with_hint(format!(
                "Another process uses this port; stop it, or choose another one with {flag}."
            ));
        }
        report
    })
}

fn notice_silence(listener: &TcpListener, silence: Duration) -> std::io::Result<()> {
    let questions = TcpKeepalive::new()
        .with_time(silence)
        .with_interval(silence / 3)
        .with_retries(3);
    SockRef::from(listener).set_tcp_keepalive(&questions)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::testing::schema_registry::{skip, test_python};

    /// Connects, and vanishes: with TCP_REPAIR (19) the system closes a socket without telling the other side.
    const VANISH: &str = "import socket, sys
client = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
client.setsockopt(socket.IPPROTO_TCP, 19, 1)
client.close()";

    #[tokio::test]
    async fn f_50_a_client_that_vanishes_is_noticed() {
        let (listener, address) = bind("127.0.0.1:0".parse().unwrap(), "test", "--test").await.unwrap();
        let (accepted, client) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
        let (socket, _) = accepted.unwrap();
        assert!(SockRef::from(&socket).keepalive().unwrap());
        assert_eq!(SockRef::from(&socket).tcp_keepalive_time().unwrap(), SILENCE);
        drop(client);
        notice_silence(&listener, Duration::from_secs(3)).unwrap();
        let Some(python) = test_python("import socket") else {
            return skip("there is no Python");
        };
        let port = address.port().to_string();
        let client = Command::new(python).args(["-c", VANISH, &port]).output().unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        if !client.status.success() {
            // Only root may. The options above are there all the same.
            eprintln!("skipped: {}", String::from_utf8_lossy(&client.stderr));
            return;
        }
        let mut byte = [0];
        let started = std::time::Instant::now();
        let error = socket.read(&mut byte).await.unwrap_err();
        assert!(started.elapsed() > Duration::from_secs(1), "it was told: {error}");
    }
}
