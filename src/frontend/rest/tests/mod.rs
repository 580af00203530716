//! Every route over a real socket, its answers against the OpenAPI document.

#![allow(clippy::unwrap_used)]
//! Over real sockets, with a backend in memory; every answer is checked against the OpenAPI document.

mod document;
mod fake;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::document::Document;
use self::fake::FakeBackend;
use super::listener::{RestConfig, RestListener};
use crate::config::TlsFiles;

struct TestServer {
    address: SocketAddr,
    backend: Arc<FakeBackend>,
    client: reqwest::Client,
    document: Document,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn start() -> TestServer {
    start_with(RestConfig::at(any_port())).await
}

async fn start_with(config: RestConfig) -> TestServer {
    let listener = RestListener::bind(config).await.unwrap();
    let address = listener.local_address();
    let backend = Arc::new(FakeBackend::new().await);
    let metrics = crate::metrics::install().unwrap();
    let shutdown = CancellationToken::new();
    let serving = listener.serve(Arc::clone(&backend), metrics, shutdown.clone());
    TestServer {
        address,
        backend,
        client: reqwest::Client::new(),
        document: Document::new(serde_json::to_value(super::openapi::document()).unwrap()),
        shutdown,
        task: crate::spawn::named("test rest", serving),
    }
}

impl TestServer {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks, checks the answer against the document, and gives it.
    async fn call(&mut self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let verb = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let mut request = self.client.request(verb, self.url(path));
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let answer = match text.as_str() {
            "" => None,
            text => Some(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))),
        };
        self.document.check(method, path, status, answer.as_ref());
        (status, answer.unwrap_or(Value::Null))
    }

    async fn ok(&mut self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    async fn fails(&mut self, method: &str, path: &str, body: Option<Value>) -> (u16, String, Value) {
        let (status, answer) = self.call(method, path, body).await;
        let code = answer["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{status} {answer}"));
        (status, code.to_owned(), answer)
    }

    fn last_statement(&self) -> String {
        self.backend.statements.lock().unwrap().last().unwrap().clone()
    }
}

#[tokio::test]
async fn every_route_answers_as_documented() {
    let mut server = start().await;
    assert_eq!(server.ok("get", "/api/v1/ping", None).await, json!("Pong"));
    assert_eq!(server.ok("get", "/healthz", None).await, json!({"status": "ok"}));
    assert_eq!(server.ok("get", "/readyz", None).await, json!({"status": "ready"}));
    let metrics = server.ok("get", "/metrics", None).await;
    assert!(
        metrics.as_str().unwrap().contains("laminar_rest_requests_total"),
        "{metrics}"
    );
    assert!(server.ok("get", "/api/v1/connectors?type=source", None).await["data"].is_array());
    assert_eq!(server.fails("get", "/api/v1/connectors/none", None).await.0, 404);

    let body = json!({"name": "files", "connector": "filesystem", "config": {"secret_key": "hunter2"}});
    let profile = server.ok("post", "/api/v1/connection-profiles", Some(body)).await;
    assert_eq!(profile["data"]["config"]["secret_key"], "********");
    assert_eq!(profile["data"]["created_at"], "2024-02-29T12:34:56.789Z");
    let profile_id = profile["data"]["id"].as_str().unwrap().to_owned();
    assert!(profile_id.starts_with("prof_"), "{profile_id}");
    let by_name = server.ok("get", "/api/v1/connection-profiles/files", None).await;
    assert_eq!(by_name, profile);
    assert_eq!(
        server.ok("get", "/api/v1/connection-profiles", None).await["data"][0],
        profile["data"]
    );

    let body = json!({
        "name": "orders", "connectionProfileId": profile_id, "tableType": "source",
        "schema": {"fields": [{"name": "id", "data_type": "BIGINT", "nullable": false}], "format": {"json": {}}},
        "config": {"path": "/tmp/x"}
    });
    let table = server.ok("post", "/api/v1/tables", Some(body)).await;
    assert_eq!(table["data"]["connector"], "filesystem");
    assert_eq!(table["data"]["connection_profile_id"], profile_id.as_str());
    assert_eq!(
        table["data"]["schema"]["fields"][0],
        json!({"name": "id", "data_type": "BIGINT", "nullable": false})
    );
    assert_eq!(table["data"]["config"], json!({"path": "/tmp/x", "format": "json"}));
    let table_id = table["data"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        server.ok("get", &format!("/api/v1/tables/{table_id}"), None).await,
        table
    );
    let page = server.ok("get", "/api/v1/tables?type=source&limit=1", None).await;
    assert_eq!(page["meta"], json!({"total": 1, "limit": 1, "offset": 0}));
    assert_eq!(
        server.ok("get", "/api/v1/tables?connector=kafka", None).await["meta"]["total"],
        0
    );

    lifecycle(&mut server).await;

    let in_use = server
        .fails("delete", &format!("/api/v1/connection-profiles/{profile_id}"), None)
        .await;
    assert_eq!((in_use.0, in_use.1.as_str()), (409, "CONFLICT"));
    assert_eq!(in_use.2["error"]["details"]["sqlstate"], "2BP01");
    server.ok("delete", &format!("/api/v1/tables/{table_id}"), None).await;
    server.ok("delete", "/api/v1/connection-profiles/files", None).await;
    assert_eq!(server.fails("get", "/api/v1/tables/orders", None).await.0, 404);
    // The registry may be empty in this build: then its one route is checked by its 404 above.
    let missing = server.document.not_called();
    assert!(missing.is_empty(), "no answer was checked of {missing:?}");
}

