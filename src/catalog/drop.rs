//! DROP: IF EXISTS, RESTRICT and CASCADE over the graph of dependencies.

use std::collections::BTreeMap;

use crate::catalog::change::{Draft, describe};
use crate::catalog::error::{Error, Result};
use crate::catalog::objects::{Object, ObjectKind};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName, SYSTEM_SCHEMAS};
use crate::ids::Oid;

pub(crate) fn drop_objects(
    draft: &mut Draft,
    targets: &[(ObjectKind, QualifiedName)],
    if_exists: bool,
    cascade: bool,
) -> Result<()> {
    let mut roots: Vec<Oid> = Vec::new();
    for (kind, name) in targets {
        match find_target(draft, *kind, name, if_exists)? {
            Some(oid) if !roots.contains(&oid) => roots.push(oid),
            _ => {}
        }
    }
    let reached = reachable(&draft.snapshot, &roots);
    if !cascade {
        check_restrict(&draft.snapshot, &roots, &reached)?;
    }
    for oid in reached.keys().filter(|oid| !roots.contains(oid)) {
        let taken = draft.snapshot.get(*oid).map(describe);
        draft.applied.cascaded.extend(taken);
    }
    // Younger objects depend on older ones, but for replaced views; nothing here relies on it.
    for oid in reached.keys().rev() {
        draft.delete(*oid);
    }
    Ok(())
}

fn find_target(draft: &mut Draft, kind: ObjectKind, name: &QualifiedName, if_exists: bool) -> Result<Option<Oid>> {
    if kind == ObjectKind::Schema && SYSTEM_SCHEMAS.contains(&name.name.as_str()) {
        return Err(Error::SystemSchemaFixed {
            schema: name.name.clone(),
        });
    }
    match draft.require(kind, name).map(Object::oid) {
        Ok(oid) => Ok(Some(oid)),
        Err(Error::Undefined { .. }) if if_exists => {
            let missing_schema = name
                .schema
                .as_ref()
                .filter(|schema| draft.snapshot.schema_oid(schema).is_none());
            let notice = match missing_schema {
                Some(schema) => format!("schema \"{schema}\" does not exist, skipping"),
                None => format!("{} \"{}\" does not exist, skipping", kind.word(), name.name),
            };
            draft.applied.skipped.push(notice);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Everything that cannot stay without `roots`, with what each of it directly depends on among them.
fn reachable(snapshot: &CatalogSnapshot, roots: &[Oid]) -> BTreeMap<Oid, Vec<Oid>> {
    let mut reached: BTreeMap<Oid, Vec<Oid>> = roots.iter().map(|oid| (*oid, Vec::new())).collect();
    let mut pending: Vec<Oid> = roots.to_vec();
    while let Some(oid) = pending.pop() {
        for dependent in dependents_of(snapshot, oid) {
            let known = reached.contains_key(&dependent);
            reached.entry(dependent).or_default().push(oid);
            if !known {
                pending.push(dependent);
            }
        }
    }
    reached
}

/// Dependents, and for a schema its contents.
fn dependents_of(snapshot: &CatalogSnapshot, oid: Oid) -> Vec<Oid> {
    let mut dependents: Vec<Oid> = snapshot.dependents(oid).iter().map(|object| object.oid()).collect();
    if let Some(Object::Schema(schema)) = snapshot.get(oid) {
        dependents.extend(snapshot.objects_in_schema(&schema.header.name).map(Object::oid));
    }
    dependents
}

fn check_restrict(snapshot: &CatalogSnapshot, roots: &[Oid], reached: &BTreeMap<Oid, Vec<Oid>>) -> Result<()> {
    let name = |oid: Oid| snapshot.get(oid).map(describe).unwrap_or_default();
    let mut lines = Vec::new();
    for (oid, depends_on) in reached.iter().filter(|(oid, _)| !roots.contains(oid)) {
        lines.extend(
            depends_on
                .iter()
                .map(|on| format!("{} depends on {}", name(*oid), name(*on))),
        );
    }
    if lines.is_empty() {
        return Ok(());
    }
    let blocked = roots.iter().find(|root| {
        let dependents = dependents_of(snapshot, **root);
        dependents.iter().any(|dependent| !roots.contains(dependent))
    });
    Err(Error::Dependents {
        action: "drop",
        target: blocked.map(|oid| name(*oid)).unwrap_or_default(),
        lines,
        hint: "Use DROP ... CASCADE to drop the dependent objects too.",
    })
}
