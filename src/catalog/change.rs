//! What can be changed in the catalog, and what a list of changes does to a snapshot: pure, decided before any I/O.
//!
//! Guarantees: all changes of a list or none; names stay unique, dependencies stay whole and free of cycles; every error
//! is that of Postgres for the same mistake. Texts of queries are not looked into: who may depend on whom comes with the
//! change, but for connections and secrets, which are found in the object itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::create::{create, replace_pipeline};
use crate::catalog::drop::drop_objects;
use crate::catalog::error::{Error, Result};
use crate::catalog::objects::{Column, Object, ObjectKind, Pipeline, SecretSource};
use crate::catalog::snapshot::{CatalogSnapshot, Namespace, PUBLIC_SCHEMA, QualifiedName, SYSTEM_SCHEMAS};
use crate::catalog::store::StoreTransaction;
use crate::error::{ErrorReport, SqlState};
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions, normalize_name};
use crate::types::quote_identifier;

/// One change. Names without a schema are looked for in `public`; `CatalogSnapshot::qualify` applies a search path.
// Changes live for one statement: boxing the object would only make them harder to write.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        object: NewObject,
        if_not_exists: bool,
        or_replace: bool,
    },
    Drop {
        targets: Vec<(ObjectKind, QualifiedName)>,
        if_exists: bool,
        cascade: bool,
    },
    Rename {
        kind: ObjectKind,
        name: QualifiedName,
        new_name: String,
    },
    SetOptions {
        kind: ObjectKind,
        name: QualifiedName,
        set: RawOptions,
        reset: Vec<String>,
    },
    SetOwner {
        kind: ObjectKind,
        name: QualifiedName,
        owner: String,
    },
    AlterSecret {
        name: QualifiedName,
        source: SecretSource,
    },
    Comment {
        kind: ObjectKind,
        name: QualifiedName,
        comment: Option<String>,
    },
    /// Another definition for a pipeline that exists.
    ReplacePipeline(Box<PipelineReplacement>),
    SetDesiredRunning {
        pipeline: Oid,
        running: bool,
    },
    /// The columns of a table whose statement gave none, once they are known.
    SetColumns {
        table: Oid,
        columns: Vec<Column>,
    },
}

#[derive(Clone, Debug)]
pub struct PipelineReplacement {
    /// Under the OID of the one that it replaces.
    pub pipeline: Pipeline,
    pub depends_on: Vec<Oid>,
    /// When the pipeline that it replaces was changed last.
    pub seen_at_micros: i64,
    /// Who reads the result sees no difference.
    pub keeps_result: bool,
}

/// An object to create. OID and times are filled in; so is the public id when it is empty.
#[derive(Clone, Debug)]
pub struct NewObject {
    pub object: Object,
    /// OIDs, or [`NewObject::created_by`] for an object created earlier in the same list.
    pub depends_on: Vec<Oid>,
}

impl NewObject {
    /// Stands for the OID of the object that change number `index` (from 0) of the same list creates.
    pub fn created_by(index: u32) -> Oid {
        Oid(FIRST_PLACEHOLDER + index)
    }
}

/// Below every OID in use: a user's objects start at 16384, `public` is 2200.
const FIRST_PLACEHOLDER: u32 = 1;
const LAST_PLACEHOLDER: u32 = 1000;

/// What became of a list of changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// In the order of the changes; also objects replaced by OR REPLACE.
    pub created: Vec<Oid>,
    /// Youngest first.
    pub dropped: Vec<Object>,
    /// Texts of NOTICEs: `relation "t" already exists, skipping`.
    pub skipped: Vec<String>,
    /// What CASCADE took along: `view v`.
    pub cascaded: Vec<String>,
    pub version: u64,
}

impl Applied {
    /// What Postgres tells after a CASCADE.
    pub fn cascade_notice(&self) -> Option<ErrorReport> {
        let notice = |message: String| ErrorReport::new(SqlState::SUCCESSFUL_COMPLETION, message);
        match self.cascaded.as_slice() {
            [] => None,
            [one] => Some(notice(format!("drop cascades to {one}"))),
            many => {
                let lines: Vec<String> = many.iter().map(|object| format!("drop cascades to {object}")).collect();
                let message = format!("drop cascades to {} other objects", many.len());
                Some(notice(message).with_detail(lines.join("\n")))
            }
        }
    }
}

