//! Refuses outer joins with USING or NATURAL where the merged column would be the wrong one.
//!
//! The merged column is that of the preserved side, of a FULL join whichever is there. DataFusion takes the column of the left
//! side, and for `*` that of the side whose name comes first; right for inner joins, whose sides are equal.

use datafusion::sql::sqlparser::ast::{Join, JoinConstraint, JoinOperator, Select, SelectItem};

/// A join of `select` whose merged column is not to be trusted, and what to write instead.
pub fn misleading(select: &Select) -> Option<(&Join, &'static str)> {
    let all = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_));
    let has_star = select.projection.iter().any(all);
    let joins = select.from.iter().flat_map(|item| &item.joins);
    joins
        .filter_map(|join| {
            let (constraint, left) = match &join.join_operator {
                JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => (on, true),
                JoinOperator::Right(on) | JoinOperator::RightOuter(on) | JoinOperator::FullOuter(on) => (on, false),
                _ => return None,
            };
            let merges = matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural);
            match (merges, left) {
                (false, _) => None,
                (true, false) => Some((
                    join,
                    "Use ON a.column = b.column, and COALESCE(a.column, b.column) in the select list.",
                )),
                (true, true) if has_star => {
                    Some((join, "Name the columns instead of *, or use ON a.column = b.column."))
                }
                (true, true) => None,
            }
        })
        .next()
}