/// A pipeline from creation to deletion.
async fn lifecycle(server: &mut TestServer) {
    let body = json!({"name": "counts", "query": "SELECT count(*) FROM orders"});
    let pipeline = server.ok("post", "/api/v1/pipelines", Some(body)).await;
    assert_eq!(pipeline["state"], "Created");
    assert_eq!(
        (
            pipeline["parallelism"].as_u64(),
            pipeline["checkpoint_interval_micros"].as_u64()
        ),
        (Some(1), Some(10_000_000))
    );
    assert_eq!(pipeline["created_at"], 1_709_210_096_789_i64);
    assert_eq!(pipeline["action_text"], "Start");
    let id = pipeline["id"].as_str().unwrap().to_owned();
    let validated = json!({"query": "SELECT wrong"});
    let validated = server
        .ok("post", "/api/v1/pipelines/validate_query", Some(validated))
        .await;
    assert_eq!(validated["graph"], Value::Null);
    assert_eq!(
        validated["errors"][0],
        "syntax error at or near \"wrong\" (at character 8)"
    );
    assert_eq!(
        server
            .fails("post", &format!("/api/v1/pipelines/{id}/stop"), None)
            .await
            .0,
        409,
        "it never ran"
    );

    let job = server.ok("post", &format!("/api/v1/pipelines/{id}/start"), None).await;
    assert_eq!(
        (job["state"].as_str(), job["pipeline_id"].as_str()),
        (Some("Running"), Some(id.as_str()))
    );
    let again = server.ok("post", "/api/v1/pipelines/counts/start", None).await;
    assert_eq!(again, job, "starting what runs changes nothing");
    let running = server.ok("get", &format!("/api/v1/pipelines/{id}"), None).await;
    assert_eq!(
        (running["state"].as_str(), running["action_text"].as_str()),
        (Some("Running"), Some("Stop"))
    );
    assert_eq!(server.ok("get", "/api/v1/pipelines", None).await["data"][0], running);
    let body = json!({"mode": "checkpoint", "timeout_seconds": 5});
    let stopped = server
        .ok("post", &format!("/api/v1/pipelines/{id}/stop"), Some(body))
        .await;
    assert_eq!(stopped["state"], "Stopped");
    assert_eq!(server.last_statement(), "STOP WITH CHECKPOINT PIPELINE public.counts");
    assert_eq!(
        server.ok("get", &format!("/api/v1/pipelines/{id}/jobs"), None).await["data"][0],
        stopped
    );
    server.ok("delete", &format!("/api/v1/pipelines/{id}"), None).await;
    assert_eq!(
        server.fails("get", &format!("/api/v1/pipelines/{id}"), None).await.0,
        404
    );
}

