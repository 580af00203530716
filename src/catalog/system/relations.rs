//! `pg_class` and what hangs on it: attributes, defaults, indexes, constraints, rules, dependencies, comments.
//!
//! A key is shown as an index and, for a PRIMARY KEY, a constraint, because that is where clients look for it.

use super::definitions::{RELATIONS, Relation};
use super::names::{
    BOOTSTRAP_ROLE_OID, BTREE_OID, HEAP_OID, INFORMATION_SCHEMA_OID, KeyKind, LAMINAR_SCHEMA_OID, PG_CATALOG_OID,
    PG_CLASS_OID, PG_NAMESPACE_OID, PG_REWRITE_OID, UserKey, UserRelation, constraint_oid, default_oid, index_oid,
    role_oid, rule_oid, schema_of, schema_oid, user_relation, user_relations,
};
use super::rows::{Rows, row};
use super::types::{self, BuiltInType};
use crate::catalog::objects::{Object, ObjectKind};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::types::SqlType;

/// The system relations themselves: always the same.
pub(super) fn pg_class_of_system(rows: &mut Rows) {
    for relation in RELATIONS.iter() {
        class_row(rows, &ClassRow::of_system(relation));
    }
}

pub(super) fn pg_class(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot) {
        let mut class = ClassRow::of_user(snapshot, &relation);
        class_row(rows, &class);
        for key in &relation.keys {
            class.oid = index_oid(relation.oid(), key.number);
            class.name = &key.name;
            class.kind = "i";
            class.access_method = BTREE_OID;
            class.columns = key.columns.len();
            class.checks = 0;
            class.has_index = false;
            class.has_rules = false;
            class_row(rows, &class);
        }
    }
}

struct ClassRow<'a> {
    oid: u32,
    name: &'a str,
    schema: u32,
    owner: u32,
    kind: &'a str,
    access_method: u32,
    columns: usize,
    checks: usize,
    has_index: bool,
    has_rules: bool,
}

impl<'a> ClassRow<'a> {
    fn of_system(relation: &'static Relation) -> ClassRow<'static> {
        ClassRow {
            oid: relation.oid,
            name: relation.name,
            schema: match relation.schema {
                "pg_catalog" => PG_CATALOG_OID,
                "information_schema" => INFORMATION_SCHEMA_OID,
                _ => LAMINAR_SCHEMA_OID,
            },
            owner: BOOTSTRAP_ROLE_OID,
            kind: relation.kind,
            access_method: if relation.kind == "r" { HEAP_OID } else { 0 },
            columns: relation.columns.len(),
            checks: 0,
            has_index: false,
            has_rules: relation.kind == "v",
        }
    }

    fn of_user(snapshot: &CatalogSnapshot, relation: &UserRelation<'a>) -> ClassRow<'a> {
        let header = relation.object.header();
        ClassRow {
            oid: relation.oid(),
            name: &header.name,
            schema: schema_oid(snapshot, schema_of(relation.object)).unwrap_or_default(),
            owner: role_oid(&header.owner),
            kind: relation.kind,
            access_method: if relation.kind == "v" { 0 } else { HEAP_OID },
            columns: relation.columns.len(),
            checks: relation.checks.len(),
            has_index: !relation.keys.is_empty(),
            has_rules: relation.kind == "v",
        }
    }
}

fn class_row(rows: &mut Rows, class: &ClassRow<'_>) {
    row!(
        rows,
        oid = class.oid,
        relname = class.name,
        relnamespace = class.schema,
        relowner = class.owner,
        relam = class.access_method,
        relfilenode = if class.kind == "v" { 0 } else { class.oid },
        // Never analyzed.
        reltuples = -1.0f32,
        relhasindex = class.has_index,
        relpersistence = "p",
        relkind = class.kind,
        relnatts = i16::try_from(class.columns).unwrap_or(i16::MAX),
        relchecks = i16::try_from(class.checks).unwrap_or(i16::MAX),
        relhasrules = class.has_rules,
        relispopulated = true,
        relreplident = if ["r", "m"].contains(&class.kind) { "d" } else { "n" },
    );
}

pub(super) fn pg_attribute_of_system(rows: &mut Rows) {
    for relation in RELATIONS.iter() {
        for (index, column) in relation.columns.iter().enumerate() {
            if let Some(built_in) = types::by_name(&column.typname()) {
                let mut attribute = AttributeRow::new(relation.oid, column.name, index, built_in);
                attribute.not_null = !column.nullable;
                attribute.dimensions = i16::from(column.type_name.ends_with("[]"));
                attribute_row(rows, &attribute);
            }
        }
    }
}

pub(super) fn pg_attribute(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot) {
        user_attributes(rows, &relation);
    }
}

fn user_attributes(rows: &mut Rows, relation: &UserRelation<'_>) {
    for (index, column) in relation.columns.iter().enumerate() {
        let sql_type = types::of_column(column.sql_type);
        let Some(built_in) = types::by_oid(sql_type.oid()) else {
            continue;
        };
        let mut attribute = AttributeRow::new(relation.oid(), column.name, index, built_in);
        attribute.modifier = sql_type.typmod();
        attribute.not_null = column.not_null;
        attribute.dimensions = dimensions(&sql_type);
        attribute.has_default = column.expression.is_some();
        attribute.generated = if column.generated { "s" } else { "" };
        attribute_row(rows, &attribute);
    }
    for key in &relation.keys {
        index_attributes(rows, relation, key);
    }
}

fn index_attributes(rows: &mut Rows, relation: &UserRelation<'_>, key: &UserKey<'_>) {
    for (index, name) in key.columns.iter().enumerate() {
        let column = relation.columns.iter().find(|column| column.name == *name);
        let Some(column) = column else { continue };
        let sql_type = types::of_column(column.sql_type);
        let Some(built_in) = types::by_oid(sql_type.oid()) else {
            continue;
        };
        let mut attribute = AttributeRow::new(index_oid(relation.oid(), key.number), name, index, built_in);
        attribute.modifier = sql_type.typmod();
        attribute_row(rows, &attribute);
    }
}

struct AttributeRow<'a> {
    relation: u32,
    name: &'a str,
    number: i16,
    built_in: &'static BuiltInType,
    modifier: i32,
    not_null: bool,
    dimensions: i16,
    has_default: bool,
    generated: &'static str,
}

