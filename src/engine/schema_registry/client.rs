//! Asks a registry.
//!
//! What cannot be answered now (no connection, 429, 5xx) is an error that says so ([`Retry::Backoff`]); [`SchemaRegistry::ensure_waiting`]
//! waits it out. Other answers are final. Redirects are not followed: the password is for the host that the user named.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;
use url::Url;

use crate::engine::connectors::files;
use crate::engine::connectors::options::OptionReader;
use crate::engine::error::Error;
use crate::engine::schema_registry::options::RegistryOptions;
use crate::error::{Report, Retry, SqlState};

type Result<T> = std::result::Result<T, Error>;

/// How long it is believed that an id is not there.
pub const MISSING_KEPT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two attempts during an outage: doubled from the first to the second.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// Schemas that a schema refers to, and those that these refer to.
const REFERENCES_MAX: usize = 200;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaKind {
    #[default]
    Avro,
    Json,
    Protobuf,
}

impl SchemaKind {
    fn name(self) -> &'static str {
        match self {
            SchemaKind::Avro => "AVRO",
            SchemaKind::Json => "JSON",
            SchemaKind::Protobuf => "PROTOBUF",
        }
    }

    fn from_name(name: Option<&str>) -> Result<SchemaKind> {
        match name {
            None | Some("AVRO") => Ok(SchemaKind::Avro),
            Some("JSON") => Ok(SchemaKind::Json),
            Some("PROTOBUF") => Ok(SchemaKind::Protobuf),
            Some(other) => Err(Error::NotSupported {
                what: format!("a schema of type {other}"),
                hint: Some("Registries have schemas of type AVRO, JSON and PROTOBUF.".into()),
            }),
        }
    }
}

/// A schema as the registry has it.
#[derive(Debug, PartialEq, Eq)]
pub struct RegisteredSchema {
    pub id: u32,
    pub kind: SchemaKind,
    pub text: String,
    /// Name and text of what it refers to, each after those that it refers to itself.
    pub references: Vec<(String, String)>,
    /// What it refers to itself, by version.
    pub refers_to: Vec<Reference>,
}

/// What is known of an id.
#[derive(Clone, Debug)]
pub enum SchemaOfId {
    Schema(Arc<RegisteredSchema>),
    /// The registry does not know it; its words.
    Missing(Arc<str>),
}

/// A version of a subject.
#[derive(Clone, Debug)]
pub struct SubjectVersion {
    pub subject: String,
    pub version: u32,
    pub schema: Arc<RegisteredSchema>,
}

/// A schema to be registered.
#[derive(Clone, Debug)]
pub struct NewSchema {
    pub kind: SchemaKind,
    pub text: String,
    pub refers_to: Vec<Reference>,
}

pub struct SchemaRegistry {
    options: RegistryOptions,
    client: OnceLock<reqwest::Client>,
    known: Mutex<HashMap<u32, (SchemaOfId, Instant)>>,
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaRegistry({})", self.name())
    }
}

/// An answer about a schema, whichever question it was.
#[derive(Deserialize)]
struct SchemaAnswer {
    subject: Option<String>,
    version: Option<u32>,
    id: Option<u32>,
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

/// The schema that another one calls by this name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reference {
    pub name: String,
    pub subject: String,
    pub version: i64,
}

