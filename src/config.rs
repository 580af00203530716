//! The settings of the server: one typed [`Config`] out of four layers, later ones winning: the built-in `config.toml`
//! (which is also the manual), `laminar.toml`, the environment (`LAMINAR_<NAME>`), flags.
//!
//! Nothing else reads the environment. Guarantees: a key that does not exist is an error with the nearest one; a server
//! that trusts everybody listens on loopback only; passwords and keys are not printed by `Debug`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::config::{File, FileFormat};
use serde::Deserialize;

use crate::error::{Blame, Report, SqlState, nearest};
use crate::types::byte_size::parse_byte_size;

const BUILT_IN: &str = include_str!("config.toml");
const FILE_NAME: &str = "laminar.toml";
const ENVIRONMENT_PREFIX: &str = "LAMINAR_";
/// Variables that belong to tests and to the choice of the file.
const ENVIRONMENT_OTHERS: [&str; 2] = ["LAMINAR_TEST_", "LAMINAR_CONFIG"];

/// Reads one variable of the environment.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A value that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive(String);

impl Sensitive {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Absolute.
    pub data_dir: PathBuf,
    pub sql_listen: SocketAddr,
    pub http_listen: SocketAddr,
    pub metadata: MetadataAddress,
    pub checkpoint_url: String,
    /// `None`: one a core.
    pub shards: Option<usize>,
    pub log: String,
    pub log_format: LogFormat,
    /// Of user `laminar`; `None`: trust.
    pub password: Option<Sensitive>,
    pub tls: Option<TlsFiles>,
    /// `None`: the key file in the data directory.
    pub secret_key: Option<Sensitive>,
    pub checkpoint_interval: Duration,
    pub barrier_interval: Duration,
    pub connections_max: usize,
    pub statement_bytes_max: usize,
    pub memory_limit: MemoryLimit,
    /// Texts to log once logging works.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataAddress {
    Sqlite(PathBuf),
    /// May hold a password.
    Postgres(Sensitive),
    Memory,
}

/// What the state of all pipelines may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    None,
    Bytes(u64),
    /// Of what the machine has, or the container.
    Percent(u8),
}

impl MemoryLimit {
    /// In bytes. `machine`: what there is, if that is known.
    pub fn bytes(self, machine: Option<u64>) -> Option<u64> {
        match self {
            MemoryLimit::None => None,
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Percent(percent) => machine.map(|all| all / 100 * u64::from(percent)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The command line.
#[derive(Clone, Debug, Default, clap::Parser)]
#[command(
    name = "laminar",
    version,
    about = "A streaming SQL server that speaks the Postgres wire protocol"
)]
pub struct Flags {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: SettingFlags,
}

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Everything in one process; what `laminar` alone does.
    Server,
    /// A shell towards a running server.
    Sql {
        /// Address of the server; the configured one when left out.
        #[arg(long)]
        host: Option<String>,
        #[arg(long, default_value = "laminar")]
        user: String,
        #[arg(long, default_value = "laminar")]
        database: String,
        /// Run this and leave; may be repeated.
        #[arg(short = 'c', long = "execute")]
        execute: Vec<String>,
    },
    /// The server with the demo objects.
    Demo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct SettingFlags {
    /// Settings file; without it laminar.toml in the current directory, when there is one
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Where the server keeps its own files
    #[arg(long, global = true, value_name = "PATH")]
    pub data_dir: Option<String>,
    /// Address of the Postgres protocol
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub sql_listen: Option<String>,
    /// Address of REST, console and metrics
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub http_listen: Option<String>,
    /// Metadata store: sqlite://path, postgres://.. or memory:
    #[arg(long, global = true, value_name = "URL")]
    pub metadata: Option<String>,
    /// Checkpoint storage: file://, s3://, gs://, az:// or memory:///
    #[arg(long, global = true, value_name = "URL")]
    pub checkpoint_url: Option<String>,
    /// Threads that run operators
    #[arg(long, global = true, value_name = "N")]
    pub shards: Option<u32>,
    /// What the state of all pipelines may take: '70 %' of the machine, '8 GB' or none
    #[arg(long, global = true, value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// What is logged, such as info or "info,laminar::engine=debug"
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How it is logged: text or json
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// File with the password of user laminar
    #[arg(long, global = true, value_name = "PATH")]
    pub password_file: Option<String>,
    /// Certificate chain of the listeners, PEM
    #[arg(long, global = true, value_name = "PATH")]
    pub tls_cert: Option<String>,
    /// Private key of the listeners, PEM
    #[arg(long, global = true, value_name = "PATH")]
    pub tls_key: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not read configuration file \"{}\": {reason}", .path.display())]
    File { path: PathBuf, reason: String },
    #[error("unrecognized configuration parameter \"{name}\" in {place}")]
    UnknownKey {
        name: String,
        place: String,
        nearest: Option<String>,
    },
    #[error("invalid value for parameter \"{name}\": {reason}")]
    Value { name: String, reason: String },
    #[error("settings do not fit together: {0}")]
    Unreadable(String),
    #[error("parameter \"{0}\" needs parameter \"{1}\"")]
    Needs(&'static str, &'static str),
    #[error("parameters \"password\" and \"password_file\" exclude each other")]
    TwoPasswords,
    #[error("cannot listen on {address} without TLS and a password")]
    UnsafeListen { address: SocketAddr },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::File { .. } => SqlState::UNDEFINED_FILE,
            Error::UnknownKey { .. } => SqlState::UNDEFINED_OBJECT,
            _ => SqlState::INVALID_PARAMETER_VALUE,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::UnknownKey {
                nearest: Some(nearest), ..
            } => Some(format!("Perhaps you meant \"{nearest}\".")),
            Error::UnsafeListen { .. } => Some(
                "Set tls_cert, tls_key and password or password_file, or listen on 127.0.0.1; without a password \
                 everybody is trusted, which only loopback addresses allow."
                    .into(),
            ),
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        Blame::User
    }
}

