//! Secrets at rest: AES-256-GCM under one key of the server, bound to the secret they belong to.
//!
//! Guarantees: a sealed value opens only with the same key and for the same secret, so that copying it to another row
//! gives nothing; neither key nor value is printed by `Debug`. Not guaranteed: protection from whoever can read both
//! the metadata store and the key.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::catalog::error::{Error, Result};

const KEY_LENGTH: usize = 32;
/// Part of the associated data: a later format gets another word.
const FORMAT: &str = "laminar-secret-1";

/// Seals and opens the values of secrets; cheap to clone.
#[derive(Clone)]
pub struct SecretBox {
    key: Arc<LessSafeKey>,
}

impl SecretBox {
    /// The key in `path`, made at the first start, readable by its owner only.
    pub fn open_or_create(path: &Path) -> Result<SecretBox> {
        match std::fs::read_to_string(path) {
            Ok(text) => SecretBox::from_text(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create_key_file(path),
            Err(error) => Err(Error::KeyFile {
                action: "read",
                path: path.to_owned(),
                reason: error.to_string(),
            }),
        }
    }

    /// A key as configured: base64 or hexadecimal.
    pub fn from_text(text: &str) -> Result<SecretBox> {
        let text = text.trim();
        let bytes = match decode_hexadecimal(text) {
            Some(bytes) => bytes,
            None => STANDARD.decode(text).map_err(|_| Error::InvalidKey {
                reason: "it is neither base64 nor hexadecimal".into(),
            })?,
        };
        SecretBox::from_bytes(&bytes)
    }

    /// A key that ends with the process: for the memory store and tests.
    pub fn ephemeral() -> Result<SecretBox> {
        SecretBox::from_bytes(&random_bytes::<KEY_LENGTH>()?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<SecretBox> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| Error::InvalidKey {
            reason: format!("it has {} bytes", bytes.len()),
        })?;
        Ok(SecretBox {
            key: Arc::new(LessSafeKey::new(key)),
        })
    }

    /// Base64 of nonce and ciphertext. `public_id` is the secret's.
    pub fn seal(&self, public_id: &str, value: &str) -> Result<String> {
        let nonce = random_bytes::<NONCE_LEN>()?;
        let mut sealed = value.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated_data(public_id)),
                &mut sealed,
            )
            .map_err(|_| Error::Internal("could not seal a secret".into()))?;
        let mut bytes = nonce.to_vec();
        bytes.append(&mut sealed);
        Ok(STANDARD.encode(bytes))
    }

    /// The value that [`SecretBox::seal`] got; `None` when key, secret or text are not the same.
    pub fn open(&self, public_id: &str, sealed: &str) -> Option<String> {
        let bytes = STANDARD.decode(sealed).ok()?;
        let (nonce, ciphertext) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut ciphertext = ciphertext.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(associated_data(public_id)), &mut ciphertext)
            .ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

impl fmt::Debug for SecretBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBox(***)")
    }
}

fn associated_data(public_id: &str) -> Vec<u8> {
    format!("{FORMAT}:{public_id}").into_bytes()
}

fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Internal("the system gives no random bytes".into()))?;
    Ok(bytes)
}

/// Written beside and renamed, so that a crash leaves no half key; two servers that start at once agree on one, because
/// the link fails when the name is taken.
fn create_key_file(path: &Path) -> Result<SecretBox> {
    let failed = |error: std::io::Error| Error::KeyFile {
        action: "create",
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let text = STANDARD.encode(random_bytes::<KEY_LENGTH>()?);
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let linked = std::fs::hard_link(&temporary, path);
    // Best effort: a left-over file is unreadable for others and never used.
    let _ = std::fs::remove_file(&temporary);
    match linked {
        Ok(()) => SecretBox::from_text(&text),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            SecretBox::from_text(&std::fs::read_to_string(path).map_err(failed)?)
        }
        Err(error) => Err(failed(error)),
    }
}

fn decode_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * KEY_LENGTH || !text.is_ascii() {
        return None;
    }
    (0..KEY_LENGTH)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn sealed_values_open_only_for_their_secret_and_key() {
        let secrets = SecretBox::ephemeral().unwrap();
        let sealed = secrets.seal("secret_1", "hunter2").unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_ne!(sealed, secrets.seal("secret_1", "hunter2").unwrap());
        assert_eq!(secrets.open("secret_1", &sealed).as_deref(), Some("hunter2"));
        assert_eq!(secrets.open("secret_2", &sealed), None);
        assert_eq!(SecretBox::ephemeral().unwrap().open("secret_1", &sealed), None);
        assert_eq!(secrets.open("secret_1", "AAAA"), None);
        assert_eq!(secrets.open("secret_1", "not base64!"), None);
    }

    #[test]
    fn key_file_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret.key");
        let sealed = SecretBox::open_or_create(&path).unwrap().seal("s", "v").unwrap();
        let again = SecretBox::open_or_create(&path).unwrap();
        assert_eq!(again.open("s", &sealed).as_deref(), Some("v"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn keys_are_base64_or_hexadecimal_of_32_bytes() {
        let hexadecimal = "00".repeat(31) + "ff";
        let mut bytes = [0; 32];
        bytes[31] = 0xff;
        let sealed = SecretBox::from_text(&hexadecimal).unwrap().seal("s", "v").unwrap();
        let same = SecretBox::from_text(&STANDARD.encode(bytes)).unwrap();
        assert_eq!(same.open("s", &sealed).as_deref(), Some("v"));
        assert!(SecretBox::from_text("c2hvcnQ=").is_err());
        assert!(SecretBox::from_text("?").is_err());
        assert!(!format!("{same:?}").contains("00"));
    }
}
