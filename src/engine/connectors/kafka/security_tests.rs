//! TLS and SASL through a gate in front of a broker process: every way in works for reading and for writing exactly once, and every
//! way that is closed says why in the words of whoever closed it, with no secret in them.

#![allow(clippy::unwrap_used)]

use arrow::array::Int64Array;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use super::*;
use crate::clock::Clock;
use crate::engine::connectors::testing::{Bench, given};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Chunk;
use crate::error::Report;
use crate::ids::Epoch;
use crate::testing::certificates::{KEY_PASSWORD, TestCertificates};
use crate::testing::kafka::TestKafka;
use crate::testing::kafka_gate::{KafkaGate, PASSWORD, USER};

type Options<'a> = &'a [(&'a str, &'a str)];

struct World {
    kafka: TestKafka,
    certificates: TestCertificates,
}

impl World {
    fn start() -> Option<World> {
        Some(World {
            kafka: TestKafka::start()?,
            certificates: TestCertificates::make(),
        })
    }

    fn gate(&self, arguments: &[&str]) -> KafkaGate {
        KafkaGate::start(&self.kafka.address, arguments)
    }
}

fn ids() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

fn check(gate: &KafkaGate, security: Options<'_>) -> Result<()> {
    let options = [&[("bootstrap_servers", gate.address.as_str())], security].concat();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Kafka.check_connection(&given(&options)))
}

/// Writes an epoch twice, which counts once, and reads it.
fn there_and_back(gate: &KafkaGate, topic: &str, security: Options<'_>) {
    let bench = Bench::new();
    let common = [("bootstrap_servers", gate.address.as_str()), ("topic", topic)];
    check(gate, security).unwrap();
    let table = |further: Options<'_>| {
        let options = [&common, security, further].concat();
        let table = Kafka.resolve(&given(&options), Some(ids())).unwrap();
        bench.runtime.block_on(table.check_outside(&[])).unwrap();
        table
    };
    let written = table(&[("type", "sink"), ("create_topic", "true")]);
    let mut sink = written
        .open_sink(bench.sink_context(&ids(), SinkChangelog::Append, &[]))
        .unwrap();
    let numbers = Int64Array::from_iter_values(0..100);
    sink.write(&Chunk::insert(
        RecordBatch::try_new(ids(), vec![Arc::new(numbers)]).unwrap(),
    ))
    .unwrap();
    let mut log = sink.prepare(Epoch(1)).unwrap().committable.unwrap().to_vec();
    // The clock of the bench stands in the past.
    log[1..9].copy_from_slice(&crate::clock::SystemClock.now_micros().to_le_bytes());
    for _ in 0..2 {
        let context = CommitterContext {
            sink: format!("pl_1/{topic}"),
        };
        let mut committer = bench.runtime.block_on(written.open_committer(context)).unwrap();
        bench
            .runtime
            .block_on(committer.commit(Epoch(1), vec![log.clone().into()]))
            .unwrap();
    }
    let read = table(&[("bounded", "true")]);
    assert_eq!(bench.rows(read.as_ref(), &ids()).len(), 100);
}

#[test]
fn users_are_proved_by_every_mechanism() {
    let Some(world) = World::start() else { return };
    let (ca, server) = (world.certificates.path("ca.pem"), world.certificates.path("server.pem"));
    let user = KafkaGate::user();
    for mechanism in ["plain", "SCRAM-SHA-256", "scram-sha-512"] {
        let gate = world.gate(&["--certificate", &server, "--user", &user]);
        let security = [
            ("ssl_ca", ca.as_str()),
            ("sasl_mechanism", mechanism),
            ("sasl_username", USER),
            ("sasl_password", PASSWORD),
        ];
        there_and_back(&gate, &world.kafka.new_topic(), &security);
        let mechanism = mechanism.to_ascii_uppercase();
        let passed = format!("tls=True certificate= mechanism={mechanism} user={USER}");
        assert_eq!(gate.passed(), [passed]);
    }
    // Without TLS, and with properties in place of options.
    let gate = world.gate(&["--user", &user]);
    let properties = format!("sasl.mechanism=SCRAM-SHA-256, sasl.username={USER}, sasl.password={PASSWORD}");
    let by_properties = [
        ("security_protocol", "plaintext"),
        (
            "client_configs",
            &format!("security.protocol=sasl_plaintext, {properties}"),
        ),
    ];
    there_and_back(&gate, &world.kafka.new_topic(), &by_properties);
    let passed = format!("tls=False certificate= mechanism=SCRAM-SHA-256 user={USER}");
    assert_eq!(gate.passed(), [passed]);
}

#[test]
fn clients_are_proved_by_certificates() {
    let Some(world) = World::start() else { return };
    let certificates = &world.certificates;
    let path = |name: &str| certificates.path(name);
    let (ca, server) = (path("ca.pem"), path("server.pem"));
    let gate = world.gate(&["--certificate", &server, "--client-ca", &ca]);
    let by_files = [
        ("ssl_ca", ca.as_str()),
        ("ssl_certificate", &path("client.pem")),
        ("ssl_key", &path("client.key")),
    ];
    there_and_back(&gate, &world.kafka.new_topic(), &by_files);
    let by_text = [
        ("ssl_ca", certificates.text("ca.pem")),
        ("ssl_certificate", certificates.text("client.pem")),
        ("ssl_key", certificates.text("client-encrypted.key")),
        ("ssl_key_password", KEY_PASSWORD.to_owned()),
    ];
    let by_text: Vec<(&str, &str)> = by_text.iter().map(|(name, text)| (*name, text.as_str())).collect();
    there_and_back(&gate, &world.kafka.new_topic(), &by_text);
    assert_eq!(gate.passed(), ["tls=True certificate=laminar mechanism=none user=None"]);
    // The certificate of another host, which is told not to matter.
    let elsewhere = world.gate(&["--certificate", &path("elsewhere.pem")]);
    check(&elsewhere, &[by_files[0], ("ssl_verify_hostname", "false")]).unwrap();
}