/// The layers merged, still as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    data_dir: String,
    sql_listen: String,
    http_listen: String,
    metadata: String,
    checkpoint_url: String,
    shards: usize,
    log: String,
    log_format: String,
    password: String,
    password_file: String,
    tls_cert: String,
    tls_key: String,
    secret_key: String,
    checkpoint_interval: String,
    barrier_interval: String,
    connections_max: usize,
    statement_bytes_max: usize,
    memory_limit: String,
}

impl Config {
    /// All layers of this process.
    pub fn load(flags: &SettingFlags) -> Result<Config> {
        let environment = environment();
        let chosen = flags
            .config
            .clone()
            .or_else(|| environment("LAMINAR_CONFIG").map(PathBuf::from));
        let path = match chosen {
            Some(path) => Some(path),
            None => Some(PathBuf::from(FILE_NAME)).filter(|path| path.exists()),
        };
        let file = match path {
            Some(path) => Some(read(&path).map(|text| (path, text))?),
            None => None,
        };
        let mut config = Config::from_layers(file, environment.as_ref(), flags)?;
        config.warnings = misspelt_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
        Ok(config)
    }

    fn from_layers(
        file: Option<(PathBuf, String)>,
        environment: &dyn Fn(&str) -> Option<String>,
        flags: &SettingFlags,
    ) -> Result<Config> {
        let known = known_keys()?;
        let mut builder = ::config::Config::builder().add_source(File::from_str(BUILT_IN, FileFormat::Toml));
        if let Some((path, text)) = file {
            check_keys(&path, &text, &known)?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let set = |builder: ::config::ConfigBuilder<_>, name: &str, value: String| {
            builder.set_override(name, value).map_err(unreadable)
        };
        for name in &known {
            if let Some(value) = environment(&variable_of(name)) {
                builder = set(builder, name, value)?;
            }
        }
        for (name, value) in flags.given() {
            builder = set(builder, name, value)?;
        }
        let merged = builder.build().map_err(unreadable)?;
        let settings: Settings = merged.try_deserialize().map_err(unreadable)?;
        settings.check()
    }

    /// Refuses what would let strangers in.
    pub fn validate(&self) -> Result<()> {
        let protected = self.tls.is_some() && self.password.is_some();
        for address in [self.sql_listen, self.http_listen] {
            if !address.ip().is_loopback() && !protected {
                return Err(Error::UnsafeListen { address });
            }
        }
        Ok(())
    }
}

impl SettingFlags {
    fn given(&self) -> Vec<(&'static str, String)> {
        let texts = [
            ("data_dir", &self.data_dir),
            ("sql_listen", &self.sql_listen),
            ("http_listen", &self.http_listen),
            ("metadata", &self.metadata),
            ("checkpoint_url", &self.checkpoint_url),
            ("memory_limit", &self.memory_limit),
            ("log", &self.log),
            ("log_format", &self.log_format),
            ("password_file", &self.password_file),
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
        ];
        let mut given: Vec<(&'static str, String)> = texts
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect();
        given.extend(self.shards.map(|shards| ("shards", shards.to_string())));
        given
    }
}

impl Settings {
    fn check(self) -> Result<Config> {
        let data_dir = std::path::absolute(&self.data_dir).map_err(|error| value("data_dir", error.to_string()))?;
        let config = Config {
            sql_listen: address("sql_listen", &self.sql_listen)?,
            http_listen: address("http_listen", &self.http_listen)?,
            metadata: metadata_address(&self.metadata, &data_dir)?,
            checkpoint_url: checkpoint_url(self.checkpoint_url, &data_dir)?,
            shards: (self.shards > 0).then_some(self.shards),
            log: self.log,
            log_format: match self.log_format.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(value("log_format", "it is text or json".into())),
            },
            password: password(self.password, &self.password_file)?,
            tls: tls_files(self.tls_cert, self.tls_key)?,
            secret_key: present(self.secret_key).map(Sensitive),
            checkpoint_interval: duration("checkpoint_interval", &self.checkpoint_interval)?,
            barrier_interval: duration("barrier_interval", &self.barrier_interval)?,
            connections_max: at_least_one("connections_max", self.connections_max)?,
            statement_bytes_max: at_least_one("statement_bytes_max", self.statement_bytes_max)?,
            memory_limit: memory_limit(&self.memory_limit)?,
            warnings: Vec::new(),
            data_dir,
        };
        config.validate()?;
        Ok(config)
    }
}

/// The environment of the server: what `{{ VAR }}` in options and `CREATE SECRET .. FROM ENV` read.
pub fn environment() -> Environment {
    Arc::new(|name| std::env::var(name).ok())
}

/// Credentials and endpoints of object stores, under the names that their own tools use.
pub fn object_store_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            ["AWS_", "GOOGLE_", "AZURE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect()
}

fn memory_limit(text: &str) -> Result<MemoryLimit> {
    let plain = text.trim();
    if plain.eq_ignore_ascii_case("none") {
        return Ok(MemoryLimit::None);
    }
    let wrong = || {
        value(
            "memory_limit",
            "it is a part such as 70 %, a size such as 8 GB, or none".into(),
        )
    };
    match plain.strip_suffix('%') {
        Some(percent) => match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(MemoryLimit::Percent(percent)),
            _ => Err(wrong()),
        },
        None => parse_byte_size(plain).map(MemoryLimit::Bytes).ok_or_else(wrong),
    }
}

