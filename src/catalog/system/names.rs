//! OIDs of what has no row in the catalog: built-in schemas, roles, and the parts of relations. All are functions of
//! persisted OIDs or names, so that they are the same at every look and after every restart.

use crate::catalog::objects::{Column, ColumnKind, ConstraintKind, Object, Pipeline, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::ids::Oid;

pub(super) const PG_CATALOG_OID: u32 = 11;
pub(super) const INFORMATION_SCHEMA_OID: u32 = 14000;
pub(super) const LAMINAR_SCHEMA_OID: u32 = 14001;
pub(super) const BOOTSTRAP_ROLE: &str = "laminar";
pub(super) const BOOTSTRAP_ROLE_OID: u32 = 10;
pub(super) const DATABASE_OID: u32 = 5;
pub(super) const HEAP_OID: u32 = 2;
pub(super) const BTREE_OID: u32 = 403;
pub(super) const INTERNAL_LANGUAGE_OID: u32 = 12;
pub(super) const DEFAULT_TABLESPACE_OID: u32 = 1663;
pub(super) const DEFAULT_COLLATION_OID: u32 = 100;
pub(super) const PG_CLASS_OID: u32 = 1259;
pub(super) const PG_NAMESPACE_OID: u32 = 2615;
pub(super) const PG_REWRITE_OID: u32 = 2618;

/// Objects get OIDs from 16384 up, one by one; the upper ranges are free for what belongs to them.
const ROLE_RANGE: u32 = 0x2000_0000;
const DEFAULT_RANGE: u32 = 0x4000_0000;
const INDEX_RANGE: u32 = 0x8000_0000;
const RULE_RANGE: u32 = 0xA000_0000;
const CONSTRAINT_RANGE: u32 = 0xC000_0000;
const RANGE_MASK: u32 = 0x1FFF_FFFF;

pub(super) fn index_oid(relation: u32) -> u32 {
    INDEX_RANGE | (relation & RANGE_MASK)
}

/// The relation whose key an index OID stands for.
pub(super) fn relation_of_index(snapshot: &CatalogSnapshot, oid: u32) -> Option<UserRelation<'_>> {
    keyed_relation(snapshot, oid, INDEX_RANGE)
}

pub(super) fn relation_of_constraint(snapshot: &CatalogSnapshot, oid: u32) -> Option<UserRelation<'_>> {
    keyed_relation(snapshot, oid, CONSTRAINT_RANGE).filter(|relation| relation.primary)
}

fn keyed_relation(snapshot: &CatalogSnapshot, oid: u32, range: u32) -> Option<UserRelation<'_>> {
    let object = snapshot
        .get(Oid(oid & RANGE_MASK))
        .filter(|_| oid & !RANGE_MASK == range)?;
    user_relation(object).filter(|relation| relation.key.is_some())
}

pub(super) fn constraint_oid(relation: u32) -> u32 {
    CONSTRAINT_RANGE | (relation & RANGE_MASK)
}

pub(super) fn rule_oid(relation: u32) -> u32 {
    RULE_RANGE | (relation & RANGE_MASK)
}

/// Of a column's default; 1600 is Postgres's limit of columns.
pub(super) fn default_oid(relation: u32, attribute: i16) -> u32 {
    let number = relation
        .wrapping_mul(1600)
        .wrapping_add(u32::from(attribute.unsigned_abs()));
    DEFAULT_RANGE | (number & (INDEX_RANGE - DEFAULT_RANGE - 1))
}

/// Roles have no catalog rows yet: the one that exists has Postgres's first OID, others one made from their name.
pub fn role_oid(name: &str) -> u32 {
    if name == BOOTSTRAP_ROLE {
        return BOOTSTRAP_ROLE_OID;
    }
    let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    ROLE_RANGE | (u32::try_from(hash >> 40).unwrap_or_default())
}

/// Of a schema, built-in or created.
pub fn schema_oid(snapshot: &CatalogSnapshot, schema: &str) -> Option<u32> {
    match schema {
        "pg_catalog" => Some(PG_CATALOG_OID),
        "information_schema" => Some(INFORMATION_SCHEMA_OID),
        "laminar" => Some(LAMINAR_SCHEMA_OID),
        _ => snapshot.schema_oid(schema).map(|oid| oid.0),
    }
}

