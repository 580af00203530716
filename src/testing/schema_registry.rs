//! A schema registry for tests: a process of its own on a free port, with a folder of its own. Also used by the integration binary.
//!
//! The process is `schema_registry.py` beside this file, which says what it is and what it is not.
//! `LAMINAR_TEST_SCHEMA_REGISTRY=url` uses a running registry instead; tests that stop it, count its requests or want a user are
//! then left out. Without Python and the package `avro` (`scripts/install-test-dependencies`) the test prints why it is skipped, or fails when
//! `CI` or `LAMINAR_TEST_REQUIRE_ALL` is set.

#![allow(clippy::unwrap_used, dead_code)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(60);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/schema_registry.py");

/// A registry; ended and removed when dropped.
pub struct TestRegistry {
    pub url: String,
    server: Option<OwnServer>,
}

struct OwnServer {
    process: Child,
    python: PathBuf,
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
}

impl TestRegistry {
    /// `None` when there is no registry and tests may be skipped.
    pub fn start() -> Option<TestRegistry> {
        match std::env::var("LAMINAR_TEST_SCHEMA_REGISTRY") {
            Ok(url) => Some(TestRegistry { url, server: None }),
            Err(_) => TestRegistry::start_own(&[]),
        }
    }

    /// One that is this test's own whatever the environment says, with further arguments of the program.
    pub fn start_own(arguments: &[&str]) -> Option<TestRegistry> {
        let Some(python) = test_python("import avro") else {
            skip("there is no Python with the package avro, and LAMINAR_TEST_SCHEMA_REGISTRY is not set");
            return None;
        };
        let directory = tempfile::Builder::new().prefix("laminar-registry-").tempdir().unwrap();
        // Taken and given back: between the two somebody else may take it, which shows as a registry that does not start.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let scheme = match arguments.iter().any(|argument| argument == "--certificate") {
            true => "https",
            false => "http",
        };
        let process = start_process(&python, &directory, port, &arguments);
        let server = OwnServer {
            process,
            python,
            directory,
            port,
            arguments,
        };
        server.wait_until_ready();
        Some(TestRegistry {
            url: format!("{scheme}://127.0.0.1:{port}"),
            server: Some(server),
        })
    }

    /// What it was asked so far, a line each; `None` when it is not this test's own.
    pub fn requests(&self) -> Option<Vec<String>> {
        let server = self.server.as_ref()?;
        let log = std::fs::read_to_string(server.directory.path().join("requests.log")).unwrap();
        Some(log.lines().map(str::to_owned).collect())
    }

    /// Ends the registry; false when it is not this test's own.
    pub fn stop(&mut self) -> bool {
        let Some(server) = &mut self.server else {
            return false;
        };
        server.process.kill().unwrap();
        server.process.wait().unwrap();
        true
    }

    /// After [`TestRegistry::stop`]: at the same address, with the same schemas.
    pub fn start_again(&mut self) {
        if let Some(server) = &mut self.server {
            server.process = start_process(&server.python, &server.directory, server.port, &server.arguments);
            server.wait_until_ready();
        }
    }

    /// Registers an Avro schema as any client would; gives its id.
    pub fn register(&self, subject: &str, schema: &str) -> u32 {
        let body = serde_json::json!({ "schema": schema });
        let answer = self.ask("POST", &format!("subjects/{subject}/versions"), &body);
        u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap()
    }

    /// Registers a Protobuf schema that imports these files: name and subject of each, in their first versions.
    pub fn register_protobuf(&self, subject: &str, schema: &str, imports: &[(&str, &str)]) -> u32 {
        let reference =
            |(name, subject): &(&str, &str)| serde_json::json!({ "name": name, "subject": subject, "version": 1 });
        let references: Vec<serde_json::Value> = imports.iter().map(reference).collect();
        let body = serde_json::json!({ "schema": schema, "schemaType": "PROTOBUF", "references": references });
        let answer = self.ask("POST", &format!("subjects/{subject}/versions"), &body);
        u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap()
    }

    /// Asks by way of Python, which every test can do without a runtime.
    pub fn ask(&self, method: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
        const ASK: &str = "import sys, urllib.request, urllib.error\n\
            request = urllib.request.Request(sys.argv[2], method=sys.argv[1], data=sys.argv[3].encode() or None,\n\
                headers={'Content-Type': 'application/vnd.schemaregistry.v1+json'})\n\
            try: print(urllib.request.urlopen(request).read().decode())\n\
            except urllib.error.HTTPError as error: print(error.read().decode())";
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let python = test_python("import json").unwrap();
        let asked = Command::new(python)
            .args(["-c", ASK, method, &format!("{}/{path}", self.url), &body])
            .output()
            .unwrap();
        serde_json::from_slice(&asked.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&asked.stderr)))
    }

    /// A name that no other test uses.
    pub fn new_subject(&self) -> String {
        format!("laminar-test-{}-value", uuid::Uuid::new_v4().simple())
    }
}

impl OwnServer {
    fn wait_until_ready(&self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < READY_WITHIN, "the schema registry did not start");
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

fn start_process(python: &Path, directory: &TempDir, port: u16, arguments: &[String]) -> Child {
    Command::new(python)
        .args([PROGRAM, "--port", &port.to_string(), "--data"])
        .arg(directory.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The first Python on PATH that can `import` something.
pub fn test_python(import: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("python3"))
        .find(|python| {
            let tried = Command::new(python).args(["-c", import]).stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        })
}

/// Told, or a failure where nothing may be skipped.
pub fn skip(reason: &str) {
    let required = ["CI", "LAMINAR_TEST_REQUIRE_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    assert!(!required, "this run requires all tests, but {reason}");
    eprintln!("skipped: {reason}");
}
