//! Runs the examples of README.md and docs/: what the manual shows works.
//!
//! Each page runs on a fresh server in a folder that holds a copy of sqllogictest/data as `data/`. Fences marked `sql` must
//! succeed statement by statement; `sql stream` runs for a moment and is cancelled; `sql error` must fail.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::server_process::{ServerProcess, describe};
use crate::{Summary, package_root};

const STREAM_FOR: Duration = Duration::from_millis(1500);

pub fn names() -> Vec<String> {
    pages().into_iter().map(|(name, _)| name).collect()
}

fn pages() -> Vec<(String, PathBuf)> {
    let root = package_root();
    let mut found = vec![("manual/README.md".to_owned(), root.join("README.md"))];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let name = path
                    .strip_prefix(&root)
                    .expect("below the root")
                    .to_string_lossy()
                    .into_owned();
                found.push((format!("manual/{name}"), path));
            }
        }
    }
    found.sort();
    found
}

pub async fn run(wanted: &dyn Fn(&str) -> bool, summary: &mut Summary) {
    for (name, path) in pages().into_iter().filter(|(name, _)| wanted(name)) {
        let text = std::fs::read_to_string(&path).expect("readable page");
        let examples = examples(&text);
        if examples.is_empty() {
            continue;
        }
        let started = Instant::now();
        let outcome = run_page(&examples).await;
        summary.record(&name, outcome, started.elapsed().as_secs_f64());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Success,
    Stream,
    Error,
}

struct Example {
    expect: Expect,
    statement: String,
}

fn examples(page: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let expect = match line.trim() {
            "```sql" => Expect::Success,
            "```sql stream" => Expect::Stream,
            "```sql error" => Expect::Error,
            _ => continue,
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
        found.extend(
            statements(&block)
                .into_iter()
                .map(|statement| Example { expect, statement }),
        );
    }
    found
}

/// Splits at semicolons that end a line at the block's own level: those inside BEGIN .. END are indented.
fn statements(block: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut inside_body = false;
    for line in block {
        let upper = line.trim_end().to_uppercase();
        if upper.ends_with("AS BEGIN") || upper == "BEGIN" {
            inside_body = true;
        }
        if upper == "END;" {
            inside_body = false;
        }
        current.push_str(line);
        current.push('\n');
        let code = line.split("--").next().unwrap_or_default();
        if code.trim_end().ends_with(';') && !inside_body {
            found.push(std::mem::take(&mut current));
        }
    }
    if !current.trim().is_empty() {
        found.push(current);
    }
    found
}

async fn run_page(examples: &[Example]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    copy_data(&folder.path().join("data")).map_err(|error| error.to_string())?;
    let server = ServerProcess::start_in(folder.path(), &folder.path().join("laminar-data"), &[])?;
    let client = server.connect().await?;
    for example in examples {
        run_example(&client, example)
            .await
            .map_err(|text| format!("{text}\nin {}", example.statement))?;
    }
    Ok(())
}

fn copy_data(target: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    for entry in std::fs::read_dir(package_root().join("sqllogictest/data"))?.flatten() {
        std::fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    Ok(())
}

async fn run_example(client: &Client, example: &Example) -> Result<(), String> {
    let running = client.simple_query(&example.statement);
    match example.expect {
        Expect::Success => match tokio::time::timeout(Duration::from_secs(60), running).await {
            Ok(outcome) => outcome.map(|_| ()).map_err(|error| describe(&error)),
            Err(_) => Err("did not end within a minute".into()),
        },
        Expect::Error => match running.await {
            Ok(_) => Err("succeeded, though the page says that it fails".into()),
            Err(_) => Ok(()),
        },
        Expect::Stream => {
            tokio::pin!(running);
            if let Ok(outcome) = tokio::time::timeout(STREAM_FOR, &mut running).await {
                return outcome.map(|_| ()).map_err(|error| describe(&error));
            }
            client
                .cancel_token()
                .cancel_query(NoTls)
                .await
                .map_err(|error| error.to_string())?;
            match running.await {
                Err(error) if error.code().is_some_and(|code| code.code() == "57014") => Ok(()),
                Err(error) => Err(describe(&error)),
                Ok(_) => Err("a cancelled stream ended without an error".into()),
            }
        }
    }
}