fn known_keys() -> Result<BTreeSet<String>> {
    keys_of(BUILT_IN)
}

fn keys_of(text: &str) -> Result<BTreeSet<String>> {
    let source = File::from_str(text, FileFormat::Toml);
    let built = ::config::Config::builder()
        .add_source(source)
        .build()
        .map_err(unreadable)?;
    match built.cache.kind {
        ::config::ValueKind::Table(table) => Ok(table.into_keys().collect()),
        _ => Ok(BTreeSet::new()),
    }
}

fn check_keys(path: &Path, text: &str, known: &BTreeSet<String>) -> Result<()> {
    let keys = keys_of(text).map_err(|error| match error {
        Error::Unreadable(reason) => Error::File {
            path: path.to_owned(),
            reason,
        },
        other => other,
    })?;
    match keys.iter().find(|key| !known.contains(*key)) {
        None => Ok(()),
        Some(key) => Err(Error::UnknownKey {
            name: key.clone(),
            place: format!("\"{}\"", path.display()),
            nearest: nearest(key, known.iter().map(String::as_str)).map(str::to_owned),
        }),
    }
}

fn variable_of(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.to_uppercase())
}

/// A variable of our prefix that is no setting is told, not refused: it may be meant for somebody else.
fn misspelt_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = known_keys()
        .unwrap_or_default()
        .iter()
        .map(|name| variable_of(name))
        .collect();
    names
        .filter(|name| name.starts_with(ENVIRONMENT_PREFIX) && !known.contains(name))
        .filter(|name| !ENVIRONMENT_OTHERS.iter().any(|other| name.starts_with(other)))
        .filter_map(|name| {
            let near = nearest(&name, known.iter().map(String::as_str))?;
            Some(format!(
                "environment variable {name} is not a setting; perhaps {near} is meant"
            ))
        })
        .collect()
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn unreadable(error: ::config::ConfigError) -> Error {
    Error::Unreadable(error.to_string())
}

