//! By the hash of which columns the rows of a stream are spread over subtasks.
//!
//! Rows that agree in these columns are in one subtask, and which one follows from the hash of exactly these values in this order,
//! now and after a restart at another parallelism. What an operator keeps by the same values needs no exchange before it.

use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;

use crate::planner::physical::column_index;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// For each value that is hashed the columns that have it: at least one. A join makes columns of both sides equal.
    values: Vec<Vec<usize>>,
}

impl Spread {
    /// Nothing without columns: all rows are in one subtask then, which needs no name.
    pub fn by(columns: &[usize]) -> Option<Spread> {
        Spread::by_values(columns.iter().map(|&column| vec![column]).collect())
    }

    /// By values of which each is in all columns of its list. Nothing if one is in none.
    pub fn by_values(values: Vec<Vec<usize>>) -> Option<Spread> {
        let is_known = !values.is_empty() && values.iter().all(|columns| !columns.is_empty());
        is_known.then_some(Spread { values })
    }

    /// Whether the hash is that of `keys`, in their order.
    pub fn is_by(&self, keys: &[usize]) -> bool {
        let has = |(columns, key): (&Vec<usize>, &usize)| columns.contains(key);
        self.values.len() == keys.len() && self.values.iter().zip(keys).all(has)
    }

    /// Where in `keys` each value is, if all are there: rows that agree in `keys` are then in one subtask.
    pub fn places_in(&self, keys: &[usize]) -> Option<Vec<usize>> {
        let place = |columns: &Vec<usize>| keys.iter().position(|key| columns.contains(key));
        self.values.iter().map(place).collect()
    }

    /// Behind an operator that puts a column into these of its output.
    fn moved(&self, to: impl Fn(usize) -> Vec<usize>) -> Option<Spread> {
        let moved = |columns: &Vec<usize>| columns.iter().flat_map(|&column| to(column)).collect();
        Spread::by_values(self.values.iter().map(moved).collect())
    }

    /// Behind an operator that shows the first so many columns as they are.
    pub fn within_first(&self, columns: usize) -> Option<Spread> {
        self.moved(|column| (column < columns).then_some(column).into_iter().collect())
    }

    /// Behind a projection. Only the values themselves will do: what is computed of them has another hash.
    pub fn through(&self, expressions: &[Arc<dyn PhysicalExpr>]) -> Option<Spread> {
        self.moved(|column| {
            let shows = |at: &usize| column_index(&expressions[*at]) == Some(column);
            (0..expressions.len()).filter(shows).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_are_equal_stand_for_one_another() {
        let spread = Spread::by_values(vec![vec![0, 4], vec![2]]).expect("two values");
        assert!(spread.is_by(&[4, 2]) && spread.is_by(&[0, 2]));
        assert!(!spread.is_by(&[2, 0]) && !spread.is_by(&[0]) && !spread.is_by(&[0, 2, 3]));
        assert_eq!(spread.places_in(&[3, 2, 4]), Some(vec![2, 1]));
        assert_eq!(spread.places_in(&[0, 4]), None);
        // The first column is shown no more, the second twice.
        let moved = spread.moved(|column| match column {
            4 => vec![1],
            2 => vec![0, 3],
            _ => vec![],
        });
        assert_eq!(moved, Spread::by_values(vec![vec![1], vec![0, 3]]));
        assert_eq!(
            spread.moved(|column| vec![column].into_iter().filter(|&at| at != 2).collect()),
            None
        );
        assert_eq!(Spread::by(&[]), None);
    }

    /// The hash of a value twice is not its hash.
    #[test]
    fn a_value_that_is_hashed_twice_stays_so() {
        let spread = Spread::by(&[1, 1]).expect("one column, twice");
        assert!(!spread.is_by(&[1]));
        assert_eq!(spread.places_in(&[1]), Some(vec![0, 0]));
    }
}