#[tokio::test]
async fn other_names_and_bases_are_the_same_routes() {
    let mut server = start().await;
    for (at, path) in ["/v1/profiles", "/api/v1/connection_profiles", "/v1/connection-profiles"]
        .into_iter()
        .enumerate()
    {
        server
            .ok(
                "post",
                path,
                Some(json!({"name": format!("p{at}"), "type": "filesystem"})),
            )
            .await;
        assert_eq!(
            server.ok("get", path, None).await["data"].as_array().unwrap().len(),
            at + 1
        );
    }
    for (at, path) in ["/v1/connection_tables", "/api/v1/connection-tables"]
        .into_iter()
        .enumerate()
    {
        server
            .ok("post", path, Some(json!({"name": format!("t{at}"), "profile": "p0"})))
            .await;
        assert_eq!(server.ok("get", path, None).await["meta"]["total"], at + 1);
    }
    assert_eq!(server.ok("get", "/v1/ping", None).await, json!("Pong"));
}

#[tokio::test]
async fn pages_of_pipelines() {
    let mut server = start().await;
    for at in 0..5 {
        let body = json!({"name": format!("p{at}"), "query": "SELECT 1"});
        server.ok("post", "/v1/pipelines", Some(body)).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let data = page["data"].as_array().unwrap();
        data.iter()
            .map(|pipeline| pipeline["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = server.ok("get", "/v1/pipelines?limit=2", None).await;
    assert_eq!(
        (names(&first), first["has_more"].as_bool()),
        (vec!["p4".to_owned(), "p3".to_owned()], Some(true))
    );
    let last = first["data"][1]["id"].as_str().unwrap();
    let rest = server
        .ok("get", &format!("/v1/pipelines?starting_after={last}"), None)
        .await;
    assert_eq!(
        (names(&rest), rest["has_more"].as_bool()),
        (vec!["p2".to_owned(), "p1".to_owned(), "p0".to_owned()], Some(false))
    );
    let offset = server.ok("get", "/v1/pipelines?offset=4", None).await;
    assert_eq!(names(&offset), ["p0"]);
    server.ok("post", "/v1/pipelines/p1/start", None).await;
    assert_eq!(
        names(&server.ok("get", "/v1/pipelines?state=running", None).await),
        ["p1"]
    );
    assert_eq!(names(&server.ok("get", "/v1/pipelines?name=*3", None).await), ["p3"]);
    assert_eq!(server.fails("get", "/v1/pipelines?limit=1000", None).await.0, 400);
    assert_eq!(server.fails("get", "/v1/pipelines?limit=x", None).await.0, 400);
}

#[tokio::test]
async fn wrong_bodies_say_what() {
    let mut server = start().await;
    let (status, code, answer) = server
        .fails(
            "post",
            "/v1/pipelines",
            Some(json!({"name": "p", "query": "SELECT wrong"})),
        )
        .await;
    assert_eq!((status, code.as_str()), (400, "VALIDATION_ERROR"));
    assert_eq!(answer["error"]["details"]["sqlstate"], "42601");
    assert_eq!(answer["error"]["details"]["position"], 8, "in the request's query");
    let unknown = json!({"name": "p", "query": "SELECT 1", "paralelism": 2});
    let (status, _, answer) = server.fails("post", "/v1/pipelines", Some(unknown)).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["details"]["hint"], "Perhaps you meant \"parallelism\".");
    let (status, _, answer) = server.fails("post", "/v1/pipelines", Some(json!({"name": "p"}))).await;
    assert_eq!(
        (status, answer["error"]["message"].as_str().unwrap().contains("query")),
        (400, true)
    );
    let twice = json!({"name": "p", "connector": "filesystem"});
    server.ok("post", "/v1/tables", Some(twice.clone())).await;
    assert_eq!(server.fails("post", "/v1/tables", Some(twice)).await.0, 409);
    let udfs = json!({"name": "u", "query": "SELECT 1", "udfs": [{"definition": "fn"}]});
    assert_eq!(server.fails("post", "/v1/pipelines", Some(udfs)).await.0, 422);
    let missing_profile = json!({"name": "t", "connection_profile_id": "prof_x"});
    assert_eq!(server.fails("post", "/v1/tables", Some(missing_profile)).await.0, 400);
    let mode = json!({"mode": "gently"});
    server
        .ok("post", "/v1/pipelines", Some(json!({"name": "q", "query": "SELECT 1"})))
        .await;
    assert_eq!(server.fails("post", "/v1/pipelines/q/stop", Some(mode)).await.0, 400);
}

/// What no document describes: not JSON, too long, no route, no such method, a panic.
#[tokio::test]
async fn everything_else_is_an_error_body_too() {
    let server = start().await;
    let code = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["error"]["code"].as_str().unwrap().to_owned())
    };
    let post = |path: &str| server.client.post(server.url(path));
    assert_eq!(
        code(post("/v1/tables").body("{nonsense")).await,
        (400, "VALIDATION_ERROR".into())
    );
    let long = vec![b' '; super::body::BODY_BYTES_MAX + 1];
    assert_eq!(
        code(post("/v1/tables").body(long)).await,
        (413, "PAYLOAD_TOO_LARGE".into())
    );
    assert_eq!(code(post("/v1/nowhere")).await, (404, "NOT_FOUND".into()));
    assert_eq!(code(post("/v1/ping")).await, (405, "METHOD_NOT_ALLOWED".into()));
    let panics = post("/v1/tables").json(&json!({"name": "panic", "connector": "filesystem"}));
    assert_eq!(code(panics).await, (500, "INTERNAL_ERROR".into()));
    *server.backend.is_ready.lock().unwrap() = false;
    assert_eq!(
        code(server.client.get(server.url("/readyz"))).await,
        (503, "NOT_READY".into())
    );
    let foreign = server
        .client
        .get(server.url("/v1/pipelines"))
        .header("Host", "evil.example");
    assert_eq!(code(foreign).await, (400, "VALIDATION_ERROR".into()));
}