fn value(name: &str, reason: String) -> Error {
    Error::Value {
        name: name.to_owned(),
        reason,
    }
}

fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn at_least_one(name: &str, number: usize) -> Result<usize> {
    if number == 0 {
        return Err(value(name, "it must be at least 1".into()));
    }
    Ok(number)
}

fn address(name: &str, text: &str) -> Result<SocketAddr> {
    let resolved = text
        .to_socket_addrs()
        .map_err(|error| value(name, format!("\"{text}\": {error}")))?;
    // `localhost` may be both ::1 and 127.0.0.1; clients that are told the default expect the latter.
    let mut addresses: Vec<SocketAddr> = resolved.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let first = addresses.first().copied();
    first.ok_or_else(|| value(name, format!("\"{text}\" has no address")))
}

fn metadata_address(text: &str, data_dir: &Path) -> Result<MetadataAddress> {
    if text.is_empty() {
        return Ok(MetadataAddress::Sqlite(data_dir.join("catalog.sqlite")));
    }
    if let Some(path) = text.strip_prefix("sqlite://").filter(|path| !path.is_empty()) {
        return Ok(MetadataAddress::Sqlite(PathBuf::from(path)));
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Ok(MetadataAddress::Postgres(Sensitive(text.to_owned())));
    }
    if ["memory:", "memory://", "memory:///"].contains(&text) {
        return Ok(MetadataAddress::Memory);
    }
    // The text is not repeated: it may hold a password.
    Err(value(
        "metadata",
        "use sqlite://path, postgres://user@host/database or memory:".into(),
    ))
}

fn checkpoint_url(text: String, data_dir: &Path) -> Result<String> {
    match present(text) {
        Some(text) => Ok(text),
        None => url::Url::from_directory_path(data_dir.join("checkpoints"))
            .map(|url| url.to_string())
            .map_err(|()| value("data_dir", "it cannot be written as a URL".into())),
    }
}

fn password(text: String, file: &str) -> Result<Option<Sensitive>> {
    if file.is_empty() {
        return Ok(present(text).map(Sensitive));
    }
    if !text.is_empty() {
        return Err(Error::TwoPasswords);
    }
    let text = read(Path::new(file))?;
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    match present(text) {
        Some(text) => Ok(Some(Sensitive(text))),
        None => Err(value("password_file", format!("\"{file}\" is empty"))),
    }
}

fn tls_files(certificate: String, key: String) -> Result<Option<TlsFiles>> {
    match (present(certificate), present(key)) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.into(),
            key: key.into(),
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::Needs("tls_cert", "tls_key")),
        (None, Some(_)) => Err(Error::Needs("tls_key", "tls_cert")),
    }
}

