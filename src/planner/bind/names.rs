//! Names of result columns as Postgres gives them: `count`, `?column?`, the type of a cast literal.
//!
//! DataFusion wants unique names in one select list and Postgres does not: repeated names get a suffix behind
//! [`REPEATED`], which no text can contain, and which results lose again.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, CastKind, Expr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem,
    SetExpr, Subscript, TrimWhereField,
};

use crate::catalog::snapshot::QualifiedName;
use crate::types::{self, SqlType};

/// Stands between a repeated name and its number.
pub const REPEATED: char = '\u{1}';

/// The name without the mark of repetition.
pub fn shown(name: &str) -> &str {
    name.split(REPEATED).next().unwrap_or(name)
}

/// Names for a kept result, where they must differ: `count`, `count_1`.
pub fn unique<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken: Vec<String> = Vec::new();
    for name in names {
        let name = shown(name);
        let mut candidate = name.to_owned();
        let mut number = 0;
        while taken.contains(&candidate) {
            number += 1;
            candidate = format!("{name}_{number}");
        }
        taken.push(candidate);
    }
    taken
}

/// Gives every unnamed item of a select list its Postgres name.
pub fn name_items(select: &mut Select) {
    let wildcard = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for item in &mut select.projection {
        let (name, quoted_from) = match item {
            SelectItem::UnnamedExpr(expr) => (name_of(expr), None),
            SelectItem::ExprWithAlias { alias, .. } => (folded(alias), Some(alias.clone())),
            _ => continue,
        };
        let count = seen.entry(name.clone()).or_insert(0);
        *count += 1;
        // `current_schema` without parentheses is a call.
        let plain =
            matches!(item, SelectItem::UnnamedExpr(Expr::Identifier(ident)) if folded(ident) != "current_schema");
        let repeated = *count > 1 || (wildcard && plain);
        let name = if repeated {
            format!("{name}{REPEATED}{count}")
        } else {
            name
        };
        match item {
            SelectItem::UnnamedExpr(Expr::Identifier(_)) if plain && !repeated => {}
            SelectItem::UnnamedExpr(expr) => {
                *item = SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias: Ident::with_quote('"', name),
                };
            }
            SelectItem::ExprWithAlias { alias, .. } if repeated => {
                let span = quoted_from.map_or(alias.span, |alias| alias.span);
                *alias = Ident::with_quote('"', name);
                alias.span = span;
            }
            _ => {}
        }
    }
}

/// An identifier as Postgres reads it: lower case unless quoted.
pub fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// A relation's name as Postgres reads it; of more parts than two the last two. `None`: it has none.
pub fn qualified(name: &ObjectName) -> Option<QualifiedName> {
    let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(folded).collect();
    match parts.as_slice() {
        [.., schema, name] => Some(QualifiedName::new(schema.clone(), name.clone())),
        [name] => Some(QualifiedName::unqualified(name.clone())),
        [] => None,
    }
}

fn last_part(name: &ObjectName) -> String {
    name.0
        .last()
        .and_then(|part| part.as_ident())
        .map_or_else(|| "?column?".to_owned(), folded)
}

fn name_of(expr: &Expr) -> String {
    strong_name(expr)
        .or_else(|| weak_name(expr))
        .unwrap_or_else(|| "?column?".to_owned())
}

/// Names that survive a cast around them: columns, functions, fields.
fn strong_name(expr: &Expr) -> Option<String> {
    let name = match expr {
        Expr::Identifier(ident) => folded(ident),
        Expr::CompoundIdentifier(parts) => folded(parts.last()?),
        Expr::CompoundFieldAccess { root, access_chain } => return access_name(root, access_chain),
        Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => "array".into(),
        Expr::Function(function) => last_part(&function.name),
        Expr::Nested(inner) => return strong_name(inner),
        Expr::Collate { expr, .. } => return strong_name(expr),
        Expr::Cast { expr, .. } => return strong_name(expr),
        Expr::Case { else_result, .. } => return else_result.as_ref().and_then(|expr| strong_name(expr)),
        Expr::Subquery(query) => return query_name(query),
        Expr::Exists { .. } => "exists".into(),
        Expr::Array(_) => "array".into(),
        Expr::Extract { .. } => "extract".into(),
        Expr::Substring { .. } => "substring".into(),
        Expr::Position { .. } => "position".into(),
        Expr::Overlay { .. } => "overlay".into(),
        Expr::Ceil { .. } => "ceil".into(),
        Expr::Floor { .. } => "floor".into(),
        Expr::AtTimeZone { .. } => "timezone".into(),
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(TrimWhereField::Leading) => "ltrim".into(),
            Some(TrimWhereField::Trailing) => "rtrim".into(),
            _ => "btrim".into(),
        },
        Expr::Tuple(_) => "row".into(),
        _ => return None,
    };
    Some(name)
}