/// What must be in the error's text, and in its hint.
fn refused(outcome: Result<()>, code: &str, words: &str, hint: &str) {
    let error = outcome.expect_err(words);
    let report = error.report();
    let hinted = report.hint.clone().unwrap_or_default();
    assert_eq!(error.code().as_str(), code, "{error}");
    assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
    assert!(hinted.contains(hint), "{hint:?} is not in: {hinted}");
    let all = format!("{error} {error:?} {report:?}");
    for secret in ["hunter", KEY_PASSWORD] {
        assert!(!all.contains(secret), "{all}");
    }
}

/// A connection that the broker ends has one of several words for that, by who was in the middle of what; the hint shows that it was
/// understood.
const ENDED: &str = "could not connect to the Kafka server: ";

#[test]
fn who_is_not_let_in_is_told_why() {
    let Some(world) = World::start() else { return };
    let path = |name: &str| world.certificates.path(name);
    let (ca, server, user) = (path("ca.pem"), path("server.pem"), KafkaGate::user());
    let gate = world.gate(&["--certificate", &server, "--user", &user]);
    let (ca, me, right) = (
        ("ssl_ca", ca.as_str()),
        ("sasl_username", USER),
        ("sasl_password", PASSWORD),
    );
    let scram = ("sasl_mechanism", "scram-sha-512");
    let wrong = ("sasl_password", "hunter3");
    refused(
        check(&gate, &[ca, me, wrong]),
        "28000",
        "Authentication failed: Invalid username or password",
        "sasl_password",
    );
    for options in [[ca, scram, me, wrong], [ca, scram, ("sasl_username", "nobody"), right]] {
        let words = "invalid credentials with SASL mechanism SCRAM-SHA-512";
        refused(check(&gate, &options), "28000", words, "sasl_password");
    }
    let other = path("other-ca.pem");
    let untrusted = check(&gate, &[("ssl_ca", &other), me, right]);
    refused(
        untrusted,
        "08006",
        "certificate verify failed",
        "Give ssl_ca the authority",
    );
    let elsewhere = world.gate(&["--certificate", &path("elsewhere.pem")]);
    refused(
        check(&elsewhere, &[ca]),
        "08006",
        "certificate verify failed",
        "ssl_verify_hostname",
    );
    let mutual = world.gate(&["--certificate", &server, "--client-ca", ca.1]);
    refused(check(&mutual, &[ca]), "08006", ENDED, "certificate");
    // Another protocol than the broker's.
    refused(check(&gate, &[]), "08006", ENDED, "security_protocol");
    refused(check(&gate, &[me, right]), "08006", ENDED, "security_protocol");
    let plain = world.gate(&["--user", &user, "--mechanisms", "PLAIN"]);
    refused(
        check(&plain, &[ca, me, right]),
        "08006",
        "SSL handshake failed",
        "security_protocol",
    );
    refused(check(&plain, &[]), "08006", ENDED, "security_protocol");
    let mechanism = check(&plain, &[scram, me, right]);
    let words = "Unsupported SASL mechanism: broker's supported mechanisms: PLAIN";
    refused(mechanism, "28000", words, "sasl_mechanism");
}

#[test]
fn what_cannot_work_is_refused_before_anybody_is_asked() {
    let certificates = TestCertificates::make();
    let path = |name: &str| certificates.path(name);
    let check = |options: Options<'_>| {
        let options = [&[("bootstrap_servers", "127.0.0.1:1")], options].concat();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(Kafka.check_connection(&given(&options)))
    };
    let (certificate, key) = (path("client.pem"), path("client-encrypted.key"));
    let (certificate, key) = (("ssl_certificate", certificate.as_str()), ("ssl_key", key.as_str()));
    let password = ("ssl_key_password", "hunter3");
    refused(
        check(&[certificate, key, password]),
        "22023",
        "ssl.key.location failed",
        "TLS",
    );
    refused(check(&[certificate]), "22023", "need each other", "the key proves it");
    let broken = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
    refused(
        check(&[certificate, ("ssl_key", broken)]),
        "22023",
        "ssl.key.pem failed",
        "TLS",
    );
    let of_another = path("ca.key");
    refused(
        check(&[certificate, ("ssl_key", &of_another)]),
        "22023",
        "key values mismatch",
        "TLS",
    );
    refused(
        check(&[("ssl_ca", &of_another)]),
        "22023",
        "ssl.ca.location failed",
        "TLS",
    );
    let unsafe_one = [
        ("security_protocol", "sasl_plaintext"),
        ("sasl_username", "me"),
        ("sasl_password", "hunter2"),
    ];
    let with_ca = [&unsafe_one[..], &[("ssl_ca", certificate.1)]].concat();
    refused(
        check(&with_ca),
        "22023",
        "has no TLS, for which option \"ssl_ca\" is",
        "sasl_ssl",
    );
    refused(
        check(&[("sasl_password", "hunter2")]),
        "22023",
        "sasl_username",
        "SECRET",
    );
    for mechanism in ["GSSAPI", "OAUTHBEARER"] {
        let properties = format!("security.protocol=sasl_ssl, sasl.mechanisms={mechanism}, sasl.password=hunter2");
        let refusal = check(&[("client_configs", &properties)]);
        refused(refusal, "0A000", mechanism, "scram-sha-256");
    }
}
