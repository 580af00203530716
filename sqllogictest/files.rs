//! Finds `.slt` files and runs each in its configurations and protocols.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sqllogictest::Runner;
use tokio::sync::Mutex;

use crate::certificates::TestCertificates;
use crate::client::{Configuration, Protocol, SltClient};
use crate::kafka_broker::TestKafka;
use crate::kafka_gate::KafkaGate;
use crate::schema_registry::TestRegistry;
use crate::server_process::ServerProcess;
use crate::{Summary, package_root};

/// Events a second for sources while a file is interrupted or rescaled.
const SLOW_RATE: u32 = 400;
/// Practically unlimited.
const FULL_RATE: u32 = 100_000_000;

struct Header {
    configurations: Vec<Configuration>,
    protocols: Vec<Protocol>,
    rate: u32,
    /// Parts of WARN and ERROR lines that the file expects.
    allowed_log: Vec<String>,
}

pub fn names() -> Vec<String> {
    files().into_iter().map(|(name, _)| name).collect()
}

fn files() -> Vec<(String, PathBuf)> {
    let root = package_root().join("sqllogictest");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort();
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) {
    for entry in std::fs::read_dir(folder).expect("readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            let name = path
                .strip_prefix(root)
                .expect("below root")
                .to_string_lossy()
                .into_owned();
            found.push((name, path));
        }
    }
}

fn header(text: &str) -> Header {
    let mut header = Header {
        configurations: vec![Configuration::Plain],
        protocols: vec![Protocol::Simple, Protocol::Extended],
        rate: SLOW_RATE,
        allowed_log: Vec::new(),
    };
    for line in text
        .lines()
        .take_while(|line| line.starts_with('#') || line.trim().is_empty())
    {
        let Some((key, value)) = line.trim_start_matches('#').trim().split_once(':') else {
            continue;
        };
        match key {
            "configs" => {
                let parse = |word| match word {
                    "plain" => Configuration::Plain,
                    "interrupted" => Configuration::Interrupted,
                    "rescaled" => Configuration::Rescaled,
                    other => panic!("unknown configuration {other}"),
                };
                header.configurations = value.split_whitespace().map(parse).collect();
            }
            "protocols" => {
                let parse = |word| match word {
                    "simple" => Protocol::Simple,
                    "extended" => Protocol::Extended,
                    other => panic!("unknown protocol {other}"),
                };
                header.protocols = value.split_whitespace().map(parse).collect();
            }
            "rate" => header.rate = value.trim().parse().expect("rate is a number"),
            "log" => header.allowed_log.push(value.trim().to_owned()),
            _ => {}
        }
    }
    header
}

pub async fn run(wanted: &dyn Fn(&str) -> bool, complete: bool) -> Summary {
    let mut summary = Summary::default();
    for (name, path) in files().into_iter().filter(|(name, _)| wanted(name)) {
        let text = std::fs::read_to_string(&path).expect("readable file");
        let header = header(&text);
        if complete {
            complete_file(&path, &text).await;
            continue;
        }
        let broker = match text.contains("${kafka") {
            false => None,
            true => match start_broker().await {
                Some(broker) => Some(broker),
                None => {
                    summary.missing(&name, "noida-db");
                    continue;
                }
            },
        };
        let registry = match text.contains("${registry}") {
            false => None,
            true => match start_registry().await {
                Some(registry) => Some(registry),
                None => {
                    summary.missing(&name, "the Python package avro");
                    continue;
                }
            },
        };
        let registry_url = registry.as_ref().map_or("", |registry| registry.url.as_str());
        let gate = broker
            .as_ref()
            .filter(|_| text.contains("${kafka_gate}"))
            .map(start_gate);
        // Every run has topics of its own.
        let with_broker = || match &broker {
            Some(broker) => text
                .replace("${kafka}", &broker.address)
                .replace("${kafka_gate}", gate.as_ref().map_or("", |(gate, _)| &gate.address))
                .replace(
                    "${certificates}",
                    &gate.as_ref().map_or_else(String::new, |(_, made)| made.path("")),
                )
                .replace("${topic}", &broker.new_topic())
                .replace("${registry}", registry_url),
            None => text.clone(),
        };
        for configuration in &header.configurations {
            for protocol in &header.protocols {
                // Interrupted and rescaled runs differ in the engine, not in the protocol: one is enough.
                if *configuration != Configuration::Plain && *protocol != header.protocols[0] {
                    continue;
                }
                let label = format!("{name} ({configuration:?}, {protocol:?})").to_lowercase();
                let started = Instant::now();
                let outcome = run_file(&name, &with_broker(), &header, *configuration, *protocol).await;
                summary.record(&label, outcome, started.elapsed().as_secs_f64());
            }
        }
    }
    summary
}

