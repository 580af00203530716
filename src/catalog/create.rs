//! CREATE: names, schemas, IF NOT EXISTS, OR REPLACE.

use crate::catalog::change::{
    Draft, NewObject, PipelineReplacement, check_schema_name, check_sealed, describe, unique,
};
use crate::catalog::error::{Error, Result};
use crate::catalog::objects::{Object, ObjectHeader, ObjectKind};
use crate::catalog::snapshot::{Namespace, PUBLIC_SCHEMA, QualifiedName, SYSTEM_SCHEMAS};
use crate::error::Report;
use crate::ids::{Oid, PublicIdKind, new_public_id};

/// The OID of what was created, replaced, or found by IF NOT EXISTS.
pub(crate) fn create(draft: &mut Draft, new: &NewObject, if_not_exists: bool, or_replace: bool) -> Result<Oid> {
    let mut object = new.object.clone();
    let kind = object.kind();
    place_in_schema(draft, kind, object.header_mut())?;
    let name = QualifiedName {
        schema: object.header().schema.clone(),
        name: object.header().name.clone(),
    };
    if let Some(existing) = draft.snapshot.lookup(Namespace::of(kind), &name, &[]) {
        let duplicate = Error::Duplicate {
            existing: existing.kind(),
            name: name.name.clone(),
        };
        let oid = existing.oid();
        if if_not_exists {
            draft
                .applied
                .skipped
                .push(format!("{}, skipping", duplicate.report().message));
            return Ok(oid);
        }
        if !or_replace {
            return Err(duplicate);
        }
        return replace(draft, oid, object, &new.depends_on);
    }
    let header = object.header_mut();
    header.oid = draft.take_oid()?;
    if header.public_id.is_empty() {
        header.public_id = new_public_id(public_id_kind(kind));
    }
    header.created_at_micros = draft.now_micros;
    header.updated_at_micros = draft.now_micros;
    if let Object::Secret(secret) = &object {
        check_sealed(
            &draft.snapshot,
            &secret.header.public_id,
            &secret.header.name,
            &secret.source,
        )?;
    }
    let depends_on = dependencies_of(draft, &mut object, &new.depends_on)?;
    let oid = object.oid();
    draft.put(object, depends_on);
    draft.applied.created.push(oid);
    Ok(oid)
}

fn place_in_schema(draft: &Draft, kind: ObjectKind, header: &mut ObjectHeader) -> Result<()> {
    if kind == ObjectKind::Schema {
        header.schema = None;
        return check_schema_name(&header.name);
    }
    let schema = header.schema.get_or_insert_with(|| PUBLIC_SCHEMA.to_owned());
    if SYSTEM_SCHEMAS.contains(&schema.as_str()) {
        return Err(Error::SystemSchema {
            schema: schema.clone(),
            name: header.name.clone(),
        });
    }
    if draft.snapshot.schema_oid(schema).is_none() {
        let name = QualifiedName::unqualified(schema.clone());
        return Err(draft.snapshot.undefined(ObjectKind::Schema, &name));
    }
    Ok(())
}

/// What the statement says, its connection, and the secrets in its options.
fn dependencies_of(draft: &Draft, object: &mut Object, given: &[Oid]) -> Result<Vec<Oid>> {
    let mut depends_on = Vec::with_capacity(given.len());
    for oid in given {
        depends_on.push(draft.existing(*oid)?);
    }
    let schema = object.header().schema.clone();
    let schema = schema.as_deref();
    match object {
        Object::Table(table) => {
            if let Some(connection) = &mut table.connection {
                let oid = draft.existing(Oid(*connection))?;
                *connection = oid.0;
                depends_on.push(oid);
            }
            depends_on.extend(draft.secrets_of(&table.options, schema)?);
        }
        Object::Connection(connection) => depends_on.extend(draft.secrets_of(&connection.options, schema)?),
        Object::Pipeline(pipeline) => depends_on.extend(draft.secrets_of(&pipeline.options, schema)?),
        Object::Schema(_) | Object::Secret(_) | Object::View(_) => {}
    }
    Ok(unique(depends_on))
}

