//! `information_schema`: the standard's view of the same relations.
//!
//! Postgres leaves materialized views out. Here they are listed, as `MATERIALIZED VIEW`, because a pipeline's result is
//! what most tools that look here came for.

use super::SessionFacts;
use super::definitions::RELATIONS;
use super::names::{BOOTSTRAP_ROLE, KeyKind, UserRelation, schema_of, user_relations};
use super::rows::{Rows, row};
use super::types;
use crate::catalog::objects::Object;
use crate::catalog::snapshot::{CatalogSnapshot, SYSTEM_SCHEMAS};
use crate::types::SqlType;

fn yes_or_no(flag: bool) -> &'static str {
    if flag { "YES" } else { "NO" }
}

fn table_type(kind: &str) -> &'static str {
    match kind {
        "r" => "BASE TABLE",
        "m" => "MATERIALIZED VIEW",
        _ => "VIEW",
    }
}

pub(super) fn catalog_name(rows: &mut Rows, facts: &SessionFacts) {
    row!(rows, catalog_name = &facts.database);
}

pub(super) fn schemata(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    let mut add = |name: &str, owner: &str| {
        row!(
            rows,
            catalog_name = &facts.database,
            schema_name = name,
            schema_owner = owner
        );
    };
    for name in SYSTEM_SCHEMAS {
        add(name, BOOTSTRAP_ROLE);
    }
    for object in snapshot.objects() {
        if let Object::Schema(schema) = object {
            add(&schema.header.name, &schema.header.owner);
        }
    }
}

pub(super) fn tables(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    let mut add = |schema: &str, name: &str, kind: &str, insertable: bool| {
        row!(
            rows,
            table_catalog = &facts.database,
            table_schema = schema,
            table_name = name,
            table_type = table_type(kind),
            is_insertable_into = yes_or_no(insertable),
            is_typed = "NO",
        );
    };
    for relation in RELATIONS.iter() {
        add(relation.schema, relation.name, relation.kind, false);
    }
    for relation in user_relations(snapshot) {
        let header = relation.object.header();
        add(
            schema_of(relation.object),
            &header.name,
            relation.kind,
            relation.kind == "r",
        );
    }
}

pub(super) fn views(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    for view in snapshot.views() {
        row!(
            rows,
            table_catalog = &facts.database,
            table_schema = view.header.schema.clone(),
            table_name = &view.header.name,
            view_definition = &view.query,
            check_option = "NONE",
            is_updatable = "NO",
            is_insertable_into = "NO",
            is_trigger_updatable = "NO",
            is_trigger_deletable = "NO",
            is_trigger_insertable_into = "NO",
        );
    }
}

struct ColumnRow<'a> {
    schema: &'a str,
    table: &'a str,
    name: &'a str,
    position: usize,
    typname: String,
    /// `None`: a type of system tables only.
    sql_type: Option<SqlType>,
    nullable: bool,
    default: Option<&'a str>,
    generated: bool,
    updatable: bool,
}

pub(super) fn columns(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    for relation in RELATIONS.iter() {
        for (index, column) in relation.columns.iter().enumerate() {
            let typname = column.typname();
            let column = ColumnRow {
                schema: relation.schema,
                table: relation.name,
                name: column.name,
                position: index,
                sql_type: types::by_name(&typname).and_then(|built_in| SqlType::from_oid(built_in.oid)),
                typname,
                nullable: column.nullable,
                default: None,
                generated: false,
                updatable: false,
            };
            column_row(rows, &column, facts);
        }
    }
    for relation in user_relations(snapshot) {
        user_columns(rows, &relation, facts);
    }
}

fn user_columns(rows: &mut Rows, relation: &UserRelation<'_>, facts: &SessionFacts) {
    for (index, column) in relation.columns.iter().enumerate() {
        let sql_type = types::of_column(column.sql_type);
        let column = ColumnRow {
            schema: schema_of(relation.object),
            table: &relation.object.header().name,
            name: column.name,
            position: index,
            typname: sql_type.typname(),
            sql_type: Some(sql_type),
            nullable: !column.not_null,
            default: column.expression,
            generated: column.generated,
            updatable: relation.kind == "r" && !column.generated,
        };
        column_row(rows, &column, facts);
    }
}

