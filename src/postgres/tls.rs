//! TLS towards a Postgres server, with libpq's meaning of `sslmode`.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::postgres::{AddressError, Result};

/// What of the server's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Encrypted, to whomever.
    None,
    /// Signed by one of the certificates in the PEM file; `check_name` also compares the host name.
    Roots { path: String, check_name: bool },
}

pub fn client_config(verification: &Verification) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match verification {
        Verification::None => Arc::new(PartialVerifier {
            chain: None,
            provider: Arc::clone(&provider),
        }),
        Verification::Roots { path, check_name } => {
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(read_roots(path)?), Arc::clone(&provider))
                .build()
                .map_err(|error| unusable(path, error.to_string()))?;
            if *check_name {
                chain
            } else {
                Arc::new(PartialVerifier {
                    chain: Some(chain),
                    provider: Arc::clone(&provider),
                })
            }
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS", error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

fn read_roots(path: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(path, error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(path, error.to_string()))?;
    }
    Ok(roots)
}

fn unusable(path: &str, reason: String) -> AddressError {
    AddressError {
        address: format!("sslrootcert={path}"),
        reason,
    }
}

/// Checks less than the whole: nothing but the handshake's signature, or the chain without the name.
#[derive(Debug)]
struct PartialVerifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PartialVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is compared after the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn missing_root_file_is_named() {
        let verification = Verification::Roots {
            path: "/nonexistent/root.pem".into(),
            check_name: true,
        };
        assert!(
            client_config(&verification)
                .unwrap_err()
                .to_string()
                .contains("root.pem")
        );
        client_config(&Verification::None).unwrap();
    }
}