/// Keeps OID, public id, owner, comment and time of creation, so that whatever points to the object still does.
fn replace(draft: &mut Draft, oid: Oid, mut object: Object, given: &[Oid]) -> Result<Oid> {
    let Some(old) = draft.snapshot.get(oid) else {
        return Err(Error::UndefinedOid { oid: oid.0 });
    };
    match (old, &object) {
        (Object::View(old), Object::View(new)) => check_columns("view", &old.columns, &new.columns)?,
        (Object::Pipeline(old), Object::Pipeline(new)) => {
            // Nobody who reads the result may find it changed under them.
            if !draft.snapshot.dependents(oid).is_empty() {
                check_columns("pipeline", &old.columns, &new.columns)?;
            }
        }
        (old, new) if old.kind() != new.kind() => {
            return Err(Error::WrongKind {
                name: old.header().name.clone(),
                expected: new.kind(),
                actual: old.kind(),
            });
        }
        (old, _) => return Err(Error::ReplaceUnsupported { kind: old.kind() }),
    }
    let kept = old.header().clone();
    if let (Object::Pipeline(old), Object::Pipeline(new)) = (old, &mut object) {
        new.key_groups = old.key_groups;
    }
    *object.header_mut() = ObjectHeader {
        updated_at_micros: draft.now_micros,
        ..kept
    };
    let depends_on = dependencies_of(draft, &mut object, given)?;
    if reaches(draft, &depends_on, oid) {
        return Err(Error::Cycle {
            name: object.header().name.clone(),
        });
    }
    draft.put(object, depends_on);
    draft.applied.created.push(oid);
    Ok(oid)
}

/// Refused when another pipeline continues from a result that does not go on.
pub(crate) fn replace_pipeline(draft: &mut Draft, replacement: &PipelineReplacement) -> Result<Oid> {
    let oid = replacement.pipeline.header.oid;
    let Some(old) = draft.snapshot.get(oid) else {
        return Err(Error::UndefinedOid { oid: oid.0 });
    };
    if old.header().updated_at_micros != replacement.seen_at_micros {
        return Err(Error::Contention { attempts: 1 });
    }
    let followers = followers(draft, oid);
    if !replacement.keeps_result && !followers.is_empty() {
        let target = describe(old);
        return Err(Error::Dependents {
            action: "replace",
            lines: followers
                .iter()
                .map(|follower| format!("pipeline {follower} continues from the result of {target}"))
                .collect(),
            target,
            hint: "The result would be computed again. Create the new definition under another name, or drop these pipelines first.",
        });
    }
    replace(
        draft,
        oid,
        Object::Pipeline(replacement.pipeline.clone()),
        &replacement.depends_on,
    )
}

/// Names of the pipelines that read this one, also through views.
fn followers(draft: &Draft, of: Oid) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = vec![of];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(oid) = pending.pop() {
        for dependent in draft.snapshot.dependents(oid) {
            if !seen.insert(dependent.oid()) {
                continue;
            }
            match dependent {
                Object::Pipeline(pipeline) => names.push(pipeline.header.name.clone()),
                other => pending.push(other.oid()),
            }
        }
    }
    names.sort();
    names
}

/// Columns may only be added at the end.
fn check_columns(word: &str, old: &[(String, String)], new: &[(String, String)]) -> Result<()> {
    let refuse = |message: String| Err(Error::CannotReplace { message });
    if new.len() < old.len() {
        return refuse(format!("cannot drop columns from {word}"));
    }
    for ((old_name, old_type), (new_name, new_type)) in old.iter().zip(new) {
        if old_name != new_name {
            return refuse(format!(
                "cannot change name of {word} column \"{old_name}\" to \"{new_name}\""
            ));
        }
        if !old_type.eq_ignore_ascii_case(new_type) {
            return refuse(format!(
                "cannot change data type of {word} column \"{old_name}\" from {} to {}",
                old_type.to_lowercase(),
                new_type.to_lowercase()
            ));
        }
    }
    Ok(())
}

fn reaches(draft: &Draft, from: &[Oid], target: Oid) -> bool {
    let mut pending = from.to_vec();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(oid) = pending.pop() {
        if oid == target {
            return true;
        }
        if seen.insert(oid) {
            pending.extend(draft.snapshot.dependencies(oid));
        }
    }
    false
}

fn public_id_kind(kind: ObjectKind) -> PublicIdKind {
    match kind {
        ObjectKind::Schema => PublicIdKind::Schema,
        ObjectKind::Secret => PublicIdKind::Secret,
        ObjectKind::Connection => PublicIdKind::Connection,
        ObjectKind::Table => PublicIdKind::Table,
        ObjectKind::View => PublicIdKind::View,
        ObjectKind::Pipeline => PublicIdKind::Pipeline,
    }
}
