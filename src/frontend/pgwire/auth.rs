//! Who may log in: everybody from this machine in trust mode, else by SCRAM-SHA-256.
//!
//! Passwords are never stored, only verifiers (RFC 5803). An unknown role goes through the same messages with a made-up
//! verifier, so that nobody learns which roles exist. Failures of one role from one address take longer each time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, gen_salted_password};
use pgwire::messages::startup::Authentication;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::Error;
use super::limits::LOGIN_FRAME_BYTES_MAX;
use super::message::{Cursor, Frame, FrameReader};
use super::reply::ReplyWriter;
use crate::error::SqlState;

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

const FIRST_FAILURE_DELAY: Duration = Duration::from_millis(250);
/// Delays double up to 250 ms * 2^4 = 4 s.
const FAILURE_DOUBLINGS_MAX: u32 = 4;
/// Roles and addresses with failures that are remembered.
const FAILURES_REMEMBERED_MAX: usize = 10_000;

/// Decides how clients log in.
pub struct Authenticator {
    trust_loopback: bool,
    plain: ScramServerAuth,
    /// On TLS, when the certificate allows it.
    bound: Option<ScramServerAuth>,
    /// Makes the salts of unknown roles; new at each start.
    mock_key: ring::hmac::Key,
    failures: Mutex<HashMap<(String, IpAddr), u32>>,
}

impl Authenticator {
    /// `certificate_pem` enables channel binding on TLS.
    pub fn new(trust_loopback: bool, certificate_pem: Option<&[u8]>) -> Authenticator {
        let bound = certificate_pem.and_then(|pem| {
            let mut bound = ScramServerAuth::new();
            match bound.configure_certificate(pem) {
                Ok(()) => Some(bound),
                Err(error) => {
                    tracing::warn!(%error, "the TLS certificate does not allow channel binding");
                    None
                }
            }
        });
        let mut mock = [0; KEY_BYTES];
        rand::fill(&mut mock[..]);
        Authenticator {
            trust_loopback,
            plain: ScramServerAuth::new(),
            bound,
            mock_key: ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &mock),
            failures: Mutex::new(HashMap::new()),
        }
    }

    /// Whether a client at this address needs no password.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trust_loopback && peer.to_canonical().is_loopback()
    }

    /// Runs the SCRAM exchange; the caller sends AuthenticationOk.
    pub async fn scram<R, W>(
        &self,
        frames: &mut FrameReader<R>,
        replies: &mut ReplyWriter<W>,
        role: &str,
        peer: IpAddr,
        encrypted: bool,
        verifier: Option<String>,
    ) -> Result<(), Error>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let bound = if encrypted { self.bound.as_ref() } else { None };
        let known = verifier.as_deref().and_then(parse_verifier);
        let is_known = known.is_some();
        let secret = known.unwrap_or_else(|| self.mock_secret(role));
        let outcome = self.exchange(frames, replies, bound, secret).await;
        let key = (role.to_owned(), peer);
        match outcome {
            Ok(()) if is_known => {
                self.failures().remove(&key);
                Ok(())
            }
            Err(error @ (Error::Disconnected | Error::Protocol { .. } | Error::Fatal(_))) => Err(error),
            Ok(()) | Err(_) => {
                tokio::time::sleep(self.count_failure(key)).await;
                Err(Error::fatal(
                    SqlState::INVALID_PASSWORD,
                    format!("password authentication failed for user \"{role}\""),
                ))
            }
        }
    }

    async fn exchange<R, W>(
        &self,
        frames: &mut FrameReader<R>,
        replies: &mut ReplyWriter<W>,
        bound: Option<&ScramServerAuth>,
        secret: ScramSecret,
    ) -> Result<(), Error>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut offered = vec![SCRAM.to_owned()];
        if bound.is_some() {
            offered.insert(0, SCRAM_PLUS.to_owned());
        }
        replies.put(&Authentication::SASL(offered))?;
        replies.flush().await?;

        let mut first = Cursor::new(password_message(frames).await?);
        let mechanism = first.text()?;
        let length = first.i32()?;
        let client_first = first.bytes(length)?;
        if mechanism != SCRAM && !(mechanism == SCRAM_PLUS && bound.is_some()) {
            return Err(Error::fatal(
                SqlState::PROTOCOL_VIOLATION,
                "client selected an invalid SASL authentication mechanism",
            ));
        }
        let server = bound.unwrap_or(&self.plain);
        let (server_first, waiting) = server
            .on_client_first_message_with_secret(&client_first, secret)
            .map_err(|error| malformed(&error))?;
        replies.put(&Authentication::SASLContinue(Bytes::from(server_first)))?;
        replies.flush().await?;

        let client_final = Cursor::new(password_message(frames).await?).rest();
        let server_final = waiting
            .on_client_final_message(&client_final)
            .map_err(|_| Error::BadValue {
                code: SqlState::INVALID_PASSWORD,
                message: "the proof does not fit".into(),
            })?;
        replies.put(&Authentication::SASLFinal(Bytes::from(server_final)))
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(String, IpAddr), u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure and gives how long to wait before telling.
    fn count_failure(&self, key: (String, IpAddr)) -> Duration {
        let mut failures = self.failures();
        if failures.len() >= FAILURES_REMEMBERED_MAX {
            failures.clear();
        }
        let count = failures.entry(key).or_insert(0);
        let delay = FIRST_FAILURE_DELAY * 2u32.pow((*count).min(FAILURE_DOUBLINGS_MAX));
        *count = count.saturating_add(1);
        delay
    }

    /// The same salt for the same name, and keys that nothing fits.
    fn mock_secret(&self, role: &str) -> ScramSecret {
        let salt = ring::hmac::sign(&self.mock_key, role.as_bytes());
        let mut keys = [0; 2 * KEY_BYTES];
        rand::fill(&mut keys[..]);
        ScramSecret::Verifier {
            salt: salt.as_ref()[..SALT_BYTES].to_vec(),
            iterations: SCRAM_ITERATIONS,
            stored_key: keys[..KEY_BYTES].to_vec(),
            server_key: keys[KEY_BYTES..].to_vec(),
        }
    }
}

