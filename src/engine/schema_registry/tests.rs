//! A registry process: what it is asked and how often, its words in errors, outages, users, references.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::client::is_missing;
use super::options::{RegistryOptions, descriptions};
use super::*;
use crate::engine::connectors::options::OptionReader;
use crate::engine::connectors::testing::given;
use crate::engine::connectors::{ConnectorDescription, Direction};
use crate::engine::error::Error;
use crate::error::{Report, Retry, SqlState};
use crate::testing::certificates::TestCertificates;
use crate::testing::schema_registry::TestRegistry;

const V1: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
const V2: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}"#;

fn read(options: &[(&str, &str)]) -> Result<Option<RegistryOptions>, Error> {
    let description = ConnectorDescription {
        name: "test",
        title: "Test",
        summary: "A test.",
        category: "test",
        direction: Direction::Both,
        formats: &[],
        options: descriptions(),
    };
    let given = given(options);
    RegistryOptions::read(&OptionReader::for_table(&description, &given)?)
}

fn registry(options: &[(&str, &str)]) -> SchemaRegistry {
    SchemaRegistry::new(read(options).unwrap().unwrap())
}

fn avro(text: &str) -> NewSchema {
    NewSchema {
        kind: SchemaKind::Avro,
        text: text.to_owned(),
        refers_to: Vec::new(),
    }
}

#[test]
fn options_name_hosts_and_hide_the_user() {
    assert!(read(&[]).unwrap().is_none());
    let options = read(&[("schema_registry.url", "https://me:hunter2%21@a:1, http://b/base/")])
        .unwrap()
        .unwrap();
    assert_eq!(
        options.urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["https://a:1/", "http://b/base/"]
    );
    assert_eq!(
        (options.user.as_deref(), options.password.as_deref()),
        (Some("me"), Some("hunter2!"))
    );
    assert!(!format!("{:?}", SchemaRegistry::new(options)).contains("hunter2"));
    for wrong in ["ftp://a", "a:8081", "http://"] {
        assert_eq!(
            read(&[("schema_registry.url", wrong)]).err().unwrap().code(),
            SqlState::INVALID_PARAMETER_VALUE
        );
    }
    let error = read(&[("schema_registry.username", "me")]).err().unwrap();
    assert!(error.to_string().contains("schema_registry.url"));
}

#[test]
fn subjects_are_called_by_the_strategy() {
    let subject = |strategy| TableSubject {
        strategy,
        ..TableSubject::default()
    };
    let of = |strategy| subject(strategy).of(Some("t"), Some("n.R"));
    assert_eq!(of(SubjectStrategy::Topic).as_deref(), Some("t-value"));
    assert_eq!(of(SubjectStrategy::Record).as_deref(), Some("n.R"));
    assert_eq!(of(SubjectStrategy::TopicRecord).as_deref(), Some("t-n.R"));
    assert_eq!(subject(SubjectStrategy::Topic).of(None, None), None);
}

#[tokio::test]
async fn schemas_are_asked_for_once() {
    let Some(server) = TestRegistry::start() else { return };
    let registry = registry(&[("schema_registry.url", &server.url)]);
    registry.check().await.unwrap();
    let subject = server.new_subject();
    assert!(is_missing(&registry.latest(&subject).await.unwrap_err()));
    registry.check_compatible(&subject, &avro(V1)).await.unwrap();
    let id = registry.register(&subject, &avro(V1)).await.unwrap();
    assert_eq!(registry.register(&subject, &avro(V1)).await.unwrap(), id);
    assert!(registry.known(id).is_none());
    for _ in 0..3 {
        let SchemaOfId::Schema(schema) = registry.ensure(id).await.unwrap() else {
            panic!()
        };
        assert_eq!((schema.id, schema.kind), (id, SchemaKind::Avro));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&schema.text).unwrap()["name"],
            "R"
        );
    }
    let unknown = 2_000_000_000;
    for _ in 0..3 {
        let SchemaOfId::Missing(words) = registry.ensure(unknown).await.unwrap() else {
            panic!()
        };
        assert!(words.contains("not found"), "{words}");
    }
    assert!(matches!(registry.known(unknown), Some(SchemaOfId::Missing(_))));
    if let Some(requests) = server.requests() {
        let asked = |id: u32| {
            requests
                .iter()
                .filter(|line| **line == format!("GET /schemas/ids/{id}"))
                .count()
        };
        assert_eq!((asked(id), asked(unknown)), (1, 1));
    }
    let latest = registry.latest(&subject).await.unwrap();
    assert_eq!((latest.version, latest.schema.id, latest.subject), (1, id, subject));
}

