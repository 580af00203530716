//! `ROLLUP`, `CUBE` and `GROUPING SETS` in all their spellings as one `GROUPING SETS` of plain lists.
//!
//! Sets inside sets are taken out, lists beside each other are multiplied, positions become the expressions of the select
//! list, and what a set names twice it names once, in the order of the whole GROUP BY: so equal sets look equal. Sets that
//! come twice stay twice, as in Postgres. `GROUP BY ()` is the empty set alone.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Select, SelectItem, Spanned, Value,
};

use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::function_name;
use crate::planner::error::{Error, Result};

/// Postgres's limits.
const SETS_MAX: usize = 4096;
const CUBE_MAX: usize = 12;

type Set = Vec<Expr>;

/// Rewrites the GROUP BY of `select` when it has grouping sets.
pub fn expand(select: &mut Select, source: SourceText<'_>) -> Result<()> {
    let GroupByExpr::Expressions(items, modifiers) = &select.group_by else {
        return Ok(());
    };
    if !modifiers.is_empty() {
        let message = "GROUP BY takes GROUPING SETS as one of its items, after a comma";
        return Err(Error::query(SqlState::SYNTAX_ERROR, message));
    }
    let is_sets = |item: &Expr| match item {
        Expr::GroupingSets(_) | Expr::Rollup(_) | Expr::Cube(_) => true,
        Expr::Tuple(parts) => parts.is_empty(),
        _ => false,
    };
    let Some(first) = items.iter().find(|item| is_sets(item)) else {
        return Ok(());
    };
    let position = source.position(first.span());
    let mut sets: Vec<Set> = vec![Vec::new()];
    for item in items {
        let of_item = sets_of(item).map_err(|error| error.at(position))?;
        if sets.len().saturating_mul(of_item.len()) > SETS_MAX {
            return Err(too_many().at(position));
        }
        sets = sets
            .iter()
            .flat_map(|left| of_item.iter().map(|right| [left.as_slice(), right].concat()))
            .collect();
    }
    for expr in sets.iter_mut().flatten() {
        if let Some(item) = named_by_position(expr, &select.projection, source)? {
            *expr = item;
        }
        while let Expr::Nested(inner) = expr {
            *expr = inner.as_ref().clone();
        }
    }
    let sets = in_one_order(&sets);
    let items = match sets.as_slice() {
        [only] if !only.is_empty() => only.clone(),
        _ => vec![Expr::GroupingSets(sets)],
    };
    select.group_by = GroupByExpr::Expressions(items, Vec::new());
    Ok(())
}

fn too_many() -> Error {
    let message = format!("too many grouping sets present (maximum {SETS_MAX})");
    Error::query(SqlState::STATEMENT_TOO_COMPLEX, message)
}

/// The sets that one item of GROUP BY stands for.
fn sets_of(item: &Expr) -> Result<Vec<Set>> {
    Ok(match item {
        Expr::Rollup(parts) => rollup(parts),
        Expr::Cube(parts) => cube(parts)?,
        Expr::GroupingSets(parts) => {
            let mut sets = Vec::new();
            for part in parts {
                match part.as_slice() {
                    [Expr::Function(call)] => match nested(call)? {
                        Some(nested) => sets.extend(nested),
                        None => sets.push(part.clone()),
                    },
                    _ => sets.push(part.clone()),
                }
            }
            sets
        }
        other => vec![listed(other)],
    })
}

/// `ROLLUP (..)` and `CUBE (..)` inside GROUPING SETS are read as calls.
fn nested(call: &Function) -> Result<Option<Vec<Set>>> {
    let name = function_name(call);
    let FunctionArguments::List(list) = &call.args else {
        return Ok(None);
    };
    let parts = list.args.iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(listed(expr)),
        _ => None,
    });
    Ok(match name.as_str() {
        "rollup" => Some(rollup(&parts.collect::<Vec<_>>())),
        "cube" => Some(cube(&parts.collect::<Vec<_>>())?),
        _ => None,
    })
}

/// `(a, b)` is a list of two, `a` of one.
fn listed(expr: &Expr) -> Set {
    match expr {
        Expr::Tuple(parts) => parts.clone(),
        other => vec![other.clone()],
    }
}

fn rollup(parts: &[Set]) -> Vec<Set> {
    (0..=parts.len()).rev().map(|length| parts[..length].concat()).collect()
}