/// `10 s`, `500ms`, `1 minute`.
fn duration(name: &str, text: &str) -> Result<Duration> {
    let wrong = || {
        value(
            name,
            format!("\"{text}\" is not a duration such as \"10 s\" or \"500 ms\""),
        )
    };
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit.trim() {
        "ms" | "millisecond" | "milliseconds" => 1,
        "s" | "second" | "seconds" => 1000,
        "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        _ => return Err(wrong()),
    };
    let total = number
        .checked_mul(milliseconds)
        .filter(|total| *total > 0)
        .ok_or_else(wrong)?;
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    fn load(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Config> {
        let environment = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let flags = Flags::try_parse_from(["laminar"].iter().chain(flags)).unwrap();
        Config::from_layers(
            Some(("laminar.toml".into(), file.into())),
            &environment,
            &flags.settings,
        )
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = load("", &[], &[]).unwrap();
        assert_eq!(config.sql_listen.to_string(), "127.0.0.1:5433");
        assert_eq!(config.http_listen.to_string(), "127.0.0.1:5115");
        assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("laminar-data"));
        assert!(
            matches!(&config.metadata, MetadataAddress::Sqlite(path) if path.ends_with("laminar-data/catalog.sqlite"))
        );
        assert!(
            config.checkpoint_url.starts_with("file:///")
                && config.checkpoint_url.ends_with("/laminar-data/checkpoints/")
        );
        assert_eq!(config.checkpoint_interval, Duration::from_secs(10));
        assert_eq!(config.memory_limit.bytes(Some(1000)), Some(700));
        assert_eq!(config.barrier_interval, Duration::from_secs(1));
        assert_eq!(
            (config.shards, config.password.is_none(), config.tls.is_none()),
            (None, true, true)
        );
    }

    #[test]
    fn later_layers_win() {
        let file = "shards = 2\nlog = \"warn\"\nmetadata = \"memory:\"";
        let variables = [
            ("LAMINAR_SHARDS", "3"),
            ("LAMINAR_LOG", "debug"),
            ("LAMINAR_CONNECTIONS_MAX", "7"),
        ];
        let config = load(file, &variables, &["server", "--shards", "4"]).unwrap();
        assert_eq!(
            (config.shards, config.log.as_str(), config.connections_max),
            (Some(4), "debug", 7)
        );
        assert_eq!(config.metadata, MetadataAddress::Memory);
        assert_eq!(load(file, &variables, &[]).unwrap().shards, Some(3));
        assert_eq!(load(file, &[], &["demo"]).unwrap().shards, Some(2));
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused() {
        let error = load("chekpoint_url = \"x\"", &[], &[]).unwrap_err();
        assert_eq!(error.code().as_str(), "42704");
        assert_eq!(error.hint().unwrap(), "Perhaps you meant \"checkpoint_url\".");
        assert!(error.to_string().contains("laminar.toml"));
        assert!(load("[server]\nshards = 1", &[], &[]).is_err());
        assert!(matches!(load("shards = ", &[], &[]).unwrap_err(), Error::File { .. }));
        for file in [
            "shards = \"many\"",
            "checkpoint_interval = \"10\"",
            "memory_limit = \"101 %\"",
            "memory_limit = \"much\"",
            "checkpoint_interval = \"0 s\"",
            "log_format = \"xml\"",
            "sql_listen = \"nowhere\"",
            "metadata = \"mysql://me:hunter2@h/db\"",
            "tls_cert = \"c.pem\"",
            "connections_max = 0",
        ] {
            let error = load(file, &[], &[]).unwrap_err();
            assert_eq!(error.code().as_str(), "22023", "{file}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn strangers_need_tls_and_a_password() {
        let tls = "tls_cert = \"c\"\ntls_key = \"k\"\n";
        let open = "sql_listen = \"0.0.0.0:5433\"\n";
        let password = "password = \"hunter2\"\n";
        for file in [
            open.to_owned(),
            format!("{open}{tls}"),
            format!("{open}{password}"),
            "http_listen = \"0.0.0.0:1\"".into(),
        ] {
            let error = load(&file, &[], &[]).unwrap_err();
            assert!(matches!(error, Error::UnsafeListen { .. }), "{file}");
            assert!(error.hint().unwrap().contains("tls_cert"));
        }
        let config = load(&format!("{open}{tls}{password}"), &[], &[]).unwrap();
        assert_eq!(config.password.as_ref().unwrap().reveal(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
        load(
            "sql_listen = \"localhost:5433\"\nhttp_listen = \"[::1]:5115\"",
            &[],
            &[],
        )
        .unwrap();
    }

    #[test]
    fn passwords_come_from_files_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "hunter2\n").unwrap();
        let path = path.to_str().unwrap();
        let config = load("", &[], &["--password-file", path]).unwrap();
        assert_eq!(config.password.unwrap().reveal(), "hunter2");
        let both = load("password = \"x\"", &[], &["--password-file", path]);
        assert!(matches!(both.unwrap_err(), Error::TwoPasswords));
        assert!(matches!(
            load("password_file = \"/nonexistent/p\"", &[], &[]).unwrap_err(),
            Error::File { .. }
        ));
    }

    #[test]
    fn misspelt_variables_are_told() {
        let names = [
            "LAMINAR_DATADIR",
            "LAMINAR_TEST_POSTGRES",
            "LAMINAR_SHARDS",
            "HOME",
            "LAMINAR_SOMETHING_ELSE",
        ];
        let warnings = misspelt_variables(names.into_iter().map(str::to_owned));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("LAMINAR_DATA_DIR"));
    }

    #[test]
    fn every_setting_has_a_comment() {
        let lines: Vec<&str> = BUILT_IN.lines().collect();
        for (i, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.contains(" = ") && !line.starts_with('#'))
        {
            assert!(
                lines[i - 1].starts_with("# ") || lines[i - 1].starts_with("tls_cert"),
                "{line}"
            );
        }
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Flags::command().debug_assert();
        let flags = Flags::try_parse_from(["laminar", "sql", "-c", "SELECT 1", "--host", "h:1"]).unwrap();
        assert!(matches!(flags.command, Some(Command::Sql { execute, .. }) if execute == ["SELECT 1"]));
    }
}
