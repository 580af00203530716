//! A real Postgres for tests: one server a test process, in a directory of its own, on a Unix socket and a free port.
//!
//! `LAMINAR_TEST_POSTGRES=postgres://..` uses a running server instead. Without either the test prints why it is
//! skipped, or fails when `CI` or `LAMINAR_TEST_REQUIRE_ALL` is set.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

/// Postgres refuses to run as root: then its files belong to this user.
const UNPRIVILEGED_UID: u32 = 65534;
const START_ATTEMPTS: u32 = 600;

/// A server; stopped and removed when dropped.
pub struct TestPostgres {
    /// Without a database name.
    address: String,
    databases: AtomicU32,
    server: Option<OwnServer>,
}

struct OwnServer {
    process: Child,
    binaries: PathBuf,
    directory: TempDir,
}

impl TestPostgres {
    /// `None` when there is no Postgres and tests may be skipped.
    pub async fn start() -> Option<TestPostgres> {
        if let Ok(address) = std::env::var("LAMINAR_TEST_POSTGRES") {
            return Some(TestPostgres {
                address,
                databases: AtomicU32::new(0),
                server: None,
            });
        }
        TestPostgres::start_own(false).await
    }

    /// An own server that also speaks TLS, with a certificate for `localhost` made by `openssl`.
    pub async fn start_with_tls() -> Option<TestPostgres> {
        if Command::new("openssl").arg("version").output().is_err() {
            skip("no openssl command was found");
            return None;
        }
        TestPostgres::start_own(true).await
    }

    /// The certificate of [`TestPostgres::start_with_tls`].
    pub fn certificate(&self) -> Option<PathBuf> {
        let server = self.server.as_ref()?;
        Some(server.directory.path().join("data/server.crt"))
    }

    async fn start_own(tls: bool) -> Option<TestPostgres> {
        let Some(binaries) = find_binaries() else {
            skip("no Postgres binaries were found, and LAMINAR_TEST_POSTGRES is not set");
            return None;
        };
        let server = tokio::task::spawn_blocking(move || start_server(&binaries, tls))
            .await
            .unwrap();
        let (server, address) = server;
        let postgres = TestPostgres {
            address,
            databases: AtomicU32::new(0),
            server: Some(server),
        };
        postgres.wait_until_ready().await;
        Some(postgres)
    }

    /// The URL of a new, empty database.
    pub async fn new_database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::SeqCst);
        let name = format!("laminar_test_{}_{number}", uuid::Uuid::now_v7().simple());
        let (client, connection) = tokio_postgres::connect(&self.url_of("postgres"), tokio_postgres::NoTls)
            .await
            .unwrap();
        let driver = crate::spawn::named("test database connection", connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        drop(client);
        driver.await.unwrap().unwrap();
        self.url_of(&name)
    }

    /// Ends the server, all connections with it; false when it is not this test's own.
    pub async fn stop(&mut self) -> bool {
        let Some(server) = &mut self.server else {
            return false;
        };
        let stopped = command(&server.binaries.join("pg_ctl"), &server.directory.path().join("data"))
            .args(["stop", "--mode", "fast", "-D"])
            .arg(server.directory.path().join("data"))
            .status();
        assert!(stopped.unwrap().success());
        server.process.wait().unwrap();
        true
    }

    /// After [`TestPostgres::stop`]: at the same address, with the same databases.
    pub async fn start_again(&mut self) {
        let port = url::Url::parse(&self.address).unwrap().port().unwrap();
        if let Some(server) = &mut self.server {
            server.process = start_process(&server.binaries, &server.directory.path().join("data"), port, false);
        }
        self.wait_until_ready().await;
    }

    fn url_of(&self, database: &str) -> String {
        let mut url = url::Url::parse(&self.address).unwrap();
        url.set_path(database);
        url.to_string()
    }

    async fn wait_until_ready(&self) {
        for _ in 0..START_ATTEMPTS {
            if tokio_postgres::connect(&self.url_of("postgres"), tokio_postgres::NoTls)
                .await
                .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Postgres did not start");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // An immediate end is fine, the directory goes too; but unlike a kill it leaves no shared memory behind.
        let data = self.directory.path().join("data");
        let stopped = command(&self.binaries.join("pg_ctl"), &data)
            .args(["stop", "--mode", "immediate", "--no-wait", "-D"])
            .arg(&data)
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            // It has ended already when this fails.
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

fn find_binaries() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    candidates.extend(glob::glob("/usr/lib/postgresql/*/bin").unwrap().flatten());
    // A wrapper or link on PATH leads to the directory that also has what `initdb` looks for beside itself.
    candidates
        .into_iter()
        .filter_map(|directory| directory.join("initdb").canonicalize().ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned))
        .find(|directory| directory.join("postgres").exists())
}

fn start_server(binaries: &Path, tls: bool) -> (OwnServer, String) {
    let directory = tempfile::Builder::new().prefix("laminar-postgres-").tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    if running_as_root() {
        for path in [directory.path(), data.as_path()] {
            std::os::unix::fs::chown(path, Some(UNPRIVILEGED_UID), Some(UNPRIVILEGED_UID)).unwrap();
        }
    }
    let output = command(&binaries.join("initdb"), &data)
        .args([
            "--username",
            "postgres",
            "--auth",
            "trust",
            "--no-sync",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "-D",
        ])
        .arg(&data)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "initdb: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    if tls {
        make_certificate(&data);
    }
    // Taken and given back: between the two somebody else may take it, which shows as a server that does not start.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let process = start_process(binaries, &data, port, tls);
    let server = OwnServer {
        process,
        binaries: binaries.to_owned(),
        directory,
    };
    (server, format!("postgres://postgres@localhost:{port}/"))
}

fn start_process(binaries: &Path, data: &Path, port: u16, tls: bool) -> Child {
    command(&binaries.join("postgres"), data)
        .args(["-c", if tls { "ssl=on" } else { "ssl=off" }])
        .args([
            "-c",
            "listen_addresses=localhost",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
            "-c",
            "wal_level=logical",
        ])
        .args(["-c", "max_connections=200", "-p", &port.to_string(), "-D"])
        .arg(data)
        .spawn()
        .unwrap()
}

/// Told, or a failure where nothing may be skipped.
fn skip(reason: &str) {
    let required = ["CI", "LAMINAR_TEST_REQUIRE_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    assert!(!required, "this run requires all tests, but {reason}");
    eprintln!("skipped: {reason}");
}

/// Where Postgres looks for it.
fn make_certificate(data: &Path) {
    let output = command(Path::new("openssl"), data)
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args(["-keyout", "server.key", "-out", "server.crt"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn command(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if running_as_root() {
        use std::os::unix::process::CommandExt;
        command.uid(UNPRIVILEGED_UID).gid(UNPRIVILEGED_UID);
    }
    command
}

fn running_as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of this process's own directory in /proc is the user it runs as.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