/// Names of last resort.
fn weak_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Cast {
            expr,
            data_type,
            kind: CastKind::Cast | CastKind::DoubleColon | CastKind::TryCast | CastKind::SafeCast,
            ..
        } => weak_name(expr)
            .filter(|name| name == "case")
            .or_else(|| Some(type_name(&data_type.to_string()))),
        Expr::TypedString(typed) => Some(type_name(&typed.data_type.to_string())),
        Expr::Interval(_) => Some("interval".into()),
        Expr::Case { .. } => Some("case".into()),
        Expr::Nested(inner) => weak_name(inner),
        _ => None,
    }
}

fn type_name(sql: &str) -> String {
    let bare = sql.to_lowercase().replace("pg_catalog.", "");
    match types::parse(&bare) {
        Ok(parsed) => internal_name(&parsed),
        Err(_) => bare,
    }
}

/// The name in `pg_type`, which Postgres uses for columns.
fn internal_name(of: &SqlType) -> String {
    let name = match of {
        SqlType::Boolean => "bool",
        SqlType::TinyInt | SqlType::UnsignedTinyInt | SqlType::SmallInt => "int2",
        SqlType::UnsignedSmallInt | SqlType::Int => "int4",
        SqlType::UnsignedInt | SqlType::BigInt => "int8",
        SqlType::Real => "float4",
        SqlType::Double => "float8",
        SqlType::UnsignedBigInt | SqlType::Numeric { .. } => "numeric",
        SqlType::Text => "text",
        SqlType::Varchar(_) => "varchar",
        SqlType::Char(_) => "bpchar",
        SqlType::Bytea => "bytea",
        SqlType::Date => "date",
        SqlType::Time => "time",
        SqlType::Timestamp => "timestamp",
        SqlType::TimestampTz => "timestamptz",
        SqlType::Interval => "interval",
        SqlType::Uuid => "uuid",
        SqlType::Json => "json",
        SqlType::Jsonb => "jsonb",
        SqlType::Oid => "oid",
        SqlType::Name => "name",
        SqlType::SystemChar => "char",
        SqlType::Array(element) => return internal_name(element),
        SqlType::Struct(_) => "record",
        SqlType::Map(..) => "map",
    };
    name.to_owned()
}

fn access_name(root: &Expr, chain: &[AccessExpr]) -> Option<String> {
    match chain.iter().rev().find(|access| matches!(access, AccessExpr::Dot(_))) {
        Some(AccessExpr::Dot(Expr::Identifier(ident))) => Some(folded(ident)),
        _ => match chain.last() {
            Some(AccessExpr::Subscript(Subscript::Index { .. } | Subscript::Slice { .. })) => strong_name(root),
            _ => None,
        },
    }
}

fn query_name(query: &Query) -> Option<String> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    match select.projection.first()? {
        SelectItem::UnnamedExpr(expr) => strong_name(expr).or_else(|| weak_name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(shown(&folded(alias)).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::planner::dialect;

    fn named(sql: &str) -> Vec<String> {
        let mut query = dialect::parse_query(sql).unwrap();
        let SetExpr::Select(select) = query.body.as_mut() else {
            panic!("a select is expected");
        };
        name_items(select);
        let item = |item: &SelectItem| match item {
            SelectItem::ExprWithAlias { alias, .. } => shown(&alias.value).to_owned(),
            other => other.to_string(),
        };
        select.projection.iter().map(item).collect()
    }

    #[test]
    fn names_are_those_of_postgres() {
        assert_eq!(
            named("SELECT a, t.b, count(*), 1, a + 1, 1::int, a::text, CASE WHEN a THEN 1 END, lower(a)"),
            ["a", "b", "count", "?column?", "?column?", "int4", "a", "case", "lower"]
        );
        assert_eq!(
            named(
                "SELECT count(*), count(a), (SELECT max(x) FROM t), ARRAY[1], EXISTS (SELECT 1), w.start, pg_catalog.version()"
            ),
            ["count", "count", "max", "array", "exists", "start", "version"]
        );
        assert_eq!(
            named("SELECT interval '1 day', date '2020-01-01', trim(x), CASE WHEN a THEN 1 ELSE b END, not a"),
            ["interval", "date", "btrim", "b", "?column?"]
        );
    }

    #[test]
    fn kept_results_have_different_names() {
        assert_eq!(unique(["a", "count", "count\u{1}2"]), ["a", "count", "count_1"]);
    }
}