/// The outcome of [`plan`].
#[derive(Debug)]
pub(crate) struct Plan {
    pub snapshot: CatalogSnapshot,
    /// `None`: nothing has to be written.
    pub transaction: Option<StoreTransaction>,
    pub applied: Applied,
}

/// The next snapshot while the changes are applied to it one by one.
pub(crate) struct Draft {
    pub snapshot: CatalogSnapshot,
    pub next_oid: u32,
    pub now_micros: i64,
    pub applied: Applied,
    touched: BTreeSet<Oid>,
    deleted: BTreeSet<Oid>,
    /// What each change so far created or found.
    outcomes: Vec<Option<Oid>>,
}

/// Applies `changes` to `base`.
pub(crate) fn plan(base: &CatalogSnapshot, changes: &[Change], now_micros: i64) -> Result<Plan> {
    let mut draft = Draft {
        snapshot: base.clone(),
        next_oid: base.next_oid(),
        now_micros,
        applied: Applied::default(),
        touched: BTreeSet::new(),
        deleted: BTreeSet::new(),
        outcomes: Vec::new(),
    };
    for change in changes {
        let outcome = draft.apply(change)?;
        draft.outcomes.push(outcome);
    }
    Ok(draft.finish(base))
}

impl Draft {
    fn apply(&mut self, change: &Change) -> Result<Option<Oid>> {
        match change {
            Change::Create {
                object,
                if_not_exists,
                or_replace,
            } => return create(self, object, *if_not_exists, *or_replace).map(Some),
            Change::Drop {
                targets,
                if_exists,
                cascade,
            } => drop_objects(self, targets, *if_exists, *cascade)?,
            Change::Rename { kind, name, new_name } => self.rename(*kind, name, new_name)?,
            Change::SetOptions { kind, name, set, reset } => self.set_options(*kind, name, set, reset)?,
            Change::SetOwner { kind, name, owner } => {
                self.alter(*kind, name, |object| object.header_mut().owner.clone_from(owner))?;
            }
            Change::AlterSecret { name, source } => self.alter_secret(name, source)?,
            Change::Comment { kind, name, comment } => {
                let comment = comment.clone().filter(|text| !text.is_empty());
                self.alter(*kind, name, |object| object.header_mut().comment = comment)?;
            }
            Change::ReplacePipeline(replacement) => return replace_pipeline(self, replacement).map(Some),
            Change::SetDesiredRunning { pipeline, running } => self.set_desired_running(*pipeline, *running)?,
            Change::SetColumns { table, columns } => self.set_columns(*table, columns)?,
        }
        Ok(None)
    }

    fn finish(mut self, base: &CatalogSnapshot) -> Plan {
        let deletes: Vec<Oid> = self
            .deleted
            .iter()
            .copied()
            .filter(|oid| base.get(*oid).is_some())
            .collect();
        let upserts: Vec<(Arc<Object>, Vec<Oid>)> = self
            .touched
            .iter()
            .filter_map(|oid| {
                Some((
                    Arc::new(self.snapshot.get(*oid)?.clone()),
                    self.snapshot.dependencies(*oid),
                ))
            })
            .collect();
        if deletes.is_empty() && upserts.is_empty() && self.next_oid == base.next_oid() {
            self.applied.version = base.version();
            return Plan {
                snapshot: self.snapshot,
                transaction: None,
                applied: self.applied,
            };
        }
        self.applied.version = base.version() + 1;
        self.snapshot.advance(self.applied.version, self.next_oid);
        Plan {
            transaction: Some(StoreTransaction {
                expected_version: base.version(),
                next_oid: self.next_oid,
                deletes,
                upserts,
            }),
            snapshot: self.snapshot,
            applied: self.applied,
        }
    }

    /// The object that a change names; a bare name is one of `public`.
    pub(crate) fn require(&self, kind: ObjectKind, name: &QualifiedName) -> Result<&Object> {
        self.snapshot.require(kind, name, &[PUBLIC_SCHEMA.to_owned()])
    }

