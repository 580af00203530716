//! REST with the server behind it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::any_port;
use super::document::Document;
use crate::frontend::rest::listener::{RestConfig, RestListener};
use crate::frontend::rest::server_backend::ServerBackend;
use crate::frontend::testing::TestServer;

struct Served {
    server: TestServer,
    backend: Arc<ServerBackend>,
    base: String,
    client: reqwest::Client,
    document: Document,
}

async fn start() -> Served {
    let server = TestServer::start().await;
    let listener = RestListener::bind(RestConfig::at(any_port())).await.unwrap();
    let base = format!("http://{}/api/v1", listener.local_address());
    let backend = Arc::new(ServerBackend::new(Arc::clone(&server.server)));
    let metrics = crate::metrics::install().unwrap();
    let serving = listener.serve(Arc::clone(&backend), metrics, CancellationToken::new());
    crate::spawn::named("test rest", serving);
    Served {
        server,
        backend,
        base,
        client: reqwest::Client::new(),
        document: Document::new(serde_json::to_value(crate::frontend::rest::openapi::document()).unwrap()),
    }
}

impl Served {
    async fn call(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let verb = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let mut request = self.client.request(verb, format!("{}{path}", self.base));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let answer: Option<Value> = (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap());
        self.document
            .check(method, &format!("/api/v1{path}"), status, answer.as_ref());
        (status, answer.unwrap_or(Value::Null))
    }