/// A table, a view, or a pipeline that keeps its result.
pub(super) struct UserRelation<'a> {
    pub object: &'a Object,
    /// As in `pg_class.relkind`.
    pub kind: &'static str,
    pub columns: Vec<UserColumn<'a>>,
    /// What identifies a row; the name of the index that stands for it.
    pub key: Option<(Vec<&'a str>, String)>,
    /// The key is a PRIMARY KEY.
    pub primary: bool,
}

pub(super) struct UserColumn<'a> {
    pub name: &'a str,
    pub sql_type: &'a str,
    pub not_null: bool,
    /// Expression of a default or of a generated column.
    pub expression: Option<&'a str>,
    pub generated: bool,
}

impl UserRelation<'_> {
    pub(super) fn oid(&self) -> u32 {
        self.object.oid().0
    }

    /// 1-based numbers of the key's columns.
    pub(super) fn key_attributes(&self) -> Vec<i64> {
        let Some((names, _)) = &self.key else { return Vec::new() };
        let position = |name: &&str| self.columns.iter().position(|column| column.name == *name);
        names
            .iter()
            .filter_map(position)
            .map(|index| index as i64 + 1)
            .collect()
    }
}

/// The relations that users see, in the order of creation.
pub(super) fn user_relations(snapshot: &CatalogSnapshot) -> impl Iterator<Item = UserRelation<'_>> {
    snapshot.objects().filter_map(user_relation)
}

pub(super) fn user_relation(object: &Object) -> Option<UserRelation<'_>> {
    match object {
        Object::Table(table) => Some(of_table(object, table)),
        Object::View(view) => Some(UserRelation {
            object,
            kind: "v",
            columns: view
                .columns
                .iter()
                .map(|(name, sql_type)| plain(name, sql_type, false))
                .collect(),
            key: None,
            primary: false,
        }),
        // One that only feeds sinks is no relation: it has no rows.
        Object::Pipeline(pipeline) if !pipeline.columns.is_empty() => Some(of_pipeline(object, pipeline)),
        _ => None,
    }
}

fn of_table<'a>(object: &'a Object, table: &'a Table) -> UserRelation<'a> {
    let column = |column: &'a Column| {
        let (generated, expression) = match &column.kind {
            ColumnKind::Generated { expression, .. } => (true, Some(expression.as_str())),
            ColumnKind::Physical | ColumnKind::Metadata(_) => (false, column.default.as_deref()),
        };
        UserColumn {
            not_null: column.not_null || table.primary_key.contains(&column.name),
            expression,
            generated,
            ..plain(&column.name, &column.sql_type, false)
        }
    };
    let key: Vec<&str> = table.primary_key.iter().map(String::as_str).collect();
    UserRelation {
        object,
        kind: "r",
        columns: table.columns.iter().map(column).collect(),
        key: (!key.is_empty()).then(|| (key, primary_key_name(table))),
        primary: true,
    }
}

fn primary_key_name(table: &Table) -> String {
    let named = table
        .constraints
        .iter()
        .find(|constraint| constraint.kind == ConstraintKind::PrimaryKey);
    named.map_or_else(
        || format!("{}_pkey", table.header.name),
        |constraint| constraint.name.clone(),
    )
}

fn of_pipeline<'a>(object: &'a Object, pipeline: &'a Pipeline) -> UserRelation<'a> {
    let key: Vec<&str> = pipeline.unique_key.iter().map(String::as_str).collect();
    UserRelation {
        object,
        kind: "m",
        columns: pipeline
            .columns
            .iter()
            .map(|(name, sql_type)| plain(name, sql_type, false))
            .collect(),
        key: (!key.is_empty()).then(|| (key, format!("{}_key", pipeline.header.name))),
        primary: false,
    }
}

fn plain<'a>(name: &'a str, sql_type: &'a str, not_null: bool) -> UserColumn<'a> {
    UserColumn {
        name,
        sql_type,
        not_null,
        expression: None,
        generated: false,
    }
}

/// `public`, or the schema of an object.
pub(super) fn schema_of(object: &Object) -> &str {
    object.header().schema.as_deref().unwrap_or_default()
}

/// Every name that owns something, the server's own first.
pub(super) fn role_names<'a>(snapshot: &'a CatalogSnapshot, user: &'a str) -> Vec<&'a str> {
    let mut names: Vec<&str> = snapshot
        .objects()
        .map(|object| object.header().owner.as_str())
        .chain([user])
        .collect();
    names.retain(|name| !name.is_empty() && *name != BOOTSTRAP_ROLE);
    names.sort_unstable();
    names.dedup();
    names.insert(0, BOOTSTRAP_ROLE);
    names
}