impl SchemaRegistry {
    pub fn new(options: RegistryOptions) -> SchemaRegistry {
        SchemaRegistry {
            options,
            client: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// The registry that a table or a connection names. Nothing is sent yet.
    pub fn read(options: &OptionReader<'_>) -> Result<Option<Arc<SchemaRegistry>>> {
        Ok(RegistryOptions::read(options)?.map(|options| Arc::new(SchemaRegistry::new(options))))
    }

    /// One that knows these schemas and is never asked for others.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn of_known(schemas: Vec<RegisteredSchema>) -> SchemaRegistry {
        let registry = SchemaRegistry::new(RegistryOptions {
            urls: Vec::new(),
            user: None,
            password: None,
            certificate_authority: None,
        });
        for schema in schemas {
            registry.remember(schema.id, SchemaOfId::Schema(Arc::new(schema)));
        }
        registry
    }

    /// What is known of `id` without asking. The only thing that may be called on a shard.
    pub fn known(&self, id: u32) -> Option<SchemaOfId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).map(|(schema, _)| schema.clone())
    }

    /// Whether [`SchemaRegistry::ensure`] would ask.
    pub fn is_unknown(&self, id: u32) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&id) {
            None => true,
            Some((SchemaOfId::Missing(_), since)) => since.elapsed() >= MISSING_KEPT,
            Some((SchemaOfId::Schema(_), _)) => false,
        }
    }

    /// Makes `id` known.
    pub async fn ensure(&self, id: u32) -> Result<SchemaOfId> {
        if !self.is_unknown(id)
            && let Some(known) = self.known(id)
        {
            return Ok(known);
        }
        let found = match self.ask(Method::GET, &["schemas", "ids", &id.to_string()], None).await {
            Ok(answer) => SchemaOfId::Schema(self.schema(answer, Some(id)).await?.schema),
            Err(error) if is_missing(&error) => SchemaOfId::Missing(error.to_string().into()),
            Err(error) => return Err(error),
        };
        self.remember(id, found.clone());
        Ok(found)
    }

    /// The same, waiting for as long as the registry cannot answer; `None`: `is_gone` said that nobody needs it any more.
    pub async fn ensure_waiting(&self, id: u32, is_gone: impl Fn() -> bool) -> Result<Option<SchemaOfId>> {
        waiting(is_gone, || self.ensure(id)).await
    }

    fn remember(&self, id: u32, schema: SchemaOfId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(id, (schema, Instant::now()));
    }

    /// Whether the registry answers and lets the user in.
    pub async fn check(&self) -> Result<()> {
        self.ask(Method::GET, &["subjects"], None).await.map(drop)
    }

    /// The latest version of `subject`; [`is_missing`] tells that there is none.
    pub async fn latest(&self, subject: &str) -> Result<SubjectVersion> {
        let answer = self
            .ask(Method::GET, &["subjects", subject, "versions", "latest"], None)
            .await?;
        let version = self.schema(answer, None).await?;
        self.remember(version.schema.id, SchemaOfId::Schema(Arc::clone(&version.schema)));
        Ok(version)
    }

    /// Registers `schema`, unless the subject has it already; gives its id.
    pub async fn register(&self, subject: &str, schema: &NewSchema) -> Result<u32> {
        let answer = self
            .ask(Method::POST, &["subjects", subject, "versions"], Some(schema.body()))
            .await?;
        let id = answer
            .get("id")
            .and_then(Value::as_u64)
            .and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.strange("it registered a schema and gave no id"))
    }

    /// Whether `schema` could be registered: the subject's rules, in the registry's words where they are broken.
    pub async fn check_compatible(&self, subject: &str, schema: &NewSchema) -> Result<()> {
        let path = ["compatibility", "subjects", subject, "versions", "latest"];
        let answer = match self
            .ask_with(Method::POST, &path, Some("verbose=true"), Some(schema.body()))
            .await
        {
            // The first version of a subject is compatible with whatever there is.
            Err(error) if is_missing(&error) => return Ok(()),
            answer => answer?,
        };
        if answer.get("is_compatible").and_then(Value::as_bool) != Some(false) {
            return Ok(());
        }
        let messages = answer.get("messages").and_then(Value::as_array);
        let said: Vec<&str> = messages.into_iter().flatten().filter_map(Value::as_str).collect();
        Err(incompatible(
            &format!("the schema of the columns is not compatible with the latest of subject \"{subject}\""),
            &said.join("; "),
        ))
    }

    async fn schema(&self, answer: Value, id: Option<u32>) -> Result<SubjectVersion> {
        let answer = self.parsed(answer)?;
        let id = id.or(answer.id).ok_or_else(|| self.strange("a schema has no id"))?;
        let mut references = Vec::new();
        self.resolve(answer.references.clone(), &mut references).await?;
        Ok(SubjectVersion {
            subject: answer.subject.unwrap_or_default(),
            version: answer.version.unwrap_or_default(),
            schema: Arc::new(RegisteredSchema {
                id,
                kind: SchemaKind::from_name(answer.kind.as_deref())?,
                text: answer.schema,
                references,
                refers_to: answer.references,
            }),
        })
    }

    fn parsed(&self, answer: Value) -> Result<SchemaAnswer> {
        serde_json::from_value(answer).map_err(|error| self.strange(&format!("a schema cannot be read: {error}")))
    }

    /// The schemas that `references` name, those first that others refer to.
    async fn resolve(&self, references: Vec<Reference>, found: &mut Vec<(String, String)>) -> Result<()> {
        let mut asked = 0;
        // Each is looked at twice: for what it refers to, and when that is there.
        let mut open: Vec<(Reference, Option<String>)> = references.into_iter().rev().map(|one| (one, None)).collect();
        while let Some((reference, text)) = open.pop() {
            if found.iter().any(|(name, _)| *name == reference.name) {
                continue;
            }
            if let Some(text) = text {
                found.push((reference.name, text));
                continue;
            }
            asked += 1;
            if asked > REFERENCES_MAX {
                return Err(self.strange("a schema refers to too many others"));
            }
            let version = reference.version.to_string();
            let answer = self
                .ask(
                    Method::GET,
                    &["subjects", &reference.subject, "versions", &version],
                    None,
                )
                .await?;
            let answer = self.parsed(answer)?;
            open.push((reference, Some(answer.schema)));
            open.extend(answer.references.into_iter().rev().map(|one| (one, None)));
        }
        Ok(())
    }

    async fn ask(&self, method: Method, path: &[&str], body: Option<Value>) -> Result<Value> {
        self.ask_with(method, path, None, body).await
    }

    /// Asks the first of the registry's hosts that can be reached.
    async fn ask_with(&self, method: Method, path: &[&str], query: Option<&str>, body: Option<Value>) -> Result<Value> {
        let mut failure = None;
        for base in &self.options.urls {
            let mut url = base.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(path);
            }
            url.set_query(query);
            match self.ask_host(method.clone(), url, body.as_ref()).await {
                Err(error) if error.retry() == Retry::Backoff => failure = Some(error),
                answer => return answer,
            }
        }
        Err(failure.unwrap_or_else(|| Error::Internal("a schema registry without a host".into())))
    }

    async fn ask_host(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Value> {
        let mut request = self.client()?.request(method, url).header("Accept", CONTENT_TYPE);
        if let Some(user) = &self.options.user {
            request = request.basic_auth(user, self.options.password.as_ref());
        }
        if let Some(body) = body {
            request = request.header("Content-Type", CONTENT_TYPE).body(body.to_string());
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|_| self.strange("it is not JSON"));
        }
        Err(self.refused(status, &bytes))
    }

    fn client(&self) -> Result<&reqwest::Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        let unusable = |error: reqwest::Error| Error::External {
            code: SqlState::INVALID_PARAMETER_VALUE,
            message: format!("could not make a client of the schema registry: {}", words(&error)),
            hint: Some("Look at schema_registry.ssl_ca.".into()),
            retry: Retry::Never,
        };
        if let Some(given) = &self.options.certificate_authority {
            let certificates = reqwest::Certificate::from_pem_bundle(&pem(given)?).map_err(unusable)?;
            if certificates.is_empty() {
                return Err(Error::External {
                    code: SqlState::INVALID_PARAMETER_VALUE,
                    message: "there is no certificate in what option \"schema_registry.ssl_ca\" names".into(),
                    hint: Some("It is a file, or text, with -----BEGIN CERTIFICATE-----.".into()),
                    retry: Retry::Never,
                });
            }
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build().map_err(unusable)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The hosts, as messages name them.
    fn name(&self) -> String {
        let shown: Vec<&str> = self.options.urls.iter().map(Url::as_str).collect();
        shown.join(", ")
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::External {
            code: SqlState::CONNECTION_FAILURE,
            message: format!("could not ask the schema registry at {}: {}", self.name(), words(error)),
            hint: Some("Look at schema_registry.url; validate = false asks later.".into()),
            retry: Retry::Backoff,
        }
    }

    fn strange(&self, what: &str) -> Error {
        Error::External {
            code: SqlState::PROTOCOL_VIOLATION,
            message: format!("the schema registry at {} gave a strange answer: {what}", self.name()),
            hint: Some("Is it the URL of a registry that speaks Confluent's REST API?".into()),
            retry: Retry::Never,
        }
    }

    /// An answer that is an error, in the registry's words.
    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let said = answer.get("message").and_then(Value::as_str);
        let said = said.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
        let (code, hint, retry) = match status.as_u16() {
            401 => (
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                Some("Look at schema_registry.username and schema_registry.password."),
                Retry::Never,
            ),
            403 => (
                SqlState::INSUFFICIENT_PRIVILEGE,
                Some("Ask for the right on the registry."),
                Retry::Never,
            ),
            404 if answer.get("error_code").is_some() => (SqlState::UNDEFINED_OBJECT, None, Retry::Never),
            409 => return incompatible("the schema registry refused the schema", &said),
            408 | 429 | 500..=599 => (SqlState::CONNECTION_FAILURE, None, Retry::Backoff),
            422 => (SqlState::INVALID_OBJECT_DEFINITION, None, Retry::Never),
            _ => return self.strange(&said),
        };
        Error::External {
            code,
            message: format!("the schema registry says: {said}"),
            hint: hint.map(str::to_owned),
            retry,
        }
    }
}