    /// The real OID behind one that a change gives.
    pub(crate) fn existing(&self, oid: Oid) -> Result<Oid> {
        let real = if (FIRST_PLACEHOLDER..=LAST_PLACEHOLDER).contains(&oid.0) {
            let index = (oid.0 - FIRST_PLACEHOLDER) as usize;
            self.outcomes.get(index).copied().flatten()
        } else {
            Some(oid)
        };
        real.filter(|oid| self.snapshot.get(*oid).is_some())
            .ok_or(Error::UndefinedOid { oid: oid.0 })
    }

    pub(crate) fn take_oid(&mut self) -> Result<Oid> {
        let oid = self.next_oid;
        self.next_oid = oid
            .checked_add(1)
            .ok_or_else(|| Error::Internal("all OIDs have been given".into()))?;
        Ok(Oid(oid))
    }

    pub(crate) fn put(&mut self, object: Object, depends_on: Vec<Oid>) {
        let oid = object.oid();
        self.deleted.remove(&oid);
        self.touched.insert(oid);
        self.snapshot.insert(object, depends_on);
    }

    pub(crate) fn delete(&mut self, oid: Oid) {
        if let Some(object) = self.snapshot.remove(oid) {
            self.touched.remove(&oid);
            self.deleted.insert(oid);
            self.applied.dropped.push(Arc::unwrap_or_clone(object));
        }
    }

    /// Secrets that options name.
    pub(crate) fn secrets_of(&self, options: &RawOptions, schema: Option<&str>) -> Result<Vec<Oid>> {
        options
            .0
            .iter()
            .filter_map(|(_, value)| match value {
                RawOptionValue::Secret(name) => Some(name),
                RawOptionValue::Text(_) => None,
            })
            .map(|name| Ok(self.snapshot.secret_named(name, schema)?.header.oid))
            .collect()
    }

    fn alter(&mut self, kind: ObjectKind, name: &QualifiedName, change: impl FnOnce(&mut Object)) -> Result<Oid> {
        let mut object = self.require(kind, name)?.clone();
        change(&mut object);
        object.header_mut().updated_at_micros = self.now_micros;
        let oid = object.oid();
        let depends_on = self.snapshot.dependencies(oid);
        self.put(object, depends_on);
        Ok(oid)
    }

    /// Refused when texts of other objects hold the old name.
    fn rename(&mut self, kind: ObjectKind, name: &QualifiedName, new_name: &str) -> Result<()> {
        let object = self.require(kind, name)?;
        let header = object.header();
        let new = QualifiedName {
            schema: header.schema.clone(),
            name: new_name.to_owned(),
        };
        if kind == ObjectKind::Schema {
            check_schema_name(new_name)?;
        }
        if let Some(existing) = self.snapshot.lookup(Namespace::of(kind), &new, &[]) {
            return Err(Error::Duplicate {
                existing: existing.kind(),
                name: new_name.to_owned(),
            });
        }
        let by_name: Vec<&Object> = match kind {
            // Tables know their connection by OID.
            ObjectKind::Connection => Vec::new(),
            ObjectKind::Schema => self.snapshot.objects_in_schema(&header.name).collect(),
            _ => self.snapshot.dependents(object.oid()),
        };
        if !by_name.is_empty() {
            let target = describe(object);
            return Err(Error::Dependents {
                action: "rename",
                lines: by_name
                    .iter()
                    .map(|by| format!("{} depends on {target}", describe(by)))
                    .collect(),
                target,
                hint: "Their definitions hold the old name: drop and create them again.",
            });
        }
        self.alter(kind, name, |object| object.header_mut().name = new_name.to_owned())?;
        Ok(())
    }