impl<'a> AttributeRow<'a> {
    fn new(relation: u32, name: &'a str, index: usize, built_in: &'static BuiltInType) -> AttributeRow<'a> {
        AttributeRow {
            relation,
            name,
            number: attribute_number(index),
            built_in,
            modifier: -1,
            not_null: false,
            dimensions: 0,
            has_default: false,
            generated: "",
        }
    }
}

fn attribute_row(rows: &mut Rows, attribute: &AttributeRow<'_>) {
    let built_in = attribute.built_in;
    row!(
        rows,
        attrelid = attribute.relation,
        attname = attribute.name,
        atttypid = built_in.oid,
        attlen = built_in.length,
        attnum = attribute.number,
        attcacheoff = -1,
        atttypmod = attribute.modifier,
        attndims = attribute.dimensions,
        attbyval = built_in.by_value,
        attalign = built_in.align,
        attstorage = built_in.storage,
        attnotnull = attribute.not_null,
        atthasdef = attribute.has_default,
        attgenerated = attribute.generated,
        attislocal = true,
        attstattarget = -1,
        attcollation = built_in.collation,
    );
}

fn attribute_number(index: usize) -> i16 {
    i16::try_from(index + 1).unwrap_or(i16::MAX)
}

fn dimensions(sql_type: &SqlType) -> i16 {
    match sql_type {
        SqlType::Array(element) => 1 + dimensions(element),
        _ => 0,
    }
}

pub(super) fn pg_attrdef(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot) {
        for (index, column) in relation.columns.iter().enumerate() {
            let Some(expression) = column.expression else { continue };
            let number = attribute_number(index);
            row!(
                rows,
                oid = default_oid(relation.oid(), number),
                adrelid = relation.oid(),
                adnum = number,
                adbin = expression,
            );
        }
    }
}

pub(super) fn pg_index(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    let relations: Vec<UserRelation<'_>> = user_relations(snapshot).collect();
    let keys = relations
        .iter()
        .flat_map(|relation| relation.keys.iter().map(move |key| (relation, key)));
    for (relation, key) in keys {
        let attributes = relation.attributes(key);
        let count = i16::try_from(attributes.len()).unwrap_or(i16::MAX);
        let zeros = vec![0i64; attributes.len()];
        row!(
            rows,
            indexrelid = index_oid(relation.oid(), key.number),
            indrelid = relation.oid(),
            indnatts = count,
            indnkeyatts = count,
            indisunique = true,
            indisprimary = key.kind == KeyKind::Primary,
            indimmediate = true,
            indisvalid = true,
            indisready = true,
            indislive = true,
            indkey = attributes,
            indcollation = zeros.clone(),
            indclass = zeros.clone(),
            indoption = zeros,
        );
    }
}