fn column_row(rows: &mut Rows, column: &ColumnRow<'_>, facts: &SessionFacts) {
    let data_type = column.sql_type.as_ref().map(SqlType::information_schema_name);
    let number = column.sql_type.as_ref().and_then(numeric_facts);
    row!(
        rows,
        table_catalog = &facts.database,
        table_schema = column.schema,
        table_name = column.table,
        column_name = column.name,
        ordinal_position = i32::try_from(column.position + 1).unwrap_or(i32::MAX),
        column_default = column.default.filter(|_| !column.generated),
        is_nullable = yes_or_no(column.nullable),
        data_type = data_type.unwrap_or(&column.typname),
        character_maximum_length = column.sql_type.as_ref().and_then(character_length),
        numeric_precision = number.map(|number| number.0),
        numeric_precision_radix = number.map(|number| number.1),
        numeric_scale = number.and_then(|number| number.2),
        datetime_precision = column.sql_type.as_ref().and_then(datetime_precision),
        udt_catalog = &facts.database,
        udt_schema = "pg_catalog",
        udt_name = &column.typname,
        dtd_identifier = (column.position + 1).to_string(),
        is_self_referencing = "NO",
        is_identity = "NO",
        identity_cycle = "NO",
        is_generated = if column.generated { "ALWAYS" } else { "NEVER" },
        generation_expression = column.default.filter(|_| column.generated),
        is_updatable = yes_or_no(column.updatable),
    );
}

fn character_length(sql_type: &SqlType) -> Option<i32> {
    match sql_type {
        SqlType::Varchar(Some(length)) | SqlType::Char(Some(length)) => i32::try_from(*length).ok(),
        SqlType::Char(None) => Some(1),
        _ => None,
    }
}

/// Precision, radix, scale; unsigned integers as the types that clients see.
fn numeric_facts(sql_type: &SqlType) -> Option<(i32, i32, Option<i32>)> {
    match sql_type {
        SqlType::TinyInt | SqlType::SmallInt | SqlType::UnsignedTinyInt => Some((16, 2, Some(0))),
        SqlType::Int | SqlType::UnsignedSmallInt => Some((32, 2, Some(0))),
        SqlType::BigInt | SqlType::UnsignedInt => Some((64, 2, Some(0))),
        SqlType::UnsignedBigInt => Some((20, 10, Some(0))),
        SqlType::Real => Some((24, 2, None)),
        SqlType::Double => Some((53, 2, None)),
        SqlType::Numeric { precision, scale } => Some((i32::from(*precision), 10, Some(i32::from(*scale)))),
        _ => None,
    }
}

fn datetime_precision(sql_type: &SqlType) -> Option<i32> {
    match sql_type {
        SqlType::Date => Some(0),
        SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Interval => Some(6),
        _ => None,
    }
}

pub(super) fn table_constraints(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    for relation in user_relations(snapshot) {
        let schema = schema_of(relation.object);
        let keys = relation.declared_keys().map(|key| match key.kind {
            KeyKind::Primary => (key.name.as_str(), "PRIMARY KEY"),
            KeyKind::Unique | KeyKind::Found => (key.name.as_str(), "UNIQUE"),
        });
        let checks = relation.checks.iter().map(|check| (check.name, "CHECK"));
        for (name, constraint_type) in keys.chain(checks) {
            row!(
                rows,
                constraint_catalog = &facts.database,
                constraint_schema = schema,
                constraint_name = name,
                table_catalog = &facts.database,
                table_schema = schema,
                table_name = &relation.object.header().name,
                constraint_type = constraint_type,
                is_deferrable = "NO",
                initially_deferred = "NO",
                enforced = "YES",
            );
        }
    }
}

pub(super) fn key_column_usage(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    let relations: Vec<UserRelation<'_>> = user_relations(snapshot).collect();
    let keys = relations
        .iter()
        .flat_map(|relation| relation.declared_keys().map(move |key| (relation, key)));
    for (relation, key) in keys {
        let (columns, name) = (&key.columns, &key.name);
        let schema = schema_of(relation.object);
        for (index, column) in columns.iter().enumerate() {
            row!(
                rows,
                constraint_catalog = &facts.database,
                constraint_schema = schema,
                constraint_name = name,
                table_catalog = &facts.database,
                table_schema = schema,
                table_name = &relation.object.header().name,
                column_name = *column,
                ordinal_position = i32::try_from(index + 1).unwrap_or(i32::MAX),
            );
        }
    }
}

pub(super) fn constraint_column_usage(rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    let relations: Vec<UserRelation<'_>> = user_relations(snapshot).collect();
    let keys = relations
        .iter()
        .flat_map(|relation| relation.declared_keys().map(move |key| (relation, key)));
    for (relation, key) in keys {
        let (columns, name) = (&key.columns, &key.name);
        let schema = schema_of(relation.object);
        for column in columns {
            row!(
                rows,
                table_catalog = &facts.database,
                table_schema = schema,
                table_name = &relation.object.header().name,
                column_name = *column,
                constraint_catalog = &facts.database,
                constraint_schema = schema,
                constraint_name = name,
            );
        }
    }
}

pub(super) fn character_sets(rows: &mut Rows, facts: &SessionFacts) {
    row!(
        rows,
        character_set_name = "UTF8",
        character_repertoire = "UCS",
        form_of_use = "UTF8",
        default_collate_catalog = &facts.database,
        default_collate_schema = "pg_catalog",
        default_collate_name = "C",
    );
}

pub(super) fn enabled_roles(rows: &mut Rows, facts: &SessionFacts) {
    row!(rows, role_name = &facts.user);
}
