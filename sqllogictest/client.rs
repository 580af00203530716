//! What the `.slt` runner talks through: one server process, one connection, one protocol, one configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};
use tokio::sync::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::binary_text::AsText;
use crate::server_process::ServerProcess;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    Plain,
    Interrupted,
    Rescaled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Simple,
    Extended,
}

/// How often the server is killed before a `WAIT FOR PIPELINE` of an interrupted file is sent.
const INTERRUPTIONS: u64 = 3;
/// Between a start of the server and its kill: enough for some rows, not for all.
const LIFE: Duration = Duration::from_millis(350);

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ClientError {
    text: String,
    state: Option<String>,
}

impl From<tokio_postgres::Error> for ClientError {
    fn from(error: tokio_postgres::Error) -> ClientError {
        match error.as_db_error() {
            Some(db) => {
                let mut text = format!("{}: {}", db.code().code(), db.message());
                if let Some(detail) = db.detail() {
                    text.push_str(&format!("\nDETAIL: {detail}"));
                }
                if let Some(hint) = db.hint() {
                    text.push_str(&format!("\nHINT: {hint}"));
                }
                if let Some(tokio_postgres::error::ErrorPosition::Original(position)) = db.position() {
                    text.push_str(&format!("\nPOSITION: {position}"));
                }
                ClientError {
                    text,
                    state: Some(db.code().code().to_owned()),
                }
            }
            None => ClientError {
                text: format!("{error:?}"),
                state: None,
            },
        }
    }
}

impl From<String> for ClientError {
    fn from(text: String) -> ClientError {
        ClientError { text, state: None }
    }
}

pub struct SltClient {
    pub server: Arc<Mutex<ServerProcess>>,
    pub data_dir: PathBuf,
    pub configuration: Configuration,
    pub protocol: Protocol,
    client: Option<Client>,
}

impl SltClient {
    pub async fn connect(
        server: Arc<Mutex<ServerProcess>>,
        data_dir: PathBuf,
        configuration: Configuration,
        protocol: Protocol,
    ) -> Result<SltClient, ClientError> {
        let client = server.lock().await.connect().await?;
        Ok(SltClient {
            server,
            data_dir,
            configuration,
            protocol,
            client: Some(client),
        })
    }

    fn client(&self) -> Result<&Client, ClientError> {
        self.client
            .as_ref()
            .ok_or_else(|| ClientError::from("not connected".to_owned()))
    }

    async fn interrupt(&mut self, pipeline: &str) -> Result<(), ClientError> {
        for round in 0..INTERRUPTIONS {
            tokio::time::sleep(LIFE).await;
            // The last kill comes without a checkpoint just before it.
            if round + 1 < INTERRUPTIONS {
                match self
                    .client()?
                    .simple_query(&format!("CHECKPOINT PIPELINE {pipeline}"))
                    .await
                {
                    Ok(_) => {}
                    // Input may have ended already.
                    Err(error) if error.code().is_some_and(|code| code.code() == "55000") => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.kill().await?;
        }
        Ok(())
    }

    /// What an internal table has acknowledged is there after a kill at any moment.
    async fn kill(&mut self) -> Result<(), ClientError> {
        let mut server = self.server.lock().await;
        server.kill();
        let log = server.log();
        *server = ServerProcess::start(&self.data_dir, &[])?;
        server.prepend_log(log);
        self.client = Some(server.connect().await?);
        Ok(())
    }

    async fn rescale(&mut self, pipeline: &str) -> Result<(), ClientError> {
        tokio::time::sleep(LIFE).await;
        match self
            .client()?
            .simple_query(&format!("ALTER PIPELINE {pipeline} SET (parallelism = 3)"))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.code().is_some_and(|code| code.code() == "55000") => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn run_simple(&self, sql: &str) -> Result<DBOutput<DefaultColumnType>, ClientError> {
        let mut types = None;
        let mut rows = Vec::new();
        let mut count = 0;
        for message in self.client()?.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    types = Some(vec![DefaultColumnType::Any; columns.len()]);
                }
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|column| shown(row.get(column))).collect());
                }
                SimpleQueryMessage::CommandComplete(affected) => count = affected,
                _ => {}
            }
        }
        Ok(match types {
            Some(types) => DBOutput::Rows { types, rows },
            None => DBOutput::StatementComplete(count),
        })
    }

    async fn run_extended(&self, sql: &str) -> Result<DBOutput<DefaultColumnType>, ClientError> {
        let client = self.client()?;
        let statement = client.prepare(sql).await?;
        if statement.columns().is_empty() {
            return Ok(DBOutput::StatementComplete(client.execute(&statement, &[]).await?));
        }
        let types = statement
            .columns()
            .iter()
            .map(|column| column_type(column.type_()))
            .collect();
        let mut rows = Vec::new();
        for row in client.query(&statement, &[]).await? {
            let mut texts = Vec::with_capacity(row.len());
            for column in 0..row.len() {
                let value: Option<AsText> = row.try_get(column)?;
                texts.push(shown(value.as_ref().map(|text| text.0.as_str())));
            }
            rows.push(texts);
        }
        Ok(DBOutput::Rows { types, rows })
    }
}

/// NULL and the empty string, which would look alike, as words.
fn shown(value: Option<&str>) -> String {
    match value {
        None => "NULL".into(),
        Some("") => "(empty)".into(),
        Some(text) => text.replace('\n', "\\n"),
    }
}

fn column_type(ty: &Type) -> DefaultColumnType {
    match *ty {
        Type::INT2 | Type::INT4 | Type::INT8 => DefaultColumnType::Integer,
        Type::FLOAT4 | Type::FLOAT8 => DefaultColumnType::FloatingPoint,
        Type::TEXT | Type::VARCHAR => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

/// The pipeline's name when `sql` is `WAIT FOR PIPELINE name ..`.
fn awaited_pipeline(sql: &str) -> Option<&str> {
    let mut words = sql.split_whitespace();
    let begins = ["wait", "for", "pipeline"]
        .iter()
        .all(|word| words.next().is_some_and(|w| w.eq_ignore_ascii_case(word)));
    begins
        .then(|| words.next())
        .flatten()
        .map(|name| name.trim_end_matches(';'))
}

#[async_trait::async_trait]
impl AsyncDB for SltClient {
    type Error = ClientError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, ClientError> {
        if let Some(pipeline) = awaited_pipeline(sql) {
            match self.configuration {
                Configuration::Plain => {}
                Configuration::Interrupted => self.interrupt(pipeline).await?,
                Configuration::Rescaled => self.rescale(pipeline).await?,
            }
        }
        if sql.trim().eq_ignore_ascii_case("flush") && self.configuration == Configuration::Interrupted {
            self.kill().await?;
        }
        match self.protocol {
            Protocol::Simple => self.run_simple(sql).await,
            Protocol::Extended => self.run_extended(sql).await,
        }
    }

    async fn shutdown(&mut self) {
        self.client = None;
    }

    fn engine_name(&self) -> &str {
        "laminar"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &ClientError) -> Option<String> {
        error.state.clone()
    }
}
