//! A server that speaks the S3 protocol, ended with the test; `scripts/install-test-dependencies` brings it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct S3Server {
    process: Child,
    port: u16,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where everything must be there, a missing server fails the test; elsewhere the test says that it was skipped.
pub async fn s3_server() -> Option<S3Server> {
    let server = started().await;
    if server.is_none() {
        assert!(
            std::env::var_os("CI").is_none() && std::env::var_os("LAMINAR_TEST_REQUIRE_ALL").is_none(),
            "moto_server is needed: scripts/install-test-dependencies"
        );
        eprintln!("skipped: moto_server did not start");
    }
    server
}

/// With one empty bucket, called `bucket`.
async fn started() -> Option<S3Server> {
    let free = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
    let port = free.local_addr().ok()?.port();
    drop(free);
    let process = Command::new("moto_server")
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let server = S3Server { process, port };
    let client = reqwest::Client::new();
    for _ in 0..300 {
        let made = client.put(format!("{}/bucket", server.endpoint())).send().await;
        if made.is_ok_and(|answer| answer.status().is_success()) {
            return Some(server);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

impl S3Server {
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As options of a table and of a store.
    pub fn options(&self) -> [(&'static str, String); 5] {
        [
            ("aws_endpoint", self.endpoint()),
            ("aws_access_key_id", "test".into()),
            ("aws_secret_access_key", "test".into()),
            ("aws_region", "us-east-1".into()),
            ("allow_http", "true".into()),
        ]
    }
}
