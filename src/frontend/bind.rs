//! Binds a listener's address, with an error that says how to choose another one.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::error::{Blame, ErrorReport, SqlState};

/// Binds `listen` for `clients` (`HTTP`); `flag` is the command line's option for another address. Gives the address with the
/// port that the system chose when the wanted one was 0.
pub async fn bind(listen: SocketAddr, clients: &str, flag: &str) -> Result<(TcpListener, SocketAddr), ErrorReport> {
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
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
