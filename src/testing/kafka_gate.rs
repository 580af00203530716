//! TLS and SASL in front of the tests' broker, which has neither: a process of its own. Also used by the integration binary.
//!
//! The process is `kafka_gate.py` beside this file, which says what it is and what it is not.

#![allow(clippy::unwrap_used, dead_code)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::schema_registry::test_python;

const READY_WITHIN: Duration = Duration::from_secs(60);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/kafka_gate.py");

/// Who is let in where SASL is asked for; the name has what SCRAM must escape.
pub const USER: &str = "lami=nar,1";
pub const PASSWORD: &str = "hunter2 = ü";

/// A gate; ended when dropped.
pub struct KafkaGate {
    /// By the name that certificates are for.
    pub address: String,
    process: Child,
    folder: TempDir,
}

impl KafkaGate {
    /// In front of the broker at `broker`, with further arguments of the program.
    pub fn start(broker: &str, arguments: &[&str]) -> KafkaGate {
        let python = test_python("import asyncio, ssl").expect("a Python with ssl");
        let folder = tempfile::Builder::new().prefix("laminar-gate-").tempdir().unwrap();
        // Taken and given back: between the two somebody else may take it, which shows as a gate that does not start.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(python)
            .args([PROGRAM, "--port", &port.to_string(), "--broker", broker, "--log"])
            .arg(folder.path().join("passed.log"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let gate = KafkaGate {
            address: format!("localhost:{port}"),
            process,
            folder,
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < READY_WITHIN, "the gate did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        gate
    }

    /// The argument `--user` of who is let in.
    pub fn user() -> String {
        format!("{USER}:{PASSWORD}")
    }

    /// Who came in and how, each way once: `tls=True certificate=laminar mechanism=none user=None`.
    pub fn passed(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("passed.log")).unwrap();
        let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    }
}

impl Drop for KafkaGate {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