/// PEM text, or that of the file of this name.
fn pem(text: &str) -> Result<Vec<u8>> {
    if text.contains("-----BEGIN") {
        return Ok(text.as_bytes().to_vec());
    }
    std::fs::read(text).map_err(|error| files::io_error("open", text, &error))
}

impl NewSchema {
    fn body(&self) -> Value {
        let mut body = json!({ "schema": self.text });
        // Old registries know neither types nor references.
        if self.kind != SchemaKind::Avro {
            body["schemaType"] = self.kind.name().into();
        }
        if !self.refers_to.is_empty() {
            body["references"] = json!(self.refers_to);
        }
        body
    }
}

/// The registry answered that it has no such subject, version or schema.
pub fn is_missing(error: &Error) -> bool {
    error.code() == SqlState::UNDEFINED_OBJECT
}

fn incompatible(what: &str, said: &str) -> Error {
    Error::External {
        code: SqlState::INVALID_TABLE_DEFINITION,
        message: format!("{what}: {said}"),
        hint: Some(
            "Change the columns so that they agree with the subject's compatibility, write to another subject, or say \
             schema_registry.register = false to write by the schema that is there."
                .into(),
        ),
        retry: Retry::Never,
    }
}

/// Asks until the registry can answer; `None`: `is_gone` said that nobody needs it any more.
pub async fn waiting<T, F: Future<Output = Result<T>>>(
    is_gone: impl Fn() -> bool,
    ask: impl Fn() -> F,
) -> Result<Option<T>> {
    let mut pause = RETRY_FIRST;
    loop {
        match ask().await {
            Err(error) if error.retry() == Retry::Backoff => {
                info!(%error, "the schema registry cannot be asked now, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LAST);
            }
            done => return done.map(Some),
        }
        if is_gone() {
            return Ok(None);
        }
    }
}

/// What lies at the bottom of it, which is what says something; without the URL, whose user is not to be shown.
fn words(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    if error.is_timeout() {
        "it did not answer in time".to_owned()
    } else {
        text.to_owned()
    }
}
