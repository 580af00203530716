//! A real server process with a data directory of its own; killed without mercy when asked, and when dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::patience::Patience;

const READY_WITHIN: Duration = Duration::from_secs(30);

pub struct ServerProcess {
    child: Child,
    pub sql_port: u16,
    pub http_port: u16,
    /// How long the process took from its start to the line that says it is ready.
    pub ready_after: Duration,
    log: Arc<Mutex<Vec<String>>>,
}

impl ServerProcess {
    /// Starts a server on free ports and waits for its ready line.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Result<ServerProcess, String> {
        ServerProcess::start_in(Path::new("."), data_dir, arguments)
    }

    /// The same with a working directory, against which relative paths of tables are read.
    pub fn start_in(folder: &Path, data_dir: &Path, arguments: &[&str]) -> Result<ServerProcess, String> {
        let started = Instant::now();
        let mut server = ServerProcess::spawn(folder, data_dir, arguments, "")?;
        server.await_ready(started)?;
        Ok(server)
    }

    /// Starts a server that will die at a failpoint (see `src/failpoint.rs`) after it is ready.
    pub fn start_armed(data_dir: &Path, failpoints: &str) -> Result<ServerProcess, String> {
        let started = Instant::now();
        let mut server = ServerProcess::spawn(Path::new("."), data_dir, &[], failpoints)?;
        server.await_ready(started)?;
        Ok(server)
    }

    /// It ends by itself.
    pub fn wait_until_dead(&mut self, within: Duration) -> Result<(), String> {
        let mut patience = Patience::of(within);
        while !patience.is_over() {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("server has not died:\n{}", self.log().join("\n")))
    }

    /// `STOP`, `CONT`.
    pub fn signal(&self, name: &str) -> Result<(), String> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        sent.map(drop).map_err(|error| error.to_string())
    }

    /// Starts a server that dies at a failpoint (see `src/failpoint.rs`), maybe before it is ready, and waits until it has.
    pub fn start_doomed(data_dir: &Path, failpoints: &str, within: Duration) -> Result<(), String> {
        let mut patience = Patience::of(within);
        let mut server = ServerProcess::spawn(Path::new("."), data_dir, &[], failpoints)?;
        loop {
            if let Ok(Some(status)) = server.child.try_wait() {
                std::thread::sleep(Duration::from_millis(20));
                let log = server.log();
                if log.iter().any(|line| line.contains("failpoint: the server dies here")) {
                    return Ok(());
                }
                return Err(format!("server ended with {status}:\n{}", log.join("\n")));
            }
            if patience.is_over() {
                return Err(format!(
                    "server has not come by within {within:?}:\n{}",
                    server.log().join("\n")
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn spawn(folder: &Path, data_dir: &Path, arguments: &[&str], failpoints: &str) -> Result<ServerProcess, String> {
        let mut child = Command::new(server_binary())
            .env("LAMINAR_FAILPOINTS", failpoints)
            .args(if arguments.contains(&"--sql-listen") {
                &[][..]
            } else {
                &["--sql-listen", "127.0.0.1:0"]
            })
            .args(["--http-listen", "127.0.0.1:0", "--log", "warn,laminar=info"])
            .arg("--data-dir")
            .arg(data_dir)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("could not start {}: {error}", server_binary().display()))?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                collected.lock().expect("log lock").push(line);
            }
        });
        Ok(ServerProcess {
            child,
            sql_port: 0,
            http_port: 0,
            ready_after: Duration::ZERO,
            log,
        })
    }

    fn await_ready(&mut self, started: Instant) -> Result<(), String> {
        let mut patience = Patience::of(READY_WITHIN);
        loop {
            let lines = self.log();
            if lines.iter().any(|line| line.contains("ready in ")) {
                self.ready_after = started.elapsed();
                self.sql_port = port_after(&lines, "listening for SQL on ")?;
                self.http_port = port_after(&lines, "listening for HTTP on ")?;
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                std::thread::sleep(Duration::from_millis(50));
                return Err(format!(
                    "server ended with {status} before it was ready:\n{}",
                    self.log().join("\n")
                ));
            }
            if patience.is_over() {
                return Err(format!(
                    "server was not ready within {READY_WITHIN:?}:\n{}",
                    lines.join("\n")
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> Result<Option<i32>, String> {
        let id = self.child.id().to_string();
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("server did not end within 15 s of SIGTERM".into())
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("log lock").clone()
    }

    /// Puts the log of an earlier life before this one's.
    pub fn prepend_log(&self, earlier: Vec<String>) {
        self.log.lock().expect("log lock").splice(0..0, earlier);
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }

    pub fn connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user=laminar dbname=laminar", self.sql_port)
    }

    pub async fn connect(&self) -> Result<Client, String> {
        let (client, connection) = tokio_postgres::connect(&self.connection_string(), NoTls)
            .await
            .map_err(|error| format!("could not connect: {error}"))?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The binary under test; `LAMINAR_TEST_BINARY` names another build of it.
fn server_binary() -> PathBuf {
    std::env::var_os("LAMINAR_TEST_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_laminar")), PathBuf::from)
}

fn port_after(lines: &[String], marker: &str) -> Result<u16, String> {
    lines
        .iter()
        .find_map(|line| line.split_once(marker))
        .and_then(|(_, address)| address.split_whitespace().next())
        .and_then(|address| address.rsplit_once(':'))
        .and_then(|(_, port)| port.parse().ok())
        .ok_or_else(|| format!("the log does not say \"{marker}\":\n{}", lines.join("\n")))
}

/// The SQLSTATE and message of an error from the server.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", db.code().code(), db.message()),
        None => error.to_string(),
    }
}