pub(super) fn pg_constraint(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot) {
        let schema = schema_oid(snapshot, schema_of(relation.object));
        for key in relation.declared_keys() {
            row!(
                rows,
                oid = constraint_oid(relation.oid(), key.number),
                conname = &key.name,
                connamespace = schema,
                contype = key.constraint_type(),
                convalidated = true,
                conrelid = relation.oid(),
                conindid = index_oid(relation.oid(), key.number),
                conislocal = true,
                connoinherit = true,
                conkey = relation.attributes(key),
            );
        }
        for check in &relation.checks {
            row!(
                rows,
                oid = constraint_oid(relation.oid(), check.number),
                conname = check.name,
                connamespace = schema,
                contype = "c",
                convalidated = true,
                conrelid = relation.oid(),
                conindid = 0u32,
                conislocal = true,
                connoinherit = false,
                conbin = check.expression,
            );
        }
    }
}

/// Views and results are rules to Postgres; tools walk from them to what they read.
pub(super) fn pg_rewrite(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot).filter(|relation| relation.kind != "r") {
        row!(
            rows,
            oid = rule_oid(relation.oid()),
            rulename = "_RETURN",
            ev_class = relation.oid(),
            ev_type = "1",
            ev_enabled = "O",
            is_instead = true,
        );
    }
}

pub(super) fn pg_depend(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot).filter(|relation| relation.kind != "r") {
        let mut depend = |on: u32, kind: &'static str| {
            row!(
                rows,
                classid = PG_REWRITE_OID,
                objid = rule_oid(relation.oid()),
                refclassid = PG_CLASS_OID,
                refobjid = on,
                deptype = kind,
            );
        };
        depend(relation.oid(), "i");
        for on in snapshot.dependencies(relation.object.oid()) {
            if snapshot.get(on).and_then(user_relation).is_some() {
                depend(on.0, "n");
            }
        }
    }
}

pub(super) fn pg_description(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for object in snapshot.objects() {
        let Some(comment) = &object.header().comment else {
            continue;
        };
        let Some(class) = class_of(object) else { continue };
        row!(
            rows,
            objoid = object.oid(),
            classoid = class,
            objsubid = 0,
            description = comment
        );
    }
}

/// The system table that an object's comment belongs to; secrets and connections have none in Postgres.
pub(super) fn class_of(object: &Object) -> Option<u32> {
    match object.kind() {
        ObjectKind::Schema => Some(PG_NAMESPACE_OID),
        ObjectKind::Table | ObjectKind::View | ObjectKind::Pipeline => Some(PG_CLASS_OID),
        ObjectKind::Secret | ObjectKind::Connection => None,
    }
}

pub(super) fn pg_tables(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in RELATIONS.iter().filter(|relation| relation.kind == "r") {
        row!(
            rows,
            schemaname = relation.schema,
            tablename = relation.name,
            tableowner = super::names::BOOTSTRAP_ROLE,
            hasindexes = false,
            hasrules = false,
            hastriggers = false,
            rowsecurity = false,
        );
    }
    for relation in user_relations(snapshot).filter(|relation| relation.kind == "r") {
        let header = relation.object.header();
        row!(
            rows,
            schemaname = schema_of(relation.object),
            tablename = &header.name,
            tableowner = &header.owner,
            hasindexes = !relation.keys.is_empty(),
            hasrules = false,
            hastriggers = false,
            rowsecurity = false,
        );
    }
}

pub(super) fn pg_views(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in RELATIONS.iter().filter(|relation| relation.kind == "v") {
        row!(
            rows,
            schemaname = relation.schema,
            viewname = relation.name,
            viewowner = super::names::BOOTSTRAP_ROLE,
        );
    }
    for view in snapshot.views() {
        row!(
            rows,
            schemaname = view.header.schema.clone(),
            viewname = &view.header.name,
            viewowner = &view.header.owner,
            definition = &view.query,
        );
    }
}

pub(super) fn pg_matviews(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for pipeline in snapshot.pipelines().filter(|pipeline| !pipeline.columns.is_empty()) {
        row!(
            rows,
            schemaname = pipeline.header.schema.clone(),
            matviewname = &pipeline.header.name,
            matviewowner = &pipeline.header.owner,
            hasindexes = !pipeline.unique_key.is_empty(),
            ispopulated = true,
            definition = &pipeline.query,
        );
    }
}

pub(super) fn pg_indexes(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for relation in user_relations(snapshot) {
        for key in &relation.keys {
            row!(
                rows,
                schemaname = schema_of(relation.object),
                tablename = &relation.object.header().name,
                indexname = &key.name,
                indexdef = super::functions::index_definition(snapshot, index_oid(relation.oid(), key.number), 0),
            );
        }
    }
}