#[tokio::test]
async fn tokens_are_needed_where_there_is_no_trust() {
    let config = RestConfig {
        token: Some("t0ken".into()),
        trust_loopback: false,
        ..RestConfig::at(any_port())
    };
    let mut server = start_with(config).await;
    let (status, code, _) = server.fails("get", "/v1/pipelines", None).await;
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    for public in ["/v1/ping", "/v1/connectors", "/healthz", "/readyz"] {
        server.ok("get", public, None).await;
    }
    let with_token = server.client.get(server.url("/v1/pipelines")).bearer_auth("t0ken");
    assert_eq!(with_token.send().await.unwrap().status(), 200);
    let wrong = server
        .client
        .get(server.url("/v1/pipelines"))
        .bearer_auth("t1ken")
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let server = start().await;
    for path in ["/api/v1/api-docs/openapi.json", "/v1/api-docs/openapi.json"] {
        let document: Value = server
            .client
            .get(server.url(path))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(document["info"]["title"], "Laminar");
        assert!(document["paths"]["/api/v1/pipelines/{id}/start"]["post"].is_object());
    }
    let page = server.client.get(server.url("/api/docs/")).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("swagger"));
    let script = server
        .client
        .get(server.url("/api/docs/swagger-initializer.js"))
        .send()
        .await
        .unwrap();
    assert!(script.text().await.unwrap().contains("/api/v1/api-docs/openapi.json"));
}

#[tokio::test]
async fn a_shutdown_ends_the_listener_and_a_port_in_use_is_told() {
    let server = start().await;
    let error = RestListener::bind(RestConfig::at(server.address)).await.err().unwrap();
    assert!(error.hint.unwrap().contains("--http-listen"));
    let everywhere = RestConfig::at(SocketAddr::from(([0, 0, 0, 0], 0)));
    assert!(
        RestListener::bind(everywhere)
            .await
            .err()
            .unwrap()
            .message
            .contains("refusing")
    );
    server.shutdown.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(6), server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn tls_is_served() {
    use rustls_pki_types::pem::PemObject;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: folder.path().join("server.crt"),
        key: folder.path().join("server.key"),
    };
    let certificate = include_str!("../../pgwire/tests/localhost.crt");
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, include_str!("../../pgwire/tests/localhost.key")).unwrap();
    let config = RestConfig {
        tls: Some(files),
        ..RestConfig::at(any_port())
    };
    let server = start_with(config).await;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
        .unwrap();
    let request = b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // The server may close without a TLS goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        String::from_utf8_lossy(&answer).ends_with("\"Pong\""),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}
