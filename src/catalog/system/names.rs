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

/// The parts of a relation that have OIDs are numbered from 0, the PRIMARY KEY or a result's key; its number is in the upper bits
/// of the range. What has no number any more is not shown.
const PART_SHIFT: u32 = 24;
const PARTS_MAX: u32 = (RANGE_MASK >> PART_SHIFT) + 1;
const RELATION_MASK: u32 = (1 << PART_SHIFT) - 1;

fn part_oid(range: u32, relation: u32, number: u32) -> u32 {
    range | (number << PART_SHIFT) | (relation & RELATION_MASK)
}

pub(super) fn index_oid(relation: u32, number: u32) -> u32 {
    part_oid(INDEX_RANGE, relation, number)
}

pub(super) fn constraint_oid(relation: u32, number: u32) -> u32 {
    part_oid(CONSTRAINT_RANGE, relation, number)
}

/// The relation, and the number of its key that an index OID stands for.
pub(super) fn relation_of_index(snapshot: &CatalogSnapshot, oid: u32) -> Option<(UserRelation<'_>, u32)> {
    relation_of_part(snapshot, oid, INDEX_RANGE)
}

/// The relation, and the number of its constraint.
pub(super) fn relation_of_constraint(snapshot: &CatalogSnapshot, oid: u32) -> Option<(UserRelation<'_>, u32)> {
    relation_of_part(snapshot, oid, CONSTRAINT_RANGE)
}

fn relation_of_part(snapshot: &CatalogSnapshot, oid: u32, range: u32) -> Option<(UserRelation<'_>, u32)> {
    let object = snapshot
        .get(Oid(oid & RELATION_MASK))
        .filter(|_| oid & !RANGE_MASK == range)?;
    Some((user_relation(object)?, (oid & RANGE_MASK) >> PART_SHIFT))
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
    /// What identifies a row, each shown as an index.
    pub keys: Vec<UserKey<'a>>,
    pub checks: Vec<UserCheck<'a>>,
}

pub(super) struct UserKey<'a> {
    /// Among the parts of the relation.
    pub number: u32,
    pub kind: KeyKind,
    pub columns: Vec<&'a str>,
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Primary,
    Unique,
    /// Of a result: nobody declared it.
    Found,
}

pub(super) struct UserCheck<'a> {
    pub number: u32,
    pub name: &'a str,
    pub expression: &'a str,
}

impl UserKey<'_> {
    /// As in `pg_constraint.contype`.
    pub(super) fn constraint_type(&self) -> Option<&'static str> {
        match self.kind {
            KeyKind::Primary => Some("p"),
            KeyKind::Unique => Some("u"),
            KeyKind::Found => None,
        }
    }
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

    pub(super) fn key(&self, number: u32) -> Option<&UserKey<'_>> {
        self.keys.iter().find(|key| key.number == number)
    }

    /// The keys that are constraints.
    pub(super) fn declared_keys(&self) -> impl Iterator<Item = &UserKey<'_>> {
        self.keys.iter().filter(|key| key.kind != KeyKind::Found)
    }

    /// 1-based numbers of the key's columns.
    pub(super) fn attributes(&self, key: &UserKey<'_>) -> Vec<i64> {
        let position = |name: &&str| self.columns.iter().position(|column| column.name == *name);
        key.columns
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
            keys: Vec::new(),
            checks: Vec::new(),
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
    let mut keys = Vec::new();
    if !table.primary_key.is_empty() {
        keys.push(UserKey {
            number: 0,
            kind: KeyKind::Primary,
            columns: table.primary_key.iter().map(String::as_str).collect(),
            name: primary_key_name(table),
        });
    }
    let mut checks = Vec::new();
    for (number, constraint) in (1..PARTS_MAX).zip(&table.constraints) {
        match &constraint.kind {
            ConstraintKind::PrimaryKey => {}
            ConstraintKind::Unique { columns } => keys.push(UserKey {
                number,
                kind: KeyKind::Unique,
                columns: columns.iter().map(String::as_str).collect(),
                name: constraint.name.clone(),
            }),
            ConstraintKind::Check { expression } => checks.push(UserCheck {
                number,
                name: &constraint.name,
                expression,
            }),
        }
    }
    UserRelation {
        object,
        kind: "r",
        columns: table.columns.iter().map(column).collect(),
        keys,
        checks,
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
    let columns: Vec<&str> = pipeline.unique_key.iter().map(String::as_str).collect();
    let key = (!columns.is_empty()).then(|| UserKey {
        number: 0,
        kind: KeyKind::Found,
        columns,
        name: format!("{}_key", pipeline.header.name),
    });
    UserRelation {
        object,
        kind: "m",
        columns: pipeline
            .columns
            .iter()
            .map(|(name, sql_type)| plain(name, sql_type, false))
            .collect(),
        keys: key.into_iter().collect(),
        checks: Vec::new(),
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