/// In front of the broker: TLS and a user.
fn start_gate(broker: &TestKafka) -> (KafkaGate, TestCertificates) {
    let made = TestCertificates::make();
    let arguments = ["--certificate", &made.path("server.pem"), "--user", &KafkaGate::user()];
    (KafkaGate::start(&broker.address, &arguments), made)
}

async fn start_registry() -> Option<TestRegistry> {
    tokio::task::spawn_blocking(TestRegistry::start)
        .await
        .expect("a registry or none")
}

/// A broker that the runs of one file share.
async fn start_broker() -> Option<TestKafka> {
    tokio::task::spawn_blocking(TestKafka::start)
        .await
        .expect("a broker or none")
}

fn substitute(text: &str, configuration: Configuration, rate: u32, dir: &Path) -> String {
    let rate = if configuration == Configuration::Plain {
        FULL_RATE
    } else {
        rate
    };
    let parallelism = if configuration == Configuration::Rescaled { 2 } else { 1 };
    text.replace("${dir}", &dir.to_string_lossy())
        .replace("${data}", &package_root().join("sqllogictest/data").to_string_lossy())
        .replace("${rate}", &rate.to_string())
        .replace("${parallelism}", &parallelism.to_string())
}

async fn run_file(
    name: &str,
    text: &str,
    header: &Header,
    configuration: Configuration,
    protocol: Protocol,
) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let data_dir = folder.path().join("data");
    let work_dir = folder.path().join("work");
    std::fs::create_dir_all(&work_dir).map_err(|error| error.to_string())?;
    let server = Arc::new(Mutex::new(ServerProcess::start(&data_dir, &[])?));
    let connect = {
        let server = Arc::clone(&server);
        move || {
            let (server, data_dir) = (Arc::clone(&server), data_dir.clone());
            async move { SltClient::connect(server, data_dir, configuration, protocol).await }
        }
    };
    let mut runner = Runner::new(connect);
    runner.add_label(match protocol {
        Protocol::Simple => "simple",
        Protocol::Extended => "extended",
    });
    let script = substitute(text, configuration, header.rate, &work_dir);
    let outcome = runner.run_script_with_name_async(&script, name.to_owned()).await;
    runner.shutdown_async().await;
    let log = server.lock().await.log();
    outcome.map_err(|error| format!("{}\n\nserver log:\n{}", error.display(false), tail(&log)))?;
    check_log(&log, &header.allowed_log)
}

/// Nothing that needs a person may have been logged, but what the file expects.
fn check_log(log: &[String], allowed: &[String]) -> Result<(), String> {
    let unexpected: Vec<&String> = log
        .iter()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked"))
        .filter(|line| !allowed.iter().any(|part| line.contains(part.as_str())))
        .collect();
    if unexpected.is_empty() {
        Ok(())
    } else {
        Err(format!("unexpected in the server's log:\n{unexpected:#?}"))
    }
}

fn tail(log: &[String]) -> String {
    log[log.len().saturating_sub(30)..].join("\n")
}

/// Rewrites the file's expectations with what the server answers.
async fn complete_file(path: &Path, text: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    let work_dir = folder.path().join("work");
    std::fs::create_dir_all(&work_dir).expect("a work folder");
    let server = Arc::new(Mutex::new(ServerProcess::start(&data_dir, &[]).expect("a server")));
    let connect = move || {
        let (server, data_dir) = (Arc::clone(&server), data_dir.clone());
        async move { SltClient::connect(server, data_dir, Configuration::Plain, Protocol::Simple).await }
    };
    let mut runner = Runner::new(connect);
    runner.add_label("simple");
    let substituted = folder.path().join("file.slt");
    std::fs::write(&substituted, substitute(text, Configuration::Plain, 0, &work_dir)).expect("written");
    runner
        .update_test_file(
            &substituted,
            "\t",
            sqllogictest::default_validator,
            sqllogictest::default_normalizer,
            sqllogictest::default_column_validator,
        )
        .await
        .expect("completed file");
    let completed = std::fs::read_to_string(&substituted).expect("readable");
    let restored = completed
        .replace(&*work_dir.to_string_lossy(), "${dir}")
        .replace(&*package_root().join("sqllogictest/data").to_string_lossy(), "${data}")
        .replace(&FULL_RATE.to_string(), "${rate}");
    let restored = keep_variables(text, &restored);
    std::fs::write(path, restored).expect("written");
    println!("completed {}", path.display());
}

/// `${parallelism}` became a plain digit; lines of the original that hold it are put back.
fn keep_variables(original: &str, completed: &str) -> String {
    let lines: std::collections::HashMap<String, &str> = original
        .lines()
        .filter(|line| line.contains("${parallelism}"))
        .map(|line| (line.replace("${parallelism}", "1"), line))
        .collect();
    let restored: Vec<&str> = completed
        .lines()
        .map(|line| lines.get(line).copied().unwrap_or(line))
        .collect();
    restored.join("\n") + "\n"
}
