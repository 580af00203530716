//! `laminar sql`: a small shell towards a running server, for machines without psql.
//!
//! Statements end with a semicolon and may span lines; history is kept for the session; Ctrl-C cancels the running
//! statement, Ctrl-D leaves. Rows print as they come, so an endless stream can be watched. Not a psql: no
//! meta-commands but `\q`.

use std::io::Write;

use futures::StreamExt;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::error::{ErrorReport, SqlState};

/// Connects to `address` (host:port) and runs `execute`, or reads statements from the terminal when it is empty.
pub fn run(
    address: &str,
    user: &str,
    database: &str,
    password: Option<&str>,
    execute: &[String],
) -> Result<(), ErrorReport> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ErrorReport::new(SqlState::SYSTEM_ERROR, format!("could not start: {error}")))?;
    runtime.block_on(async {
        let client = connect(address, user, database, password).await?;
        if execute.is_empty() {
            return converse(&client).await;
        }
        for statement in execute {
            run_statement(&client, statement).await?;
        }
        Ok(())
    })
}

async fn connect(
    address: &str,
    user: &str,
    database: &str,
    password: Option<&str>,
) -> Result<tokio_postgres::Client, ErrorReport> {
    let refused = |reason: String| {
        ErrorReport::new(
            SqlState::CONNECTION_FAILURE,
            format!("could not connect to {address}: {reason}"),
        )
        .with_hint("Start a server with `laminar`, or name another with --host.")
    };
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "5433"));
    let port = port.parse().map_err(|_| refused(format!("\"{port}\" is not a port")))?;
    let mut settings = tokio_postgres::Config::new();
    settings
        .host(host)
        .port(port)
        .user(user)
        .dbname(database)
        .application_name("laminar sql");
    if let Some(password) = password {
        settings.password(password);
    }
    let (client, mut connection) = settings
        .connect(NoTls)
        .await
        .map_err(|error| refused(error.to_string()))?;
    crate::spawn::named("shell connection", async move {
        let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                say(
                    &mut std::io::stderr(),
                    &format!("{}:  {}", notice.severity(), notice.message()),
                );
                if let Some(hint) = notice.hint() {
                    say(&mut std::io::stderr(), &format!("HINT:  {hint}"));
                }
            }
        }
    });
    Ok(client)
}

async fn converse(client: &tokio_postgres::Client) -> Result<(), ErrorReport> {
    let unusable = |error: ReadlineError| ErrorReport::new(SqlState::IO_ERROR, format!("terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(unusable)?;
    let mut pending = String::new();
    loop {
        let prompt = if pending.is_empty() { "laminar=> " } else { "laminar-> " };
        match editor.readline(prompt) {
            Ok(line) if pending.is_empty() && matches!(line.trim(), "\\q" | "exit" | "quit") => return Ok(()),
            Ok(line) => {
                pending.push_str(&line);
                pending.push('\n');
            }
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(unusable(error)),
        }
        if pending.trim_end().ends_with(';') {
            // The line stays usable for this session when the history cannot take it.
            let _ = editor.add_history_entry(pending.trim_end());
            if let Err(report) = run_statement(client, &pending).await {
                print_error(&report);
            }
            pending.clear();
        } else if pending.trim().is_empty() {
            pending.clear();
        }
    }
}

/// Runs `sql`, printing rows as they arrive; Ctrl-C asks the server to cancel.
async fn run_statement(client: &tokio_postgres::Client, sql: &str) -> Result<(), ErrorReport> {
    let messages = client.simple_query_raw(sql).await.map_err(report)?;
    futures::pin_mut!(messages);
    let mut rows = 0_u64;
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) => rows = print_message(&message, rows),
                Some(Err(error)) => return Err(report(error)),
                None => return Ok(()),
            },
            interrupted = tokio::signal::ctrl_c() => {
                if interrupted.is_ok() && let Err(error) = client.cancel_token().cancel_query(NoTls).await {
                    return Err(report(error));
                }
            }
        }
    }
}

/// Prints `message` and gives the number of rows printed since the last header.
fn print_message(message: &SimpleQueryMessage, rows: u64) -> u64 {
    let mut out = std::io::stdout().lock();
    match message {
        SimpleQueryMessage::RowDescription(columns) => {
            let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            say(&mut out, &names.join(" | "));
            say(
                &mut out,
                &names
                    .iter()
                    .map(|name| "-".repeat(name.chars().count()))
                    .collect::<Vec<_>>()
                    .join("-+-"),
            );
            0
        }
        SimpleQueryMessage::Row(row) => {
            let values: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("")).collect();
            say(&mut out, &values.join(" | "));
            rows + 1
        }
        SimpleQueryMessage::CommandComplete(_) if rows > 0 => {
            say(&mut out, &format!("({rows} row{})", if rows == 1 { "" } else { "s" }));
            0
        }
        SimpleQueryMessage::CommandComplete(_) => {
            say(&mut out, "OK");
            0
        }
        _ => rows,
    }
}

fn report(error: tokio_postgres::Error) -> ErrorReport {
    match error.as_db_error() {
        Some(db) => {
            let mut report = ErrorReport::new(SqlState::from_code(db.code().code()), db.message());
            report.detail = db.detail().map(str::to_owned);
            report.hint = db.hint().map(str::to_owned);
            report
        }
        None => ErrorReport::new(SqlState::CONNECTION_FAILURE, error.to_string()),
    }
}

fn print_error(report: &ErrorReport) {
    let mut err = std::io::stderr();
    say(&mut err, &format!("ERROR:  {report}"));
    if let Some(detail) = &report.detail {
        say(&mut err, &format!("DETAIL:  {detail}"));
    }
    if let Some(hint) = &report.hint {
        say(&mut err, &format!("HINT:  {hint}"));
    }
}

/// A terminal that went away is no reason to panic.
fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