fn cube(parts: &[Set]) -> Result<Vec<Set>> {
    if parts.len() > CUBE_MAX {
        let message = format!("CUBE is limited to {CUBE_MAX} elements");
        return Err(Error::query(SqlState::STATEMENT_TOO_COMPLEX, message));
    }
    let set = |chosen: u32| {
        let parts = parts.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1);
        parts.flat_map(|(_, part)| part.iter().cloned()).collect()
    };
    Ok((0..1u32 << parts.len()).rev().map(set).collect())
}

/// The item of the select list that a number in GROUP BY stands for.
fn named_by_position(expr: &Expr, items: &[SelectItem], source: SourceText<'_>) -> Result<Option<Expr>> {
    let Expr::Value(value) = expr else {
        return Ok(None);
    };
    let Value::Number(number, _) = &value.value else {
        return Ok(None);
    };
    let known = items
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
            _ => None,
        })
        .collect::<Option<Vec<&Expr>>>();
    let Some(known) = known else {
        return Err(Error::not_supported(
            "a position in GROUP BY beside * in the select list is not supported",
            "Name the column.",
        )
        .at(source.position(expr.span())));
    };
    let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    match index.and_then(|index| known.get(index)) {
        Some(&item) => Ok(Some(item.clone())),
        None => Err(Error::query(
            SqlState::INVALID_COLUMN_REFERENCE,
            format!("GROUP BY position {number} is not in select list"),
        )
        .at(source.position(expr.span()))),
    }
}

/// Every set without repetitions, in the order in which its members first come.
fn in_one_order(sets: &[Set]) -> Vec<Set> {
    let mut all: Vec<&Expr> = Vec::new();
    for expr in sets.iter().flatten() {
        if !all.contains(&expr) {
            all.push(expr);
        }
    }
    sets.iter()
        .map(|set| {
            let kept = all.iter().filter(|expr| set.contains(expr));
            kept.map(|&expr| expr.clone()).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use datafusion::sql::sqlparser::ast::{SetExpr, Statement};
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::planner::dialect::QueryDialect;

    fn expanded(group: &str) -> Result<String> {
        let text = format!("SELECT a, b + 1 AS c, count(*) FROM t GROUP BY {group}");
        let mut statements = Parser::parse_sql(&QueryDialect, &text).unwrap();
        let Some(Statement::Query(query)) = statements.pop() else {
            panic!("not a query");
        };
        let SetExpr::Select(mut select) = *query.body else {
            panic!("not a SELECT");
        };
        expand(&mut select, SourceText(&text))?;
        Ok(select.group_by.to_string().replace('\n', " ").replace("  ", " "))
    }

    #[test]
    fn all_spellings_are_lists_of_lists() {
        for (group, expected) in [
            ("a, b", "GROUP BY a, b"),
            ("ROLLUP (a, b)", "GROUP BY GROUPING SETS ((a, b), (a), ())"),
            ("CUBE (a, b)", "GROUP BY GROUPING SETS ((a, b), (b), (a), ())"),
            ("ROLLUP ((a, b), c)", "GROUP BY GROUPING SETS ((a, b, c), (a, b), ())"),
            ("a, ()", "GROUP BY a"),
            ("CUBE ((a), a)", "GROUP BY GROUPING SETS ((a), (a), (a), ())"),
            ("()", "GROUP BY GROUPING SETS (())"),
            ("a, ROLLUP (b)", "GROUP BY GROUPING SETS ((a, b), (a))"),
            ("ROLLUP (1, 2)", "GROUP BY GROUPING SETS ((a, b + 1), (a), ())"),
            ("GROUPING SETS (a, (b, a))", "GROUP BY GROUPING SETS ((a), (a, b))"),
            (
                "GROUPING SETS (ROLLUP (a), CUBE (b), ())",
                "GROUP BY GROUPING SETS ((a), (), (b), (), ())",
            ),
            (
                "CUBE (a), GROUPING SETS ((a), (b))",
                "GROUP BY GROUPING SETS ((a), (a, b), (a), (b))",
            ),
        ] {
            assert_eq!(expanded(group).unwrap(), expected, "{group}");
        }
    }

    #[test]
    fn there_are_limits() {
        let cube = |columns: usize| {
            let names: Vec<String> = (0..columns).map(|index| format!("c{index}")).collect();
            format!("CUBE ({})", names.join(", "))
        };
        assert!(expanded(&cube(12)).is_ok());
        assert!(expanded(&cube(13)).is_err());
        assert!(expanded(&format!("{}, CUBE (x, y)", cube(11))).is_err());
        assert!(expanded("ROLLUP (4)").is_err());
    }
}
