//! A server that speaks the protocol of Azure's blobs (Azurite), ended with the test; `scripts/install-test-dependencies` brings it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::testing::schema_registry::test_python;

/// Azurite's own, which everybody knows.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container: a request that the account's key signs.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
endpoint, account, key, container = sys.argv[1:]
date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{container}\nrestype:container"
signature = base64.b64encode(hmac.digest(base64.b64decode(key), signed.encode(), "sha256")).decode()
headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signature}"}
urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{container}?restype=container", method="PUT", headers=headers))
"#;

pub struct AzureServer {
    process: Child,
    endpoint: String,
}

impl Drop for AzureServer {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// With one empty container, called `container`. `None` after saying that the test is skipped, also where everything else must be
/// there: it comes from npm, which a machine for Rust need not have.
pub async fn azure_server() -> Option<AzureServer> {
    let server = started().await;
    if server.is_none() {
        eprintln!("skipped: azurite-blob did not start");
    }
    server
}

async fn started() -> Option<AzureServer> {
    let free = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
    let port = free.local_addr().ok()?.port();
    drop(free);
    let process = Command::new("azurite-blob")
        .args([
            "--silent",
            "--inMemoryPersistence",
            "--skipApiVersionCheck",
            "--disableTelemetry",
        ])
        .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
    let server = AzureServer { process, endpoint };
    let python = test_python("import hmac")?;
    for _ in 0..150 {
        let made = Command::new(&python)
            .args(["-c", MAKE_CONTAINER, &server.endpoint, ACCOUNT, KEY, "container"])
            .stderr(Stdio::null())
            .status();
        if made.is_ok_and(|status| status.success()) {
            return Some(server);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

impl AzureServer {
    /// As options of a table and of a store.
    pub fn options(&self) -> [(&'static str, String); 4] {
        [
            ("azure_storage_account_name", ACCOUNT.into()),
            ("azure_storage_account_key", KEY.into()),
            ("azure_endpoint", self.endpoint.clone()),
            ("allow_http", "true".into()),
        ]
    }
}
