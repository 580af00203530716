//! What GROUP BY GROUPING SETS means: keys, and for each set which of them it groups by.
//!
//! ROLLUP and CUBE are grouping sets by the time they come here (`bind::grouping_sets`). The column [`GROUPING_ID`] of an
//! aggregate with sets tells its rows apart by set; GROUPING(..) is computed from it by DataFusion's own rule.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;

use crate::planner::bind::positions::SourceText;
use crate::planner::error::{Error, Result};

/// The column that says which set a row is of.
pub const GROUPING_ID: &str = Aggregate::INTERNAL_GROUPING_ID;

/// Each set is an aggregate of its own; more than these are a mistake sooner than a wish.
const SETS_MAX: usize = 64;

/// The sets of an aggregate, over its keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupingSets {
    pub sets: Vec<KeySet>,
    pub id_type: DataType,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySet {
    /// Positions in the aggregate's keys.
    pub keys: Vec<usize>,
    /// One bit a key, the last key's the lowest: set when the key is not grouped by. Above them, how many equal sets come
    /// before.
    pub id: u64,
}

/// The keys of `aggregate`, and the sets when it has any.
pub fn keys_and_sets(aggregate: &Aggregate) -> Result<(Vec<Expr>, Option<GroupingSets>)> {
    let [Expr::GroupingSet(set)] = aggregate.group_expr.as_slice() else {
        return Ok((aggregate.group_expr.clone(), None));
    };
    let GroupingSet::GroupingSets(lists) = set else {
        return Err(Error::Internal("ROLLUP or CUBE where only lists are expected".into()));
    };
    if lists.len() > SETS_MAX {
        return Err(Error::not_supported(
            format!("more than {SETS_MAX} grouping sets in a continuous query are not supported"),
            "Keep the finest sets in a pipeline and group its result when you read.",
        ));
    }
    let keys = grouping_set_to_exprlist(&aggregate.group_expr).map_err(|error| SourceText("").error(error))?;
    let mut sets: Vec<KeySet> = Vec::with_capacity(lists.len());
    for list in lists {
        let of_set: Vec<usize> = (0..keys.len()).filter(|&key| list.contains(keys[key])).collect();
        let equal = sets.iter().filter(|known| known.keys == of_set).count();
        let id = id(keys.len(), &of_set, equal);
        sets.push(KeySet { keys: of_set, id });
    }
    let keys: Vec<Expr> = keys.into_iter().cloned().collect();
    let id_type = aggregate.schema.field(keys.len()).data_type().clone();
    Ok((keys, Some(GroupingSets { sets, id_type })))
}

fn id(keys: usize, of_set: &[usize], equal_before: usize) -> u64 {
    let absent = (0..keys).filter(|key| !of_set.contains(key));
    let bits: u64 = absent.fold(0, |bits, key| {
        bits | 1u64.checked_shl((keys - 1 - key) as u32).unwrap_or(0)
    });
    bits | (equal_before as u64).checked_shl(keys as u32).unwrap_or(0)
}

/// Replaces GROUPING(..) by what it is computed from.
pub fn resolve_grouping(plan: LogicalPlan, options: &ConfigOptions) -> Result<LogicalPlan> {
    ResolveGroupingFunction::new()
        .analyze(plan, options)
        .map_err(|error| SourceText("").error(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_a_bit_for_each_key_that_is_left_out() {
        assert_eq!(id(2, &[0, 1], 0), 0b00);
        assert_eq!(id(2, &[0], 0), 0b01);
        assert_eq!(id(2, &[1], 0), 0b10);
        assert_eq!(id(2, &[], 0), 0b11);
        assert_eq!(id(2, &[0], 1), 0b1_01);
        assert_eq!(id(0, &[], 2), 2);
    }
}
