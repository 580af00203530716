//! What Postgres's catalog functions answer, over a snapshot: `format_type` is with the types, the rest is here.
//!
//! Every function gives `None` where Postgres gives NULL: for an OID that is not what the function is about.

use super::definitions::{self, RELATIONS};
use super::names::{
    INFORMATION_SCHEMA_OID, KeyKind, LAMINAR_SCHEMA_OID, PG_CATALOG_OID, UserRelation, index_oid,
    relation_of_constraint, relation_of_index, role_names, role_oid, schema_of, user_relation, user_relations,
};
use super::relations::class_of;
use crate::catalog::objects::Object;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::ids::Oid;
use crate::types::quote_identifier;

/// `pg_get_indexdef(oid, column, ..)`; column 0 is the whole definition.
pub fn index_definition(snapshot: &CatalogSnapshot, oid: u32, column: i32) -> Option<String> {
    let (relation, number) = relation_of_index(snapshot, oid)?;
    let key = relation.key(number)?;
    if let Ok(position @ 1..) = usize::try_from(column) {
        return key.columns.get(position - 1).map(|column| quote_identifier(column));
    }
    Some(format!(
        "CREATE UNIQUE INDEX {} ON {}.{} USING btree ({})",
        quote_identifier(&key.name),
        quote_identifier(schema_of(relation.object)),
        quote_identifier(&relation.object.header().name),
        quoted(&key.columns)
    ))
}

/// `pg_get_constraintdef(oid, ..)`. The expression of a CHECK is as it was written.
pub fn constraint_definition(snapshot: &CatalogSnapshot, oid: u32) -> Option<String> {
    let (relation, number) = relation_of_constraint(snapshot, oid)?;
    if let Some(check) = relation.checks.iter().find(|check| check.number == number) {
        return Some(format!("CHECK ({})", check.expression));
    }
    let key = relation.key(number)?;
    match key.kind {
        KeyKind::Primary => Some(format!("PRIMARY KEY ({})", quoted(&key.columns))),
        KeyKind::Unique => Some(format!("UNIQUE ({})", quoted(&key.columns))),
        KeyKind::Found => None,
    }
}

/// `pg_get_viewdef(oid, ..)`: the text as written, of views and pipelines.
pub fn view_definition(snapshot: &CatalogSnapshot, oid: u32) -> Option<String> {
    let text = match snapshot.get(Oid(oid))? {
        Object::View(view) => &view.query,
        Object::Pipeline(pipeline) => &pipeline.query,
        _ => return None,
    };
    Some(format!(" {};", text.trim().trim_end_matches(';')))
}

/// `obj_description(oid, catalog)`; without a catalog any object of that OID.
pub fn object_description(snapshot: &CatalogSnapshot, oid: u32, catalog: Option<&str>) -> Option<String> {
    let object = snapshot.get(Oid(oid))?;
    let class = class_of(object)?;
    let wanted = match catalog {
        Some(name) => Some(definitions::find("pg_catalog", name)?.oid),
        None => None,
    };
    object
        .header()
        .comment
        .clone()
        .filter(|_| wanted.is_none_or(|wanted| wanted == class))
}

/// `pg_get_userbyid(oid)`.
pub fn role_name(snapshot: &CatalogSnapshot, user: &str, oid: u32) -> String {
    let found = role_names(snapshot, user)
        .into_iter()
        .find(|name| role_oid(name) == oid);
    found.map_or_else(|| format!("unknown (OID={oid})"), str::to_owned)
}

/// `pg_table_is_visible(oid)`: whether the bare name finds this relation. `pg_catalog` is searched first, as in Postgres.
pub fn relation_is_visible(snapshot: &CatalogSnapshot, oid: u32, search_path: &[String]) -> Option<bool> {
    let (schema, name) = relation_name(snapshot, oid)?;
    Some(schema == "pg_catalog" || relation_oid(snapshot, &QualifiedName::unqualified(name), search_path) == Some(oid))
}

/// Schema and name of a relation, system relations and indexes included: what `oid::regclass::text` is made of.
pub fn relation_name(snapshot: &CatalogSnapshot, oid: u32) -> Option<(String, String)> {
    if let Some(relation) = RELATIONS.iter().find(|relation| relation.oid == oid) {
        return Some((relation.schema.to_owned(), relation.name.to_owned()));
    }
    if let Some(relation) = snapshot.get(Oid(oid)).and_then(user_relation) {
        return Some((
            schema_of(relation.object).to_owned(),
            relation.object.header().name.clone(),
        ));
    }
    let (relation, number) = relation_of_index(snapshot, oid)?;
    let schema = schema_of(relation.object).to_owned();
    relation.key(number).map(|key| (schema, key.name.clone()))
}

/// The OID that `'name'::regclass` means.
pub fn relation_oid(snapshot: &CatalogSnapshot, name: &QualifiedName, search_path: &[String]) -> Option<u32> {
    let in_schema = |schema: &str| {
        if let Some(relation) = definitions::find(schema, &name.name) {
            return Some(relation.oid);
        }
        let qualified = QualifiedName::new(schema, name.name.as_str());
        if let Some(object) = snapshot.resolve_relation(&qualified, &[]) {
            return user_relation(object).map(|relation| relation.oid());
        }
        let index_called_so = |relation: UserRelation<'_>| {
            let key = relation.keys.iter().find(|key| key.name == name.name)?;
            Some(index_oid(relation.oid(), key.number))
        };
        user_relations(snapshot)
            .filter(|relation| schema_of(relation.object) == schema)
            .find_map(index_called_so)
    };
    match &name.schema {
        Some(schema) => in_schema(schema),
        None => ["pg_catalog"]
            .into_iter()
            .chain(search_path.iter().map(String::as_str))
            .find_map(in_schema),
    }
}

/// The name of a schema: what `oid::regnamespace::text` is.
pub fn schema_name(snapshot: &CatalogSnapshot, oid: u32) -> Option<String> {
    let built_in = match oid {
        PG_CATALOG_OID => Some("pg_catalog"),
        INFORMATION_SCHEMA_OID => Some("information_schema"),
        LAMINAR_SCHEMA_OID => Some("laminar"),
        _ => None,
    };
    match (built_in, snapshot.get(Oid(oid))) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some(Object::Schema(schema))) => Some(schema.header.name.clone()),
        _ => None,
    }
}

/// `name` of `pg_type` or `pg_proc` by OID: what `oid::regtype::text` falls back to.
pub fn type_name(oid: u32) -> Option<&'static str> {
    super::types::by_oid(oid).map(|built_in| built_in.name)
}

/// The OID of a built-in type by `pg_type.typname`.
pub fn type_oid(name: &str) -> Option<u32> {
    super::types::by_name(name).map(|built_in| built_in.oid)
}

fn quoted(columns: &[&str]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
    columns.join(", ")
}
