//! `FROM t CROSS JOIN UNNEST(t.list) AS u(x)` (also with a comma) as `FROM (SELECT *, unnest(list) AS x FROM t) AS t`.
//!
//! Soundness: only for one table and arrays of that table; `u.x` becomes `x`, and NULL and empty lists give no row in both.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectNamePart, Select, SelectItem, SetExpr, TableAlias, TableFactor,
    TableWithJoins, Value, VisitMut, VisitorMut,
};

use crate::planner::bind::names;
use crate::planner::bind::syntax::call;
use crate::planner::dialect;

/// An array in FROM: what to call its elements, and by which qualifier they are called in the query.
struct Lateral {
    array: Expr,
    qualifier: String,
    column: Ident,
}

/// Rewrites the FROM of `select` when it is one table and arrays.
pub fn rewrite(select: &mut Select) {
    let [first, rest @ ..] = select.from.as_slice() else {
        return;
    };
    if matches!(first.relation, TableFactor::UNNEST { .. }) {
        return;
    }
    let joined = first.joins.iter().map(|join| match &join.join_operator {
        JoinOperator::CrossJoin(JoinConstraint::None) => lateral(&join.relation),
        JoinOperator::Join(on) | JoinOperator::Inner(on) if is_always(on) => lateral(&join.relation),
        _ => None,
    });
    let listed = rest.iter().map(|item| match item.joins.is_empty() {
        true => lateral(&item.relation),
        false => None,
    });
    let Some(laterals) = joined.chain(listed).collect::<Option<Vec<Lateral>>>() else {
        return;
    };
    if laterals.is_empty() {
        return;
    }
    let Some(relation) = unnested(&first.relation, &laterals) else {
        return;
    };
    select.from = vec![TableWithJoins {
        relation,
        joins: Vec::new(),
    }];
    let mut unqualify = Unqualify { laterals: &laterals };
    for item in &mut select.projection {
        let _: ControlFlow<()> = VisitMut::visit(item, &mut unqualify);
    }
    let _: ControlFlow<()> = VisitMut::visit(&mut select.group_by, &mut unqualify);
    for expr in select.selection.iter_mut().chain(&mut select.having) {
        let _: ControlFlow<()> = VisitMut::visit(expr, &mut unqualify);
    }
}

fn is_always(constraint: &JoinConstraint) -> bool {
    match constraint {
        JoinConstraint::None => true,
        JoinConstraint::On(Expr::Value(value)) => value.value == Value::Boolean(true),
        _ => false,
    }
}

fn lateral(factor: &TableFactor) -> Option<Lateral> {
    let TableFactor::UNNEST {
        alias,
        array_exprs,
        with_offset: false,
        with_ordinality: false,
        ..
    } = factor
    else {
        return None;
    };
    let [array] = array_exprs.as_slice() else {
        return None;
    };
    let name = alias
        .as_ref()
        .map_or_else(|| Ident::new("unnest"), |alias| alias.name.clone());
    let column = alias
        .as_ref()
        .and_then(|alias| alias.columns.first())
        .map(|column| column.name.clone());
    Some(Lateral {
        array: array.clone(),
        qualifier: names::folded(&name),
        column: column.unwrap_or(name),
    })
}

/// `(SELECT *, unnest(a) AS x, .. FROM table) AS table`.
fn unnested(table: &TableFactor, laterals: &[Lateral]) -> Option<TableFactor> {
    let alias = match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            alias.clone()
        }
        TableFactor::Table { name, .. } => TableAlias {
            explicit: false,
            name: name.0.last().and_then(ObjectNamePart::as_ident)?.clone(),
            columns: Vec::new(),
            at: None,
        },
        _ => return None,
    };
    let mut inner = table.clone();
    // Each array has its own level, or they would be unnested side by side.
    for lateral in laterals {
        let mut query = dialect::parse_query("SELECT * FROM t").ok()?;
        let SetExpr::Select(select) = query.body.as_mut() else {
            return None;
        };
        select.projection.push(SelectItem::ExprWithAlias {
            expr: call("unnest", vec![lateral.array.clone()]),
            alias: lateral.column.clone(),
        });
        select.from.first_mut()?.relation = inner;
        inner = TableFactor::Derived {
            lateral: false,
            subquery: query,
            alias: Some(TableAlias {
                columns: Vec::new(),
                ..alias.clone()
            }),
            sample: None,
        };
    }
    Some(inner)
}

struct Unqualify<'a> {
    laterals: &'a [Lateral],
}

impl VisitorMut for Unqualify<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [qualifier, column, rest @ ..] = parts.as_slice()
        {
            let qualifier = names::folded(qualifier);
            let name = names::folded(column);
            let known = |lateral: &Lateral| lateral.qualifier == qualifier && names::folded(&lateral.column) == name;
            if self.laterals.iter().any(known) {
                *expr = match rest {
                    [] => Expr::Identifier(column.clone()),
                    fields => Expr::CompoundIdentifier(std::iter::once(column).chain(fields).cloned().collect()),
                };
            }
        }
        ControlFlow::Continue(())
    }
}
