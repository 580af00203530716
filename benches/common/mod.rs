//! The real server as a child process, and what it has used.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio_postgres::{Client, NoTls};

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

pub struct Server {
    pub child: Child,
    pub port: u16,
    /// As the server says: `87 ms`.
    pub ready_in: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the server with its data below `folder`, and waits until it is ready.
pub fn start(folder: &Path, shards: u32) -> Outcome<Server> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_laminar"))
        .args([
            "--sql-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--shards",
            &shards.to_string(),
            "--data-dir",
        ])
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("stderr is piped")?).lines();
    let mut port = None;
    let mut ready_in = None;
    for line in lines.by_ref() {
        let line = line?;
        if let Some((_, address)) = line.split_once("listening for SQL on ") {
            port = address
                .split_whitespace()
                .next()
                .and_then(|a| a.rsplit_once(':'))
                .and_then(|(_, p)| p.parse().ok());
        }
        if let Some((_, time)) = line.split_once("ready in ") {
            ready_in = Some(time.trim().to_owned());
            break;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(Server {
        child,
        port: port.ok_or("the server did not say where it listens")?,
        ready_in: ready_in.ok_or("the server did not become ready")?,
    })
}

pub async fn connect(port: u16) -> Outcome<Client> {
    let settings = format!("host=127.0.0.1 port={port} user=laminar dbname=laminar");
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The number after `name` on the command line.
pub fn argument(name: &str) -> Option<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// Peak resident memory.
pub fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
