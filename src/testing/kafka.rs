//! A broker for tests: a process of its own on a free port, with a directory of its own. Also used by the integration binary.
//!
//! The broker is noida-db's, which speaks the protocol of Kafka with transactions and fencing, but is not Kafka: no SASL, no TLS,
//! one node, and transactions never time out. `LAMINAR_TEST_KAFKA=host:port` uses a running server instead. Without either the
//! test prints why it is skipped, or fails when `CI` or `LAMINAR_TEST_REQUIRE_ALL` is set.

#![allow(clippy::unwrap_used, dead_code)]

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A broker; ended and removed when dropped.
pub struct TestKafka {
    pub address: String,
    server: Option<OwnServer>,
}

struct OwnServer {
    process: Child,
    binary: PathBuf,
    directory: TempDir,
    port: u16,
}

impl TestKafka {
    /// `None` when there is no broker and tests may be skipped.
    pub fn start() -> Option<TestKafka> {
        if let Ok(address) = std::env::var("LAMINAR_TEST_KAFKA") {
            return Some(TestKafka { address, server: None });
        }
        let Some(binary) = find_binary() else {
            skip("no noida-db was found, and LAMINAR_TEST_KAFKA is not set");
            return None;
        };
        let directory = tempfile::Builder::new().prefix("laminar-kafka-").tempdir().unwrap();
        // Taken and given back: between the two somebody else may take it, which shows as a broker that does not start.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = start_process(&binary, &directory, port);
        let server = OwnServer {
            process,
            binary,
            directory,
            port,
        };
        server.wait_until_ready();
        Some(TestKafka {
            address: format!("127.0.0.1:{port}"),
            server: Some(server),
        })
    }

    /// A name that no other test uses.
    pub fn new_topic(&self) -> String {
        format!("laminar-test-{}", uuid::Uuid::new_v4().simple())
    }

    /// Ends the broker, all connections with it; false when it is not this test's own.
    pub fn stop(&mut self) -> bool {
        let Some(server) = &mut self.server else {
            return false;
        };
        server.signal("TERM");
        server.process.wait().unwrap();
        true
    }

    /// Until [`TestKafka::thaw`] the broker answers nothing, and no connection breaks; false when it is not this test's own.
    pub fn freeze(&self) -> bool {
        self.server.as_ref().inspect(|server| server.signal("STOP")).is_some()
    }

    pub fn thaw(&self) {
        if let Some(server) = &self.server {
            server.signal("CONT");
        }
    }

    /// After [`TestKafka::stop`]: at the same address, with the same topics.
    pub fn start_again(&mut self) {
        if let Some(server) = &mut self.server {
            server.process = start_process(&server.binary, &server.directory, server.port);
            server.wait_until_ready();
        }
    }
}

impl OwnServer {
    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    fn wait_until_ready(&self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < READY_WITHIN, "noida-db did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start_process(binary: &PathBuf, directory: &TempDir, port: u16) -> Child {
    Command::new(binary)
        .args([
            "start",
            "--only",
            "kafka",
            "--kafka-port",
            &port.to_string(),
            "--data-dir",
        ])
        .arg(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// On PATH is a starter in Python; the program itself, which can be ended by its id, lies in the package.
fn find_binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let on_path = |folder: PathBuf| {
        folder.join("noida-db").exists().then_some(())?;
        let pattern = folder.join("../lib/python3*/site-packages/noida_db/noida-db");
        glob::glob(&pattern.to_string_lossy()).ok()?.flatten().next()
    };
    std::env::split_paths(&path).find_map(on_path)
}

/// Told, or a failure where nothing may be skipped.
fn skip(reason: &str) {
    let required = ["CI", "LAMINAR_TEST_REQUIRE_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    assert!(!required, "this run requires all tests, but {reason}");
    eprintln!("skipped: {reason}");
}
