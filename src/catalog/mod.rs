//! What users defined, and what became of it: objects, dependencies, jobs, checkpoints, secrets.
//!
//! SQL text and raw options are kept as written; nothing here interprets them. Every change goes through
//! [`Catalog::apply`] as one metadata transaction: it is decided on a snapshot by `change.rs`, written by a
//! [`store::CatalogStore`] under the condition that the store still has the snapshot's version, and then published.

pub mod change;
mod create;
mod drop;
pub mod error;
pub mod jobs;
pub mod memory;
mod migrations;
pub mod objects;
pub mod postgres;
pub mod secrets;
pub mod snapshot;
mod sql_store;
pub mod sqlite;
pub mod store;
pub mod system;

#[cfg(test)]
mod change_tests;
#[cfg(test)]
pub(crate) mod store_tests;

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Mutex, watch};

use crate::catalog::change::{Applied, Change, plan};
use crate::catalog::error::{Error, Result};
use crate::catalog::objects::{Object, ObjectHeader, Schema, SecretSource};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::{CatalogSnapshot, PUBLIC_SCHEMA, PUBLIC_SCHEMA_OID};
use crate::catalog::store::{CatalogStore, CommitOutcome, StoreTransaction};
use crate::clock::Clock;
use crate::failpoint;
use crate::ids::{PublicIdKind, new_public_id};

/// How often a change is decided again because somebody else was faster.
const COMMIT_ATTEMPTS: u32 = 16;
/// Owner of what the server makes itself.
const BOOTSTRAP_OWNER: &str = "laminar";

/// The catalog of this process; a cheap handle.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn CatalogStore>,
    secrets: SecretBox,
    clock: Arc<dyn Clock>,
    snapshot: RwLock<Arc<CatalogSnapshot>>,
    version: watch::Sender<u64>,
    /// Changes of this process wait here instead of failing each other in the store.
    changing: Mutex<()>,
}

impl Catalog {
    /// Brings the store to the newest form and reads it; a store that was never used gets schema `public`.
    pub async fn open(store: Arc<dyn CatalogStore>, secrets: SecretBox, clock: Arc<dyn Clock>) -> Result<Catalog> {
        store.migrate().await?;
        if store.version().await? == 0 {
            // Another process that starts at the same time may be first: then this one changes nothing.
            store.commit(first_transaction(clock.now_micros())).await?;
        }
        let snapshot = load(store.as_ref(), &secrets).await?;
        warn_of_unreadable_secrets(&snapshot);
        Ok(Catalog {
            inner: Arc::new(Inner {
                version: watch::Sender::new(snapshot.version()),
                snapshot: RwLock::new(Arc::new(snapshot)),
                store,
                secrets,
                clock,
                changing: Mutex::new(()),
            }),
        })
    }

    /// The newest known state; a statement uses one from begin to end.
    pub fn snapshot(&self) -> Arc<CatalogSnapshot> {
        Arc::clone(&self.inner.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes all of `changes` or none. When another process was faster, they are decided again on what it left.
    pub async fn apply(&self, changes: Vec<Change>) -> Result<Applied> {
        let _alone = self.inner.changing.lock().await;
        for _ in 0..COMMIT_ATTEMPTS {
            let base = self.snapshot();
            let planned = match plan(&base, &changes, self.inner.clock.now_micros()) {
                Ok(planned) => planned,
                // The reason may be gone in the store: what is missing here may have been created by another process.
                Err(error) => {
                    if self.inner.store.version().await? == base.version() {
                        return Err(error);
                    }
                    self.refresh().await?;
                    continue;
                }
            };
            let Some(transaction) = planned.transaction else {
                return Ok(planned.applied);
            };
            failpoint::passed("ddl.before_commit");
            match self.inner.store.commit(transaction).await {
                Ok(CommitOutcome::Committed) => {
                    failpoint::passed("ddl.after_commit");
                    self.publish(planned.snapshot);
                    return Ok(planned.applied);
                }
                Ok(CommitOutcome::VersionChanged) => self.refresh().await?,
                Err(error) => {
                    // The answer may have been lost after the commit; what is true is what the store says. The error of
                    // the commit is the one to tell.
                    let _ = self.refresh().await;
                    return Err(error);
                }
            }
        }
        Err(Error::Contention {
            attempts: COMMIT_ATTEMPTS,
        })
    }

    /// Takes over what another process has changed.
    pub async fn refresh(&self) -> Result<()> {
        if self.inner.store.version().await? != self.snapshot().version() {
            let snapshot = load(self.inner.store.as_ref(), &self.inner.secrets).await?;
            self.publish(snapshot);
        }
        Ok(())
    }

    /// The version, whenever it changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    pub fn store(&self) -> Arc<dyn CatalogStore> {
        Arc::clone(&self.inner.store)
    }

    /// Encrypts the value of a secret. `public_id` is that of the secret: for a new one from `new_public_id`, put into
    /// its header too.
    pub fn seal_secret(&self, public_id: &str, value: &str) -> Result<SecretSource> {
        self.inner.secrets.seal(public_id, value).map(SecretSource::Sealed)
    }

    fn publish(&self, snapshot: CatalogSnapshot) {
        let version = snapshot.version();
        {
            let mut current = self.inner.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            // A refresh that was slower than a change must not take it back.
            if version < current.version() {
                return;
            }
            *current = Arc::new(snapshot);
        }
        self.inner.version.send_replace(version);
    }
}

async fn load(store: &dyn CatalogStore, secrets: &SecretBox) -> Result<CatalogSnapshot> {
    let stored = store.load().await?;
    Ok(CatalogSnapshot::new(
        stored.version,
        stored.next_oid,
        stored.objects,
        secrets.clone(),
    ))
}

fn first_transaction(now_micros: i64) -> StoreTransaction {
    let public = Object::Schema(Schema {
        header: ObjectHeader {
            oid: PUBLIC_SCHEMA_OID,
            public_id: new_public_id(PublicIdKind::Schema),
            schema: None,
            name: PUBLIC_SCHEMA.to_owned(),
            owner: BOOTSTRAP_OWNER.to_owned(),
            created_at_micros: now_micros,
            updated_at_micros: now_micros,
            comment: Some("standard public schema".to_owned()),
        },
    });
    StoreTransaction {
        expected_version: 0,
        next_oid: crate::ids::FIRST_USER_OID,
        deletes: Vec::new(),
        upserts: vec![(Arc::new(public), Vec::new())],
    }
}

/// A wrong key is told at the start, not only when a pipeline needs the secret.
fn warn_of_unreadable_secrets(snapshot: &CatalogSnapshot) {
    for object in snapshot.objects() {
        if let Object::Secret(secret) = object
            && let SecretSource::Sealed(sealed) = &secret.source
            && snapshot.secrets().open(&secret.header.public_id, sealed).is_none()
        {
            tracing::warn!(secret = %secret.header.name, "secret cannot be decrypted with the key of this server");
        }
    }
}
