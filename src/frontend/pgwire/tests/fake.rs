//! A session that knows a handful of statements, to test the wire without a database behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;

use crate::error::{ErrorReport, SqlState};
use crate::frontend::notice::Notice;
use crate::frontend::parameter::Parameter;
use crate::frontend::pgwire::encode::{OutputStyle, Zone};
use crate::frontend::pgwire::sql_session::{Login, SessionFactory, SqlSession};
use crate::frontend::response::{CopyIn, Description, Response, Rows, RowsTag};
use crate::frontend::sql::statement::{CopyFormat, CopyKind};
use crate::frontend::transaction::TransactionStatus;
use crate::types::SqlType;

/// What the tests look at from outside.
#[derive(Default)]
pub struct Fake {
    /// Row streams that exist now.
    pub streams: Arc<AtomicUsize>,
    /// Statements that run (not sending rows) now.
    pub running: Arc<AtomicUsize>,
    pub verifier: Option<String>,
}

impl SessionFactory for Fake {
    type Session = FakeSession;

    async fn open(&self, login: &Login) -> Result<FakeSession, ErrorReport> {
        if login.database != "laminar" {
            return Err(ErrorReport::new(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{}\" does not exist", login.database),
            ));
        }
        let mut session = FakeSession {
            streams: Arc::clone(&self.streams),
            running: Arc::clone(&self.running),
            notices: Vec::new(),
            status: TransactionStatus::Idle,
            settings: vec![
                ("server_version".into(), "16.10 (Laminar 0.1)".into()),
                ("client_encoding".into(), "UTF8".into()),
                ("DateStyle".into(), "ISO, MDY".into()),
                ("integer_datetimes".into(), "on".into()),
                ("standard_conforming_strings".into(), "on".into()),
                ("TimeZone".into(), "UTC".into()),
                ("application_name".into(), String::new()),
            ],
            changed: Vec::new(),
            timeout: None,
            pid: login.backend_pid,
        };
        for (name, value) in &login.settings {
            session.set(name, value)?;
        }
        session.changed.clear();
        Ok(session)
    }

    fn scram_verifier(&self, role: &str) -> Option<String> {
        self.verifier.clone().filter(|_| role == "alice")
    }
}

pub struct FakeSession {
    streams: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    notices: Vec<Notice>,
    status: TransactionStatus,
    settings: Vec<(String, String)>,
    changed: Vec<(String, String)>,
    timeout: Option<Duration>,
    pid: i32,
}

/// Counts while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Counted {
        counter.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn int_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]))
}

fn ints(values: std::ops::Range<i32>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int32Array::from_iter_values(values));
    RecordBatch::try_new(int_schema(), vec![column]).expect("one column")
}

impl FakeSession {
    fn set(&mut self, name: &str, value: &str) -> Result<(), ErrorReport> {
        if name == "statement_timeout" {
            self.timeout = value.parse().ok().map(Duration::from_millis);
            return Ok(());
        }
        let Some(setting) = self
            .settings
            .iter_mut()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
        else {
            return Err(ErrorReport::new(
                SqlState::UNDEFINED_OBJECT,
                format!("unrecognized configuration parameter \"{name}\""),
            ));
        };
        setting.1 = value.to_owned();
        self.changed.push(setting.clone());
        Ok(())
    }

    fn rows(&self, statement: &str) -> Option<(SchemaRef, Rows)> {
        let counted = Counted::new(&self.streams);
        let words: Vec<&str> = statement.split(' ').collect();
        let rows: Rows = match words.as_slice() {
            ["rows", count] => {
                let count: i32 = count.parse().ok()?;
                let starts = (0..count).step_by(1000);
                futures::stream::iter(starts.map(move |start| {
                    let _ = &counted;
                    Ok(ints(start..(start + 1000).min(count)))
                }))
                .boxed()
            }
            ["endless"] => futures::stream::unfold((0, counted), |(at, counted)| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok(ints(at..at + 1)), (at + 1, counted)))
            })
            .boxed(),
            ["flood"] => futures::stream::unfold((0, counted), |(at, counted)| async move {
                Some((Ok(ints(at..at + 1000)), (at.wrapping_add(1000) & 0xff_ffff, counted)))
            })
            .boxed(),
            ["late", "failure"] => {
                let error = ErrorReport::new(SqlState::DIVISION_BY_ZERO, "division by zero");
                futures::stream::iter([Ok(ints(0..3)), Err(error)]).boxed()
            }
            _ => return None,
        };
        Some((int_schema(), rows))
    }

    fn copy(&self, words: &[&str]) -> Option<Response> {
        let [what, .., format] = words else {
            return None;
        };
        let format = match *format {
            "text" => CopyFormat::new(CopyKind::Text),
            "csv" => CopyFormat {
                header: true,
                ..CopyFormat::new(CopyKind::Csv)
            },
            "binary" => CopyFormat::new(CopyKind::Binary),
            _ => return None,
        };
        let (schema, rows) = self.rows(&what.replace('_', " "))?;
        Some(Response::CopyOut { format, schema, rows })
    }

    fn transaction(&mut self, statement: &str) -> Option<Response> {
        self.status = match (statement, self.status) {
            ("begin" | "start transaction", _) => TransactionStatus::InTransaction,
            ("commit" | "rollback", _) => TransactionStatus::Idle,
            _ => return None,
        };
        Some(Response::Complete {
            tag: statement.to_ascii_uppercase(),
        })
    }

    fn notify(&mut self, text: &str) {
        self.notices.push(Notice::of(text));
    }
}