async fn password_message<R: AsyncRead + Unpin>(frames: &mut FrameReader<R>) -> Result<Bytes, Error> {
    match frames.next(LOGIN_FRAME_BYTES_MAX).await? {
        Frame::Whole { kind: b'p', body } => Ok(body),
        Frame::Closed => Err(Error::Disconnected),
        Frame::Whole { .. } | Frame::TooLong { .. } | Frame::Broken => {
            Err(Error::fatal(SqlState::PROTOCOL_VIOLATION, "expected SASL response"))
        }
    }
}

fn malformed(error: &pgwire::error::PgWireError) -> Error {
    Error::fatal(
        SqlState::PROTOCOL_VIOLATION,
        format!("malformed SCRAM message: {error}"),
    )
}

/// `SCRAM-SHA-256$4096:<salt>$<stored key>:<server key>`, as Postgres stores it in `pg_authid.rolpassword`.
pub fn build_verifier(password: &str) -> String {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt[..]);
    let salted = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
    let secret = ScramSecret::verifier_from_salted_password(salt.to_vec(), salted, SCRAM_ITERATIONS);
    match secret {
        ScramSecret::Verifier {
            salt,
            iterations,
            stored_key,
            server_key,
        } => format!(
            "{SCRAM}${iterations}:{}${}:{}",
            STANDARD.encode(salt),
            STANDARD.encode(stored_key),
            STANDARD.encode(server_key)
        ),
        ScramSecret::SaltedPassword { .. } => unreachable!("the constructor above makes verifiers"),
    }
}

/// `None`: not a verifier of this kind.
pub fn parse_verifier(text: &str) -> Option<ScramSecret> {
    let rest = text.strip_prefix(SCRAM)?.strip_prefix('$')?;
    let (parameters, keys) = rest.split_once('$')?;
    let (iterations, salt) = parameters.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let key = |text: &str| STANDARD.decode(text).ok().filter(|key| key.len() == KEY_BYTES);
    Some(ScramSecret::Verifier {
        salt: STANDARD.decode(salt).ok()?,
        iterations: iterations.parse().ok()?,
        stored_key: key(stored_key)?,
        server_key: key(server_key)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifiers_read_back_and_salts_differ() {
        let verifier = build_verifier("secret");
        assert!(parse_verifier(&verifier).is_some());
        assert!(!verifier.contains("secret"));
        assert_ne!(verifier, build_verifier("secret"));
        assert!(parse_verifier("md5abc").is_none());
        assert!(parse_verifier("SCRAM-SHA-256$4096:AA==$AA==:AA==").is_none());
    }

    #[test]
    fn trust_is_for_this_machine_only() {
        let trusting = Authenticator::new(true, None);
        assert!(trusting.trusts(IpAddr::from([127, 0, 0, 1])));
        assert!(trusting.trusts("::1".parse().expect("an address")));
        assert!(trusting.trusts("::ffff:127.0.0.1".parse().expect("an address")));
        assert!(!trusting.trusts(IpAddr::from([10, 0, 0, 1])));
        assert!(!Authenticator::new(false, None).trusts(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn failures_take_longer_each_time() {
        let authenticator = Authenticator::new(false, None);
        let key = || ("r".to_owned(), IpAddr::from([10, 0, 0, 1]));
        let delays: Vec<u128> = (0..6).map(|_| authenticator.count_failure(key()).as_millis()).collect();
        assert_eq!(delays, vec![250, 500, 1000, 2000, 4000, 4000]);
    }
}