#[tokio::test]
async fn what_the_registry_refuses_is_in_its_words() {
    let Some(server) = TestRegistry::start() else { return };
    let registry = registry(&[("schema_registry.url", &server.url)]);
    let subject = server.new_subject();
    registry.register(&subject, &avro(V1)).await.unwrap();
    // A field without a default: older records do not have it.
    for error in [
        registry.check_compatible(&subject, &avro(V2)).await.unwrap_err(),
        registry.register(&subject, &avro(V2)).await.unwrap_err(),
    ] {
        assert_eq!(
            (error.code(), error.retry()),
            (SqlState::INVALID_TABLE_DEFINITION, Retry::Never)
        );
        assert!(error.to_string().to_uppercase().contains("BACKWARD"), "{error}");
    }
    let error = registry
        .register(&subject, &avro("{\"type\":\"nonsense\"}"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_OBJECT_DEFINITION);
    server.ask("PUT", &format!("config/{subject}"), &json!({ "compatibility": "NONE" }));
    registry.register(&subject, &avro(V2)).await.unwrap();
}

#[tokio::test]
async fn references_are_resolved_before_what_refers_to_them() {
    let Some(server) = TestRegistry::start() else { return };
    let registry = registry(&[("schema_registry.url", &server.url)]);
    let (inner, middle, outer) = (server.new_subject(), server.new_subject(), server.new_subject());
    server.register(&inner, r#"{"type":"enum","name":"n.Color","symbols":["RED"]}"#);
    let reference = |name: &str, subject: &str| json!([{ "name": name, "subject": subject, "version": 1 }]);
    let body = json!({
        "schema": r#"{"type":"record","name":"n.Paint","fields":[{"name":"c","type":"n.Color"}]}"#,
        "references": reference("n.Color", &inner),
    });
    server.ask("POST", &format!("subjects/{middle}/versions"), &body);
    let body = json!({
        "schema": r#"{"type":"record","name":"n.Wall","fields":[{"name":"p","type":"n.Paint"}]}"#,
        "references": reference("n.Paint", &middle),
    });
    let id = server.ask("POST", &format!("subjects/{outer}/versions"), &body)["id"]
        .as_u64()
        .unwrap();
    let SchemaOfId::Schema(schema) = registry.ensure(id as u32).await.unwrap() else {
        panic!()
    };
    let names: Vec<&str> = schema.references.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["n.Color", "n.Paint"]);
}

#[tokio::test]
async fn users_are_let_in_by_their_password() {
    let Some(server) = TestRegistry::start_own(&["--user", "me:hunter2"]) else {
        return;
    };
    let url = ("schema_registry.url", server.url.as_str());
    let user = ("schema_registry.api_key", "me");
    registry(&[url, user, ("schema_registry.api_secret", "hunter2")])
        .check()
        .await
        .unwrap();
    for options in [&[url][..], &[url, user, ("schema_registry.password", "hunter3")]] {
        let error = registry(options).check().await.unwrap_err();
        assert_eq!(
            (error.code(), error.retry()),
            (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, Retry::Never)
        );
        assert!(!format!("{:?}", error.report()).contains("hunter"));
    }
}

#[tokio::test]
async fn the_registry_is_known_by_its_certificate() {
    let certificates = TestCertificates::make();
    let start = |certificate: &str| {
        let certificate = certificates.path(certificate);
        TestRegistry::start_own(&["--certificate", &certificate, "--user", "me:hunter2"])
    };
    let (Some(server), Some(elsewhere)) = (start("server.pem"), start("elsewhere.pem")) else {
        return;
    };
    let user = ("schema_registry.username", "me");
    let password = ("schema_registry.password", "hunter2");
    let asked = |url: &str, ca: &str, password| {
        registry(&[
            ("schema_registry.url", url),
            user,
            password,
            ("schema_registry.ssl_ca", ca),
        ])
    };
    let (file, text, other) = (
        certificates.path("ca.pem"),
        certificates.text("ca.pem"),
        certificates.path("other-ca.pem"),
    );
    for ca in [&file, &text] {
        let registry = asked(&server.url, ca, password);
        registry.check().await.unwrap();
        let id = registry.register("s", &avro(V1)).await.unwrap();
        assert_eq!(registry.latest("s").await.unwrap().schema.id, id);
    }
    let wrong = ("schema_registry.password", "hunter3");
    let http = server.url.replace("https", "http");
    let no_certificate = certificates.path("client.key");
    for (registry, code, words) in [
        (asked(&server.url, &file, wrong), "28000", "Unauthorized"),
        (asked(&server.url, &other, password), "08006", "UnknownIssuer"),
        (asked(&elsewhere.url, &file, password), "08006", "not valid for name"),
        (
            asked(&http, &file, password),
            "08006",
            "could not ask the schema registry",
        ),
        (asked(&server.url, "/no/such/file", password), "58P01", "/no/such/file"),
        (
            asked(&server.url, &no_certificate, password),
            "22023",
            "schema_registry.ssl_ca",
        ),
    ] {
        let error = registry.check().await.expect_err(words);
        assert_eq!(error.code().as_str(), code, "{error}");
        assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
        assert!(!format!("{error} {:?}", error.report()).contains("hunter"), "{error}");
    }
}

#[tokio::test]
async fn outages_are_waited_out() {
    let Some(mut server) = TestRegistry::start_own(&[]) else {
        return;
    };
    let id = server.register("s", V1);
    // The first host is never there.
    let urls = format!("http://127.0.0.1:1, {}", server.url);
    let registry = Arc::new(registry(&[("schema_registry.url", &urls)]));
    registry.check().await.unwrap();
    server.stop();
    let error = registry.check().await.unwrap_err();
    assert_eq!(
        (error.code(), error.retry()),
        (SqlState::CONNECTION_FAILURE, Retry::Backoff)
    );
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert!(registry.ensure_waiting(id, || true).await.unwrap().is_none());
    let waiting = {
        let registry = Arc::clone(&registry);
        tokio::task::spawn(async move { registry.ensure_waiting(id, || false).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    server.start_again();
    assert!(matches!(waiting.await.unwrap().unwrap(), Some(SchemaOfId::Schema(_))));
}
