//! Functions that look into the catalog: OIDs to names and back, definitions, comments.

use std::sync::Arc;

use datafusion::common::ScalarValue;

use crate::catalog::objects::Object;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::catalog::system::functions::{constraint_definition, index_definition};
use crate::ids::{FIRST_USER_OID, Oid};
use crate::planner::error::{Error, Undefined};
use crate::planner::functions::Functions;
use crate::planner::functions::arrays;
use crate::planner::functions::row_function::{Row, RowFunction, failed, text};
use crate::planner::settings::Settings;
use crate::types::{self, SqlType};

/// Postgres's OIDs of its own catalogs, which clients write as `'pg_class'::regclass`.
const SYSTEM_RELATIONS: &[(&str, u32)] = &[
    ("pg_type", 1247),
    ("pg_attribute", 1249),
    ("pg_proc", 1255),
    ("pg_class", 1259),
    ("pg_authid", 1260),
    ("pg_database", 1262),
    ("pg_attrdef", 2604),
    ("pg_am", 2601),
    ("pg_constraint", 2606),
    ("pg_description", 2609),
    ("pg_index", 2610),
    ("pg_inherits", 2611),
    ("pg_language", 2612),
    ("pg_namespace", 2615),
    ("pg_opclass", 2616),
    ("pg_rewrite", 2618),
    ("pg_trigger", 2620),
    ("pg_extension", 3079),
    ("pg_policy", 3256),
    ("pg_collation", 3456),
    ("pg_enum", 3501),
    ("pg_range", 3541),
];

/// The role that owns everything: Postgres's first superuser.
const OWNER_OID: u32 = 10;

/// Names of the functions that casts to `reg*` become, by type.
pub fn cast_functions(of: &str) -> Option<(&'static str, &'static str)> {
    Some(match of {
        "regclass" => ("lm_regclass_oid", "lm_regclass_name"),
        "regtype" => ("lm_regtype_oid", "lm_regtype_name"),
        "regnamespace" => ("lm_regnamespace_oid", "lm_regnamespace_name"),
        "regproc" | "regprocedure" => ("lm_regproc_oid", "lm_regproc_name"),
        "regrole" => ("lm_regrole_oid", "lm_regrole_name"),
        _ => return None,
    })
}

struct Context {
    snapshot: Arc<CatalogSnapshot>,
    search_path: Vec<String>,
    user: String,
}

pub fn register(functions: &mut Functions, settings: &Settings, snapshot: &Arc<CatalogSnapshot>) {
    let context = Arc::new(Context {
        snapshot: Arc::clone(snapshot),
        search_path: settings.search_path.clone(),
        user: settings.session.user.clone(),
    });
    let families = names(&context)
        .into_iter()
        .chain(visibility(&context))
        .chain(definitions(&context));
    for function in families.chain(schemas(&context)) {
        functions.add_scalar(function.stable().into_udf());
    }
}