    async fn ok(&mut self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    async fn wait_for_state(&mut self, pipeline: &str, state: &str) -> Value {
        for _ in 0..1000 {
            let answer = self.ok("get", &format!("/pipelines/{pipeline}"), Value::Null).await;
            if answer["state"] == state {
                return answer;
            }
            assert_ne!(answer["state"], "Failed", "{answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the pipeline did not become {state}");
    }
}

fn source(served: &Served) -> Value {
    served
        .server
        .write("in.json", "{\"id\": 1}\n{\"id\": 2}\n{\"id\": 2}\n");
    json!({
        "name": "events", "connector": "single_file", "table_type": "source",
        "schema": {"fields": [{"name": "id", "data_type": "BIGINT"}], "format": {"json": {}}},
        "config": {"path": "{{ DATA }}/in.json"}
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_from_creation_to_deletion() {
    let mut served = start().await;
    let body = source(&served);
    let table = served.ok("post", "/tables", body).await;
    assert_eq!(table["data"]["connector"], "single_file");
    assert_eq!(
        table["data"]["config"]["path"], "{{ DATA }}/in.json",
        "variables are not filled in"
    );
    let body = json!({"name": "counts", "query": "SELECT id, count(*) AS n FROM events GROUP BY id"});
    let pipeline = served.ok("post", "/pipelines", body).await;
    assert_eq!(
        (pipeline["state"].as_str(), pipeline["stop"].as_str()),
        (Some("Created"), Some("checkpoint"))
    );
    assert!(!pipeline["graph"]["nodes"].as_array().unwrap().is_empty());
    let id = pipeline["id"].as_str().unwrap().to_owned();
    let job = served.ok("post", &format!("/pipelines/{id}/start"), Value::Null).await;
    assert_eq!(job["pipeline_id"], id.as_str());
    served.wait_for_state(&id, "Finished").await;
    let jobs = served.ok("get", &format!("/pipelines/{id}/jobs"), Value::Null).await;
    assert_eq!(jobs["data"][0]["id"], job["id"]);
    let (status, conflict) = served.call("delete", "/tables/events", Value::Null).await;
    assert_eq!(
        (status, conflict["error"]["details"]["sqlstate"].as_str()),
        (409, Some("2BP01"))
    );
    served.ok("delete", &format!("/pipelines/{id}"), Value::Null).await;
    served.ok("delete", "/tables/events", Value::Null).await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_pipeline_is_started_stopped_and_started_again() {
    let mut served = start().await;
    let config = json!({"event_rate": "1000"});
    served
        .ok(
            "post",
            "/tables",
            json!({"name": "ticks", "connector": "impulse", "config": config}),
        )
        .await;
    served
        .ok(
            "post",
            "/pipelines",
            json!({"name": "all", "query": "SELECT count(*) AS n FROM ticks"}),
        )
        .await;
    let first = served.ok("post", "/pipelines/all/start", Value::Null).await;
    let running = served.wait_for_state("all", "Running").await;
    assert_eq!(running["action_text"], "Stop");
    let stopped = served
        .ok(
            "post",
            "/pipelines/all/stop",
            json!({"mode": "checkpoint", "timeout_seconds": 20}),
        )
        .await;
    assert_eq!(stopped["id"], first["id"]);
    served.wait_for_state("all", "Stopped").await;
    let second = served.ok("post", "/pipelines/all/start", Value::Null).await;
    assert_ne!(second["id"], first["id"]);
    assert_eq!(
        served.ok("get", "/pipelines/all/jobs", Value::Null).await["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    served.ok("delete", "/pipelines/all", Value::Null).await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_statements_is_a_pipeline() {
    let mut served = start().await;
    served.server.write("in.json", "{\"id\": 1}\n{\"id\": 2}\n");
    let query = "CREATE TABLE numbers (id BIGINT) WITH (connector = 'single_file', path = '{{ DATA }}/in.json', \
                 format = 'json', type = 'source');\n\
                 CREATE TABLE copy WITH (connector = 'single_file', path = '{{ DATA }}/out.json', format = 'json', type = 'sink');\n\
                 INSERT INTO copy SELECT id FROM numbers; -- all";
    let pipeline = served
        .ok("post", "/pipelines", json!({"name": "p", "query": query}))
        .await;
    assert_eq!(pipeline["query"], query, "shown as it was sent");
    served.ok("post", "/pipelines/p/start", Value::Null).await;
    served.wait_for_state("p", "Finished").await;
    assert_eq!(served.server.read("out.json").lines().count(), 2);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_are_validated_and_errors_have_their_place() {
    let mut served = start().await;
    let body = source(&served);
    served.ok("post", "/tables", body).await;
    let valid = served
        .ok(
            "post",
            "/pipelines/validate_query",
            json!({"query": "SELECT id FROM events"}),
        )
        .await;
    assert_eq!(valid["errors"], json!([]));
    assert!(!valid["graph"]["edges"].as_array().unwrap().is_empty());
    let invalid = served
        .ok(
            "post",
            "/pipelines/validate_query",
            json!({"query": "SELECT id FROM event"}),
        )
        .await;
    assert_eq!(invalid["graph"], Value::Null);
    let text = invalid["errors"][0].as_str().unwrap();
    assert!(text.contains("event"), "{text}");
    let (status, answer) = served
        .call(
            "post",
            "/pipelines",
            json!({"name": "p", "query": "SELECT id FROM event"}),
        )
        .await;
    assert_eq!(status, 400);
    let details = &answer["error"]["details"];
    assert_eq!(
        (details["sqlstate"].as_str(), details["position"].as_u64()),
        (Some("42P01"), Some(16)),
        "{answer}"
    );
    let (status, answer) = served
        .call("post", "/pipelines", json!({"name": "p", "query": "SELEC 1"}))
        .await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["details"]["position"], 1, "{answer}");
    let unknown = json!({"name": "t", "connector": "single_fil"});
    let (status, answer) = served.call("post", "/tables", unknown).await;
    assert_eq!(status, 400, "{answer}");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_means_that_jobs_were_taken_up() {
    let served = start().await;
    let url = served.base.replace("/api/v1", "/readyz");
    assert_eq!(served.client.get(&url).send().await.unwrap().status(), 503);
    served.backend.jobs_resumed();
    assert_eq!(served.client.get(&url).send().await.unwrap().status(), 200);
    served.server.stop().await;
}
