//! `ASOF JOIN` and `FOR SYSTEM_TIME AS OF` as joins whose condition has a mark (`functions::asof`), which is what DataFusion can plan;
//! `rewrites::asof` makes nodes of them. What cannot be one is refused here, with its place.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join, JoinConstraint,
    JoinOperator, ObjectName, Spanned, TableFactor, TableVersion, TableWithJoins, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::planner::asof_tokens::MATCH;
use crate::planner::bind::lookup_version::is_of_now;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::{call, function_name};
use crate::planner::error::{Error, Result};
use crate::planner::functions::asof::{ASOF, MARK, TEMPORAL};

const ASOF_HINT: &str = "Write it as: a ASOF [LEFT] JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.key = b.key.";
const TEMPORAL_HINT: &str = "Write it as: a [LEFT] JOIN b FOR SYSTEM_TIME AS OF a.ts AS c ON a.key = c.key.";

/// Marks the joins of one item of FROM.
pub fn rewrite(item: &mut TableWithJoins, source: SourceText<'_>) -> Result<()> {
    refuse_version(&item.relation, source)?;
    for join in &mut item.joins {
        let is_asof = std::mem::take(&mut join.global);
        if is_asof || matches!(join.join_operator, JoinOperator::AsOf { .. }) {
            refuse_version(&join.relation, source)?;
            mark_asof(join, source)?;
        } else if let Some(version) = take_version(&mut join.relation) {
            mark_temporal(join, version, source)?;
        }
    }
    Ok(())
}

fn take_version(relation: &mut TableFactor) -> Option<TableVersion> {
    match relation {
        // That of now is for lookup tables, see `lookup_version`.
        TableFactor::Table { version, .. } => version.take_if(|version| !is_of_now(version)),
        _ => None,
    }
}

fn refuse_version(relation: &TableFactor, source: SourceText<'_>) -> Result<()> {
    match relation {
        TableFactor::Table {
            version: Some(version),
            name,
            ..
        } if !is_of_now(version) => Err(Error::not_supported(
            "the version of a table is only supported on the right side of a join",
            TEMPORAL_HINT,
        )
        .at(source.position(name.span()))),
        _ => Ok(()),
    }
}

fn mark_asof(join: &mut Join, source: SourceText<'_>) -> Result<()> {
    let place = join.relation.span();
    let refused = |message: &str, span: Span| {
        Err(Error::not_supported(message, ASOF_HINT).at(source.position(span).or(source.position(place))))
    };
    let on = match &mut join.join_operator {
        JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => on,
        JoinOperator::AsOf { .. } => return refused("ASOF JOIN with USING is not supported", place),
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_) => {
            return refused(
                "an ASOF join is inner or LEFT: only rows of its left side are answered",
                place,
            );
        }
        _ => return refused("this ASOF join is not supported", place),
    };
    let JoinConstraint::On(condition) = on else {
        return refused("an ASOF join needs a condition on times", place);
    };
    let (times, rest) = match take_match(condition) {
        Some(times) => (times, (!is_mark(condition)).then(|| condition.clone())),
        None => {
            let mut comparisons = Vec::new();
            comparisons_of(condition, &mut comparisons);
            match comparisons.as_slice() {
                [only] => ((*only).clone(), without(condition, only)),
                [] => return refused("an ASOF join needs a condition on times", condition.span()),
                [_, second, ..] => {
                    return refused(
                        "an ASOF join with several comparisons does not say which is of times",
                        second.span(),
                    );
                }
            }
        }
    };
    let position = source.position(times.span());
    let mark = mark(ASOF, times, position.or(source.position(place)));
    *condition = and(rest, mark);
    Ok(())
}

fn mark_temporal(join: &mut Join, version: TableVersion, source: SourceText<'_>) -> Result<()> {
    let place = join.relation.span();
    let refused = |message: &str| Err(Error::not_supported(message, TEMPORAL_HINT).at(source.position(place)));
    let TableVersion::ForSystemTimeAsOf(time) = version else {
        return refused("this way to ask for the version of a table is not supported");
    };
    let on = match &mut join.join_operator {
        JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => on,
        _ => return refused("FOR SYSTEM_TIME AS OF is supported in inner and LEFT joins"),
    };
    let JoinConstraint::On(condition) = on else {
        return refused("FOR SYSTEM_TIME AS OF needs a condition ON the key of the table");
    };
    let position = source.position(time.span()).or(source.position(place));
    *condition = and(Some(condition.clone()), mark(TEMPORAL, time, position));
    Ok(())
}

/// What `MATCH_CONDITION` says, taken out of the leftmost place of the condition that `asof_tokens` put it into. A condition that was
/// nothing else stays, as a mark that is empty.
fn take_match(condition: &mut Expr) -> Option<Expr> {
    if let Expr::BinaryOp { left, op, right } = condition
        && matches!(op, BinaryOperator::And | BinaryOperator::Or)
    {
        let found = take_match(left)?;
        if is_mark(left) {
            *condition = right.as_ref().clone();
        }
        return Some(found);
    }
    match condition {
        Expr::Function(function) if function_name(function) == MATCH => {
            let FunctionArguments::List(list) = &mut function.args else {
                return None;
            };
            match list.args.pop()? {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_mark(expr: &Expr) -> bool {
    matches!(expr, Expr::Function(function) if function_name(function) == MATCH)
}

/// The comparisons by order among the terms of a conjunction.
fn comparisons_of<'a>(condition: &'a Expr, found: &mut Vec<&'a Expr>) {
    match condition {
        Expr::Nested(inner) => comparisons_of(inner, found),
        Expr::BinaryOp { left, op, right } => match op {
            BinaryOperator::And => {
                comparisons_of(left, found);
                comparisons_of(right, found);
            }
            BinaryOperator::Gt | BinaryOperator::GtEq | BinaryOperator::Lt | BinaryOperator::LtEq => {
                found.push(condition);
            }
            _ => {}
        },
        _ => {}
    }
}

/// The conjunction without the term that is at `term`.
fn without(condition: &Expr, term: &Expr) -> Option<Expr> {
    if std::ptr::eq(condition, term) {
        return None;
    }
    match condition {
        Expr::Nested(inner) => without(inner, term).map(|inner| Expr::Nested(Box::new(inner))),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => match (without(left, term), without(right, term)) {
            (Some(left), Some(right)) => Some(and_of(left, right)),
            (left, right) => left.or(right),
        },
        other => Some(other.clone()),
    }
}

fn and(rest: Option<Expr>, mark: Expr) -> Expr {
    match rest {
        Some(rest) => and_of(rest, mark),
        None => mark,
    }
}

fn and_of(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op: BinaryOperator::And,
        right: Box::new(right),
    }
}

fn mark(form: &str, times: Expr, position: Option<usize>) -> Expr {
    let value = |value: Value| Expr::Value(value.with_empty_span());
    let position = position.unwrap_or(0).to_string();
    let arguments = vec![
        value(Value::SingleQuotedString(form.to_owned())),
        times,
        value(Value::Number(position, false)),
    ];
    match call(MARK, arguments) {
        Expr::Function(function) => Expr::Function(Function {
            name: ObjectName::from(Ident::with_quote('"', MARK)),
            ..function
        }),
        other => other,
    }
}
