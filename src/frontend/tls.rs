//! TLS of both listeners: certificate and key from PEM files, read once at the start.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::error::{ErrorReport, SqlState};

/// Ready to shake hands.
#[derive(Clone)]
pub struct Tls {
    pub acceptor: TlsAcceptor,
    /// For channel binding.
    pub certificate_pem: Vec<u8>,
}

/// Reads the files; an error names the file and what is wrong with it. `protocol` is the name that clients may ask for.
pub fn load(files: &TlsFiles, protocol: &[u8]) -> Result<Tls, ErrorReport> {
    let certificate_pem = std::fs::read(&files.certificate).map_err(|error| file_error(&files.certificate, &error))?;
    let chain = CertificateDer::pem_slice_iter(&certificate_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error(&files.certificate, &error))?;
    if chain.is_empty() {
        return Err(file_error(&files.certificate, &"it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file_error(&files.key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| file_error(&files.certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| file_error(&files.certificate, &error))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        certificate_pem,
    })
}

fn file_error(path: &Path, reason: &dyn std::fmt::Display) -> ErrorReport {
    ErrorReport::new(
        SqlState::UNDEFINED_FILE,
        format!("could not use TLS file \"{}\": {reason}", path.display()),
    )
    .with_hint("The files must be readable PEM: a certificate chain, and its private key without a passphrase.")
}
