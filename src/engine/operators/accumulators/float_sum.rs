//! `sum` and `avg` of floats: Neumaier's compensated sum, with NaN and infinities counted beside it so that they too can
//! be taken away again.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use hashbrown::HashMap;

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows};
use crate::engine::operators::columns::as_int64;

pub(crate) fn state_fields() -> Vec<Field> {
    [
        ("sum", DataType::Float64),
        ("compensation", DataType::Float64),
        ("count", DataType::Int64),
        ("nan", DataType::Int64),
        ("infinity", DataType::Int64),
        ("negative_infinity", DataType::Int64),
    ]
    .into_iter()
    .map(|(name, data_type)| Field::new(name, data_type, true))
    .collect()
}

/// How many values of a group are not finite: NaN, infinity, -infinity.
type Specials = [i64; 3];

pub(crate) struct FloatSum {
    sums: Vec<f64>,
    compensations: Vec<f64>,
    /// Finite values only.
    counts: Vec<i64>,
    /// Groups with any.
    specials: HashMap<u32, Specials>,
    average: bool,
    result: DataType,
}

impl FloatSum {
    pub fn new(average: bool, result: &DataType) -> Result<FloatSum> {
        if !matches!(result, DataType::Float32 | DataType::Float64) {
            return Err(Error::Internal(format!("a sum of floats cannot be {result}")));
        }
        Ok(FloatSum {
            sums: Vec::new(),
            compensations: Vec::new(),
            counts: Vec::new(),
            specials: HashMap::new(),
            average,
            result: result.clone(),
        })
    }

    #[inline]
    fn add(&mut self, group: u32, value: f64, weight: i64) {
        if !value.is_finite() {
            let at = if value.is_nan() {
                0
            } else if value > 0.0 {
                1
            } else {
                2
            };
            let mut counts: Specials = [0; 3];
            counts[at] = weight;
            return self.add_specials(group, counts);
        }
        self.add_sum(group, value * weight as f64, 0.0, weight);
    }

    #[inline]
    fn add_sum(&mut self, group: u32, value: f64, compensation: f64, count: i64) {
        let group = group as usize;
        self.counts[group] += count;
        let sum = self.sums[group];
        let total = sum + value;
        let lost = if sum.abs() >= value.abs() {
            (sum - total) + value
        } else {
            (value - total) + sum
        };
        self.sums[group] = total;
        self.compensations[group] += lost + compensation;
    }

    fn add_specials(&mut self, group: u32, counts: Specials) {
        let entry = self.specials.entry(group).or_default();
        for (have, more) in entry.iter_mut().zip(counts) {
            *have += more;
        }
        if *entry == [0; 3] {
            self.specials.remove(&group);
        }
    }

    fn value(&self, group: u32) -> Option<f64> {
        let mut count = self.counts[group as usize];
        let (sum, compensation) = (self.sums[group as usize], self.compensations[group as usize]);
        let mut total = if sum.is_finite() { sum + compensation } else { sum };
        if let Some(&[nan, infinity, negative_infinity]) = self.specials.get(&group) {
            count += nan + infinity + negative_infinity;
            if nan > 0 || (infinity > 0 && negative_infinity > 0) {
                total = f64::NAN;
            } else if infinity > 0 {
                total = f64::INFINITY;
            } else if negative_infinity > 0 {
                total = f64::NEG_INFINITY;
            }
        }
        (count != 0).then(|| if self.average { total / count as f64 } else { total })
    }
}

impl Accumulator for FloatSum {
    fn resize(&mut self, groups: usize) {
        if self.sums.len() < groups {
            self.sums.resize(groups, 0.0);
            self.compensations.resize(groups, 0.0);
            self.counts.resize(groups, 0);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        let widened = cast(&arguments[0], &DataType::Float64)?;
        let values = widened.as_primitive::<Float64Type>();
        for (row, &group) in rows.groups.iter().enumerate() {
            if values.is_valid(row) {
                self.add(group, values.value(row), rows.weight(row));
            }
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        let wrong = || Error::Internal("state of a float sum has another type".into());
        let sums = states[0].as_primitive_opt::<Float64Type>().ok_or_else(wrong)?;
        let compensations = states[1].as_primitive_opt::<Float64Type>().ok_or_else(wrong)?;
        let counts = as_int64(&states[2])?;
        let specials = [as_int64(&states[3])?, as_int64(&states[4])?, as_int64(&states[5])?];
        for (row, &group) in groups.iter().enumerate() {
            self.add_sum(group, sums.value(row), compensations.value(row), counts.value(row));
            let special = specials.map(|column| column.value(row));
            if special != [0; 3] {
                self.add_specials(group, special);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        let values = groups.iter().map(|&group| self.value(group));
        Ok(match self.result {
            DataType::Float32 => Arc::new(values.map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
            _ => Arc::new(values.collect::<Float64Array>()),
        })
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let floats = |values: &[f64]| -> ArrayRef {
            Arc::new(
                groups
                    .iter()
                    .map(|&group| Some(values[group as usize]))
                    .collect::<Float64Array>(),
            )
        };
        let special = |at: usize| -> ArrayRef {
            let count = |group| self.specials.get(group).map_or(0, |counts| counts[at]);
            Arc::new(groups.iter().map(count).collect::<Int64Array>())
        };
        Ok(vec![
            floats(&self.sums),
            floats(&self.compensations),
            Arc::new(
                groups
                    .iter()
                    .map(|&group| self.counts[group as usize])
                    .collect::<Int64Array>(),
            ),
            special(0),
            special(1),
            special(2),
        ])
    }

    fn reset(&mut self, group: u32) {
        self.sums[group as usize] = 0.0;
        self.compensations[group as usize] = 0.0;
        self.counts[group as usize] = 0;
        self.specials.remove(&group);
    }

    fn clear(&mut self) {
        self.sums.clear();
        self.compensations.clear();
        self.counts.clear();
        self.specials.clear();
    }

    fn memory_bytes(&self) -> usize {
        (self.sums.capacity() + self.compensations.capacity() + self.counts.capacity()) * 8 + self.specials.len() * 40
    }
}
