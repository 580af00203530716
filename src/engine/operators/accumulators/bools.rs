//! `bool_and` and `bool_or`: how many of each were seen, so that rows can be taken away.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows};
use crate::engine::operators::columns::as_int64;

pub(crate) struct Bools {
    trues: Vec<i64>,
    falses: Vec<i64>,
    /// `bool_and` when set, else `bool_or`.
    all: bool,
}

impl Bools {
    pub fn all() -> Bools {
        Bools {
            trues: Vec::new(),
            falses: Vec::new(),
            all: true,
        }
    }

    pub fn any() -> Bools {
        Bools {
            all: false,
            ..Bools::all()
        }
    }
}

impl Accumulator for Bools {
    fn resize(&mut self, groups: usize) {
        if self.trues.len() < groups {
            self.trues.resize(groups, 0);
            self.falses.resize(groups, 0);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        let values = arguments[0].as_boolean_opt().ok_or_else(|| {
            Error::Internal(format!(
                "expected a boolean argument, found {}",
                arguments[0].data_type()
            ))
        })?;
        for (row, &group) in rows.groups.iter().enumerate() {
            if values.is_valid(row) {
                let counts = if values.value(row) {
                    &mut self.trues
                } else {
                    &mut self.falses
                };
                counts[group as usize] += rows.weight(row);
            }
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        let (trues, falses) = (as_int64(&states[0])?, as_int64(&states[1])?);
        for (row, &group) in groups.iter().enumerate() {
            self.trues[group as usize] += trues.value(row);
            self.falses[group as usize] += falses.value(row);
        }
        Ok(())
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        let value = |&group: &u32| {
            let (trues, falses) = (self.trues[group as usize], self.falses[group as usize]);
            if trues == 0 && falses == 0 {
                None
            } else if self.all {
                Some(falses == 0)
            } else {
                Some(trues != 0)
            }
        };
        Ok(Arc::new(groups.iter().map(value).collect::<BooleanArray>()))
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let gather = |counts: &[i64]| -> ArrayRef {
            Arc::new(
                groups
                    .iter()
                    .map(|&group| counts[group as usize])
                    .collect::<Int64Array>(),
            )
        };
        Ok(vec![gather(&self.trues), gather(&self.falses)])
    }

    fn reset(&mut self, group: u32) {
        self.trues[group as usize] = 0;
        self.falses[group as usize] = 0;
    }

    fn clear(&mut self) {
        self.trues.clear();
        self.falses.clear();
    }

    fn memory_bytes(&self) -> usize {
        (self.trues.capacity() + self.falses.capacity()) * 8
    }
}