    fn set_options(
        &mut self,
        kind: ObjectKind,
        name: &QualifiedName,
        set: &RawOptions,
        reset: &[String],
    ) -> Result<()> {
        let mut object = self.require(kind, name)?.clone();
        let schema = object.header().schema.clone();
        let options = match &mut object {
            Object::Connection(connection) => &mut connection.options,
            Object::Table(table) => &mut table.options,
            Object::Pipeline(pipeline) => &mut pipeline.options,
            Object::Schema(_) | Object::Secret(_) | Object::View(_) => {
                return Err(Error::NoOptions {
                    kind,
                    name: name.name.clone(),
                });
            }
        };
        let reset: Vec<String> = reset.iter().map(|name| normalize_name(name)).collect();
        options.0.retain(|(name, _)| !reset.contains(&normalize_name(name)));
        for (name, value) in &set.0 {
            let normalized = normalize_name(name);
            match options
                .0
                .iter_mut()
                .find(|(existing, _)| normalize_name(existing) == normalized)
            {
                Some((_, existing)) => existing.clone_from(value),
                None => options.0.push((name.clone(), value.clone())),
            }
        }
        let options = options.clone();
        let is_secret = |oid: &Oid| matches!(self.snapshot.get(*oid), Some(Object::Secret(_)));
        let mut depends_on = self.snapshot.dependencies(object.oid());
        depends_on.retain(|oid| !is_secret(oid));
        depends_on.extend(self.secrets_of(&options, schema.as_deref())?);
        object.header_mut().updated_at_micros = self.now_micros;
        self.put(object, unique(depends_on));
        Ok(())
    }

    fn alter_secret(&mut self, name: &QualifiedName, source: &SecretSource) -> Result<()> {
        let object = self.require(ObjectKind::Secret, name)?;
        check_sealed(
            &self.snapshot,
            &object.header().public_id,
            &object.header().name,
            source,
        )?;
        self.alter(ObjectKind::Secret, name, |object| {
            if let Object::Secret(secret) = object {
                secret.source = source.clone();
            }
        })?;
        Ok(())
    }

    fn set_desired_running(&mut self, pipeline: Oid, running: bool) -> Result<()> {
        let Some(Object::Pipeline(found)) = self.snapshot.get(self.existing(pipeline)?) else {
            return Err(Error::UndefinedOid { oid: pipeline.0 });
        };
        if found.desired_running != running {
            let mut changed = found.clone();
            changed.desired_running = running;
            let depends_on = self.snapshot.dependencies(changed.header.oid);
            self.put(Object::Pipeline(changed), depends_on);
        }
        Ok(())
    }

    fn set_columns(&mut self, table: Oid, columns: &[Column]) -> Result<()> {
        let Some(Object::Table(found)) = self.snapshot.get(self.existing(table)?) else {
            return Err(Error::UndefinedOid { oid: table.0 });
        };
        let mut changed = found.clone();
        changed.columns = columns.to_vec();
        changed.header.updated_at_micros = self.now_micros;
        let depends_on = self.snapshot.dependencies(changed.header.oid);
        self.put(Object::Table(changed), depends_on);
        Ok(())
    }
}

/// `view v`, `table s.t`: as messages name an object.
pub fn describe(object: &Object) -> String {
    let header = object.header();
    let word = match object {
        Object::Pipeline(pipeline) if pipeline.materialized_view => "materialized view",
        other => other.kind().word(),
    };
    match header.schema.as_deref() {
        None | Some(PUBLIC_SCHEMA) => format!("{word} {}", quote_identifier(&header.name)),
        Some(schema) => format!("{word} {}.{}", quote_identifier(schema), quote_identifier(&header.name)),
    }
}

pub(crate) fn check_schema_name(name: &str) -> Result<()> {
    if name.starts_with("pg_") || SYSTEM_SCHEMAS.contains(&name) {
        return Err(Error::ReservedSchemaName { name: name.to_owned() });
    }
    Ok(())
}

/// A sealed value must open for the secret it is stored in: else a mistake here would be seen only when it is used.
pub(crate) fn check_sealed(
    snapshot: &CatalogSnapshot,
    public_id: &str,
    name: &str,
    source: &SecretSource,
) -> Result<()> {
    match source {
        SecretSource::Sealed(sealed) if snapshot.secrets().open(public_id, sealed).is_none() => {
            Err(Error::SealedForAnother { name: name.to_owned() })
        }
        _ => Ok(()),
    }
}

pub(crate) fn unique(mut oids: Vec<Oid>) -> Vec<Oid> {
    oids.sort_unstable();
    oids.dedup();
    oids
}
