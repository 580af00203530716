//! The one integration binary: runs `.slt` files and scenarios against the real server over real connections.
//!
//!     cargo test --test sqllogictest                    everything
//!     cargo test --test sqllogictest -- windows/        files and scenarios whose name contains `windows/`
//!     cargo test --test sqllogictest -- --complete x    rewrites the expectations of matching files; read the diff
//!
//! A file runs once for each configuration in its header `# configs: plain interrupted rescaled` (default: plain), each
//! time on a fresh server process with an empty data directory, over the simple and then over the extended protocol:
//!
//! - plain: as it stands.
//! - interrupted: at every `WAIT FOR PIPELINE p ..` the server is killed with SIGKILL and started again, several times,
//!   mostly after a checkpoint, before the statement is sent; at every `FLUSH` once, without any.
//! - rescaled: pipelines start at parallelism 2 and are set to 3 at every `WAIT FOR PIPELINE p ..`.
//!
//! In the text `${dir}` is an empty folder of this run, `${data}` the folder sqllogictest/data, `${rate}` the events per
//! second for sources (unlimited when plain, slow enough to be interrupted otherwise; `# rate: 300` in the header sets
//! it), `${parallelism}` 1, or 2 when rescaled, `${kafka}` the address of a broker, `${topic}` the beginning of names of topics
//! that no other run uses, `${registry}` the URL of a schema registry; `${kafka_gate}` the address at which the broker wants TLS and a user,
//! `${certificates}` a folder with what that needs (src/testing/certificates.rs, kafka_gate.rs).
//!
//! A WARN or ERROR in the server's log fails the file unless the header allows it: `# log: part of the line`.

mod binary_text;
#[path = "../src/testing/certificates.rs"]
mod certificates;
mod client;
mod deliveries;
mod faults;
mod files;
mod forgetting;
#[path = "../src/testing/kafka.rs"]
mod kafka_broker;
#[path = "../src/testing/kafka_gate.rs"]
mod kafka_gate;
mod kill_loop;
mod manual;
mod patience;
#[allow(dead_code)]
#[path = "../src/testing/postgres.rs"]
mod postgres_server;
#[path = "../src/testing/s3_server.rs"]
mod s3_server;
mod scenarios;
#[path = "../src/testing/schema_registry.rs"]
mod schema_registry;
mod server_process;

// `postgres_server` is a file of the library's tests, too, and starts tasks as the library does.
use laminar::spawn;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let mut complete = false;
    let mut filters = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--complete" => complete = true,
            "--list" => {
                for name in files::names()
                    .into_iter()
                    .chain(manual::names())
                    .chain(scenarios::names())
                    .chain(deliveries::names())
                {
                    println!("{name}: test");
                }
                return ExitCode::SUCCESS;
            }
            // What cargo test and nextest pass to every harness.
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter.to_owned()),
        }
    }
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime");
    let started = Instant::now();
    let summary = runtime.block_on(async {
        let mut summary = files::run(&wanted, complete).await;
        if !complete {
            manual::run(&wanted, &mut summary).await;
            scenarios::run(&wanted, &mut summary).await;
            deliveries::run(&wanted, &mut summary).await;
        }
        summary
    });
    for failure in &summary.failures {
        eprintln!("\n---- {} ----\n{}", failure.name, failure.text);
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; {} skipped; finished in {:.1} s",
        if summary.failures.is_empty() { "ok" } else { "FAILED" },
        summary.passed,
        summary.failures.len(),
        summary.skipped,
        started.elapsed().as_secs_f64()
    );
    if summary.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What became of the tests.
#[derive(Default)]
pub struct Summary {
    pub passed: usize,
    pub skipped: usize,
    pub failures: Vec<Failure>,
}

pub struct Failure {
    pub name: String,
    pub text: String,
}

impl Summary {
    pub fn record(&mut self, name: &str, outcome: Result<(), String>, seconds: f64) {
        match outcome {
            Ok(()) => {
                println!("test {name} ... ok ({seconds:.1} s)");
                self.passed += 1;
            }
            Err(text) => {
                println!("test {name} ... FAILED ({seconds:.1} s)");
                self.failures.push(Failure {
                    name: name.to_owned(),
                    text,
                });
            }
        }
    }

    /// A part that this machine lacks is a failure where everything must be there (CI) and a printed skip elsewhere.
    pub fn missing(&mut self, name: &str, what: &str) {
        if std::env::var_os("LAMINAR_TEST_REQUIRE_ALL").is_some() {
            self.record(name, Err(format!("{what} is not installed")), 0.0);
        } else {
            println!("test {name} ... skipped: {what} is not installed");
            self.skipped += 1;
        }
    }
}

/// The package's folder.
pub fn package_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
