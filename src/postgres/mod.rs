//! Addresses of Postgres servers: URLs and parts, TLS with libpq's meaning of `sslmode`, pools of connections. For the metadata store
//! and for tables that are in Postgres.
//!
//! `disable`, `prefer` (default), `require` (encrypted, the server not verified unless `sslrootcert` is given), `verify-ca` and
//! `verify-full` (verified against `sslrootcert`).
//!
//! Guarantee: neither an error nor `Debug` shows a password.

mod tls;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::postgres::tls::{Verification, client_config};

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub const SSL_MODES: &[&str] = &["disable", "prefer", "require", "verify-ca", "verify-full"];

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {reason}")]
pub struct AddressError {
    /// Without its password.
    pub address: String,
    pub reason: String,
}

pub type Result<T, E = AddressError> = std::result::Result<T, E>;

/// Where a server is, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Address {
    pub config: tokio_postgres::Config,
    verification: Verification,
}

impl Address {
    /// `postgres://user:password@host:port/database?sslmode=..`. The parameters that the client library does not know are taken
    /// out first.
    pub fn parse(text: &str) -> Result<Address> {
        let mut url = url::Url::parse(text).map_err(|error| invalid(text, error.to_string()))?;
        let mut mode = None;
        let mut root_certificates = None;
        let mut rest = Vec::new();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => root_certificates = Some(value.into_owned()),
                _ => rest.push((name.into_owned(), value.into_owned())),
            }
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        let config: tokio_postgres::Config = url
            .as_str()
            .parse()
            .map_err(|error: tokio_postgres::Error| invalid(text, with_source(&error)))?;
        Address::new(config, mode.as_deref(), root_certificates).map_err(|reason| invalid(text, reason))
    }

    /// `Err`: what is wrong with the last two.
    pub fn new(
        mut config: tokio_postgres::Config,
        mode: Option<&str>,
        root_certificates: Option<String>,
    ) -> Result<Address, String> {
        let (ssl_mode, check_name) = match mode {
            Some("disable") => (SslMode::Disable, false),
            None | Some("prefer" | "allow") => (SslMode::Prefer, false),
            Some("require" | "verify-ca") => (SslMode::Require, false),
            Some("verify-full") => (SslMode::Require, true),
            Some(other) => return Err(format!("there is no sslmode \"{other}\"")),
        };
        let verification = match (mode, root_certificates) {
            (Some("verify-ca" | "verify-full"), None) => {
                return Err("sslmode verify-ca and verify-full need sslrootcert".into());
            }
            (_, Some(path)) => Verification::Roots { path, check_name },
            (_, None) => Verification::None,
        };
        config.ssl_mode(ssl_mode);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("laminar");
        }
        Ok(Address { config, verification })
    }

    /// Connections to the server, none of them open yet.
    pub fn pool(self, connections_max: usize) -> Result<Pool> {
        let tls = MakeRustlsConnect::new(client_config(&self.verification)?);
        let manager_config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        Pool::builder(Manager::from_config(self.config, tls, manager_config))
            .max_size(connections_max)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(CONNECT_TIMEOUT),
                create: Some(CONNECT_TIMEOUT),
                recycle: Some(CONNECT_TIMEOUT),
            })
            .build()
            .map_err(|error| AddressError {
                address: "pool of connections".into(),
                reason: error.to_string(),
            })
    }
}

/// The address without its password.
fn invalid(text: &str, reason: String) -> AddressError {
    let address = match url::Url::parse(text) {
        Ok(mut url) => {
            if url.password().is_some() {
                // Only refused for addresses that cannot have a password, and this one has.
                let _ = url.set_password(Some("***"));
            }
            url.to_string()
        }
        Err(_) => text.split(':').next().unwrap_or_default().to_owned(),
    };
    AddressError { address, reason }
}

/// The client library says "db error" or "error connecting to server"; what the matter is stands in the source.
pub fn with_source(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