impl SqlSession for FakeSession {
    type Statement = String;

    fn parse(&self, text: &str) -> Result<Vec<String>, ErrorReport> {
        let statements: Vec<String> = text
            .split(';')
            .map(|statement| statement.trim().to_ascii_lowercase())
            .filter(|statement| !statement.is_empty())
            .collect();
        match text.find("syntax") {
            Some(at) => Err(
                ErrorReport::new(SqlState::SYNTAX_ERROR, "syntax error at or near \"syntax\"").with_position(at + 1),
            ),
            None => Ok(statements),
        }
    }

    async fn describe(&mut self, statement: &String, declared: &[Option<SqlType>]) -> Result<Description, ErrorReport> {
        if statement.starts_with("echo") {
            let first = declared.first().cloned().flatten().unwrap_or(SqlType::Text);
            return Ok(Description {
                columns: Some(Arc::new(Schema::new(vec![first.to_arrow_field("echo", true)]))),
                parameters: vec![first],
            });
        }
        let has_rows = ["rows", "endless", "flood", "late", "pid"]
            .iter()
            .any(|word| statement.starts_with(word));
        Ok(Description {
            parameters: Vec::new(),
            columns: has_rows.then(int_schema),
        })
    }

    async fn insert_copied(&mut self, _copy: &CopyIn, rows: RecordBatch) -> Result<u64, ErrorReport> {
        Ok(rows.num_rows() as u64)
    }

    async fn run(&mut self, statement: &String, parameters: &[Parameter]) -> Result<Response, ErrorReport> {
        let _counted = Counted::new(&self.running);
        if let Some(response) = self.transaction(statement) {
            return Ok(response);
        }
        if self.status == TransactionStatus::Failed {
            return Err(ErrorReport::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        if let Some((schema, rows)) = self.rows(statement) {
            let tag = RowsTag::Counted("SELECT");
            return Ok(Response::Rows { schema, rows, tag });
        }
        let words: Vec<&str> = statement.split(' ').collect();
        match words.as_slice() {
            ["copy", rest @ ..] => self
                .copy(rest)
                .ok_or_else(|| ErrorReport::new(SqlState::SYNTAX_ERROR, "copy")),
            ["set", name, value] => {
                self.set(name, value)?;
                Ok(Response::Complete { tag: "SET".into() })
            }
            ["pid"] => {
                let schema = int_schema();
                let rows = futures::stream::iter([Ok(ints(self.pid..self.pid + 1))]).boxed();
                Ok(Response::Rows {
                    schema,
                    rows,
                    tag: RowsTag::Counted("SELECT"),
                })
            }
            ["echo"] => {
                let parameter = &parameters[0];
                let array = parameter.value.to_array().expect("a scalar becomes an array");
                let field = parameter
                    .sql_type
                    .to_arrow_field("echo", true)
                    .with_data_type(array.data_type().clone());
                let schema = Arc::new(Schema::new(vec![field]));
                let batch = RecordBatch::try_new(Arc::clone(&schema), vec![array]).expect("one column");
                Ok(Response::Rows {
                    schema,
                    rows: futures::stream::iter([Ok(batch)]).boxed(),
                    tag: RowsTag::Counted("SELECT"),
                })
            }
            ["sleep"] => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                Ok(Response::Complete { tag: "SLEEP".into() })
            }
            ["notice"] => {
                self.notify("look here");
                Ok(Response::Complete { tag: "NOTICE".into() })
            }
            ["changed"] => {
                let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
                let other: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
                let batch = RecordBatch::try_from_iter([("n", column), ("m", other)]).expect("two columns");
                Ok(Response::Rows {
                    schema: batch.schema(),
                    rows: futures::stream::iter([Ok(batch)]).boxed(),
                    tag: RowsTag::Fixed("SHOW".into()),
                })
            }
            ["panic"] => panic!("asked to"),
            _ => Err(ErrorReport::new(
                SqlState::UNDEFINED_TABLE,
                format!("relation \"{statement}\" does not exist"),
            )
            .with_position(1)
            .with_hint("Use SHOW TABLES to list the tables.")),
        }
    }

    fn statement_failed(&mut self) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    fn changed_settings(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changed)
    }

    fn output_style(&self) -> OutputStyle {
        let zone = self
            .settings
            .iter()
            .find(|(name, _)| name == "TimeZone")
            .map(|(_, value)| value.as_str());
        OutputStyle {
            time_zone: zone.and_then(Zone::parse).unwrap_or_default(),
            ..OutputStyle::default()
        }
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.timeout
    }
}