/// A function of the catalog and one row.
fn looking(
    context: &Arc<Context>,
    name: &'static str,
    arguments: std::ops::RangeInclusive<usize>,
    of: SqlType,
    body: impl Fn(&Context, &Row<'_>) -> Result<ScalarValue, Error> + Send + Sync + 'static,
) -> RowFunction {
    let context = Arc::clone(context);
    RowFunction::new(name, arguments, of, move |row| body(&context, row).map_err(failed))
}

/// A name's OID; names that mean nothing are errors, as in Postgres.
fn oid_or_error(kind: Undefined, row: &Row<'_>, find: impl Fn(&str) -> Option<u32>) -> Result<ScalarValue, Error> {
    if let Some(number) = row.oid(0) {
        return Ok(ScalarValue::UInt32(Some(number)));
    }
    let Some(name) = row.text(0) else {
        return Ok(ScalarValue::Null);
    };
    match find(name) {
        Some(found) => Ok(ScalarValue::UInt32(Some(found))),
        None => Err(Error::Undefined {
            kind,
            name: name.to_owned(),
            hint: None,
            position: None,
        }),
    }
}

fn names(context: &Arc<Context>) -> Vec<RowFunction> {
    let mut functions = relation_and_schema_names(context);
    functions.extend(type_names(context));
    functions.extend([
        looking(context, "lm_regproc_oid", 1..=1, SqlType::Oid, |_, row| {
            Ok(ScalarValue::UInt32(Some(row.oid(0).unwrap_or(0))))
        }),
        looking(context, "lm_regproc_name", 1..=1, SqlType::Text, |_, row| {
            Ok(text(row.oid(0).map(|oid| match oid {
                0 => "-".to_owned(),
                number => number.to_string(),
            })))
        }),
        looking(context, "lm_regrole_oid", 1..=1, SqlType::Oid, |_, row| {
            Ok(ScalarValue::UInt32(row.oid(0).or(Some(OWNER_OID))))
        }),
        looking(context, "lm_regrole_name", 1..=1, SqlType::Text, |context, row| {
            Ok(text(row.oid(0).map(|_| context.user.clone())))
        }),
        looking(context, "pg_get_userbyid", 1..=1, SqlType::Name, |context, row| {
            Ok(text(row.oid(0).map(|_| context.user.clone())))
        }),
    ]);
    functions
}

fn relation_and_schema_names(context: &Arc<Context>) -> Vec<RowFunction> {
    vec![
        looking(context, "lm_regclass_oid", 1..=1, SqlType::Oid, |context, row| {
            oid_or_error(Undefined::Relation, row, |name| context.relation_oid(name))
        }),
        looking(context, "to_regclass", 1..=1, SqlType::Text, |context, row| {
            let found = row.text(0).and_then(|name| context.relation_oid(name));
            Ok(text(found.map(|oid| context.relation_name(oid))))
        }),
        looking(context, "lm_regclass_name", 1..=1, SqlType::Text, |context, row| {
            Ok(text(row.oid(0).map(|oid| context.relation_name(oid))))
        }),
        looking(context, "lm_regnamespace_oid", 1..=1, SqlType::Oid, |context, row| {
            oid_or_error(Undefined::Schema, row, |name| context.schema_oid(name))
        }),
        looking(context, "lm_regnamespace_name", 1..=1, SqlType::Text, |context, row| {
            Ok(text(row.oid(0).map(|oid| context.schema_name(oid))))
        }),
    ]
}

fn type_names(context: &Arc<Context>) -> Vec<RowFunction> {
    let parsed = |name: &str| types::parse(name).ok().map(|of| of.postgres_name());
    vec![
        looking(context, "lm_regtype_oid", 1..=1, SqlType::Oid, |_, row| {
            oid_or_error(Undefined::Type, row, type_oid)
        }),
        looking(context, "to_regtype", 1..=1, SqlType::Text, move |_, row| {
            Ok(text(row.text(0).and_then(parsed)))
        }),
        looking(context, "lm_regtype_name", 1..=1, SqlType::Text, move |_, row| {
            Ok(match row.oid(0) {
                Some(oid) => text(Some(type_of_oid(oid))),
                None => text(row.text(0).and_then(parsed)),
            })
        }),
    ]
}

fn visibility(context: &Arc<Context>) -> Vec<RowFunction> {
    let mut functions = vec![looking(
        context,
        "pg_table_is_visible",
        1..=1,
        SqlType::Boolean,
        |context, row| Ok(ScalarValue::Boolean(row.oid(0).map(|oid| context.is_visible(oid)))),
    )];
    for name in [
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_operator_is_visible",
        "pg_opclass_is_visible",
        "pg_opfamily_is_visible",
        "pg_collation_is_visible",
        "pg_conversion_is_visible",
        "pg_ts_config_is_visible",
        "pg_statistics_obj_is_visible",
    ] {
        functions.push(looking(context, name, 1..=1, SqlType::Boolean, |_, row| {
            Ok(ScalarValue::Boolean(row.oid(0).map(|_| true)))
        }));
    }
    functions
}

fn definitions(context: &Arc<Context>) -> Vec<RowFunction> {
    vec![
        looking(context, "pg_get_viewdef", 1..=2, SqlType::Text, |context, row| {
            let oid = row.oid(0).or_else(|| context.relation_oid(row.text(0)?));
            Ok(text(oid.and_then(|oid| match context.snapshot.get(Oid(oid))? {
                Object::View(view) => Some(format!(" {};", view.query.trim())),
                Object::Pipeline(pipeline) => Some(format!(" {};", pipeline.query.trim())),
                _ => None,
            })))
        }),
        looking(context, "pg_get_indexdef", 1..=3, SqlType::Text, |context, row| {
            let column = row.oid(1).and_then(|column| i32::try_from(column).ok()).unwrap_or(0);
            Ok(text(
                row.oid(0)
                    .and_then(|oid| index_definition(&context.snapshot, oid, column)),
            ))
        }),
        looking(context, "pg_get_constraintdef", 1..=2, SqlType::Text, |context, row| {
            Ok(text(
                row.oid(0).and_then(|oid| constraint_definition(&context.snapshot, oid)),
            ))
        }),
        looking(context, "obj_description", 1..=2, SqlType::Text, |context, row| {
            Ok(text(row.oid(0).and_then(|oid| {
                context.snapshot.get(Oid(oid))?.header().comment.clone()
            })))
        }),
        looking(context, "col_description", 2..=2, SqlType::Text, |_, _| {
            Ok(ScalarValue::Null)
        }),
    ]
}

fn schemas(context: &Arc<Context>) -> Vec<RowFunction> {
    let list = SqlType::Array(Box::new(SqlType::Text));
    vec![
        looking(context, "current_schema", 0..=0, SqlType::Name, |context, _| {
            Ok(text(context.existing_path().into_iter().next()))
        }),
        looking(context, "current_schemas", 1..=1, list, |context, row| {
            let implicit = (row.flag(0) == Some(true)).then(|| "pg_catalog".to_owned());
            Ok(arrays::text_list(implicit.into_iter().chain(context.existing_path())))
        }),
    ]
}

impl Context {
    fn existing_path(&self) -> Vec<String> {
        let exists = |schema: &&String| self.snapshot.schema_oid(schema).is_some();
        self.search_path.iter().filter(exists).cloned().collect()
    }

    fn relation_oid(&self, name: &str) -> Option<u32> {
        let name = name_in_text(name);
        if let Some(object) = self.snapshot.resolve_relation(&name, &self.search_path) {
            return Some(object.oid().0);
        }
        let system = name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog");
        let found = SYSTEM_RELATIONS
            .iter()
            .find(|(candidate, _)| system && *candidate == name.name);
        found.map(|(_, oid)| *oid)
    }

    /// As `regclass` prints: with its schema only where the search path does not find it.
    fn relation_name(&self, oid: u32) -> String {
        if let Some(object) = self.snapshot.get(Oid(oid)) {
            let header = object.header();
            let name = types::quote_identifier(&header.name);
            return match (&header.schema, self.is_visible(oid)) {
                (Some(schema), false) => format!("{}.{name}", types::quote_identifier(schema)),
                _ => name,
            };
        }
        match SYSTEM_RELATIONS.iter().find(|(_, candidate)| *candidate == oid) {
            Some((name, _)) => (*name).to_owned(),
            None if oid == 0 => "-".to_owned(),
            None => oid.to_string(),
        }
    }

    fn schema_oid(&self, name: &str) -> Option<u32> {
        let name = name_in_text(name).name;
        match name.as_str() {
            "pg_catalog" => Some(11),
            other => self.snapshot.schema_oid(other).map(|oid| oid.0),
        }
    }

    fn schema_name(&self, oid: u32) -> String {
        match (self.snapshot.get(Oid(oid)), oid) {
            (Some(object), _) => types::quote_identifier(&object.header().name),
            (None, 11) => "pg_catalog".into(),
            (None, 0) => "-".into(),
            (None, other) => other.to_string(),
        }
    }

    fn is_visible(&self, oid: u32) -> bool {
        let Some(object) = self.snapshot.get(Oid(oid)) else {
            // Of the system's relations those of pg_catalog are always in the path.
            return oid < FIRST_USER_OID;
        };
        let header = object.header();
        let found = self
            .snapshot
            .resolve_relation(&QualifiedName::unqualified(header.name.clone()), &self.search_path);
        found.is_some_and(|found| found.oid().0 == oid)
    }
}

/// A name written in a string, as `regclass` reads it.
fn name_in_text(name: &str) -> QualifiedName {
    let part = |part: &str| match part.strip_prefix('"').and_then(|part| part.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => part.to_lowercase(),
    };
    match name.trim().rsplit_once('.') {
        Some((schema, name)) => QualifiedName::new(part(schema), part(name)),
        None => QualifiedName::unqualified(part(name.trim())),
    }
}

fn type_oid(name: &str) -> Option<u32> {
    types::parse(&name.replace("pg_catalog.", "")).ok().map(|of| of.oid())
}

fn type_of_oid(oid: u32) -> String {
    super::postgres::type_name(oid, -1)
}
