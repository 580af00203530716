//! `sum` and `avg` of integers and decimals: exact in 128 bits, checked against the result type when read.
//!
//! 2^63 rows of the greatest BIGINT fit, so an integer sum overflows only where its result type does, and only while it
//! does: rows may cancel out. An average of decimals is cut, not rounded, to its scale, as the batch engine does.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, PrimitiveArray, UInt64Array};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, DecimalType, Field, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows};
use crate::engine::operators::columns::{as_int64, out_of_range};

/// The widest decimal of 128 bits.
const STATE_PRECISION: u8 = 38;

pub(crate) fn state_fields(argument: &DataType) -> Vec<Field> {
    vec![
        Field::new("sum", DataType::Decimal128(STATE_PRECISION, scale_of(argument)), true),
        Field::new("count", DataType::Int64, true),
    ]
}

fn scale_of(argument: &DataType) -> i8 {
    match argument {
        DataType::Decimal128(_, scale) => *scale,
        _ => 0,
    }
}

/// What is made of sum and count.
#[derive(Clone, Copy, Debug)]
enum Reading {
    SumInt64,
    SumUInt64,
    SumDecimal { precision: u8, scale: i8 },
    AverageFloat,
    AverageDecimal { precision: u8, scale: i8, factor: i128 },
}

pub(crate) struct ExactSum {
    sums: Vec<i128>,
    counts: Vec<i64>,
    scale: i8,
    reading: Reading,
    label: String,
}

impl ExactSum {
    /// `argument` is the type of the values, or of the state's sum column.
    pub fn new(average: bool, argument: &DataType, result: &DataType, label: &str) -> Result<ExactSum> {
        let scale = scale_of(argument);
        let summable = argument.is_integer() || matches!(argument, DataType::Decimal128(_, _));
        let reading = match (average, result) {
            _ if !summable => return Err(unsupported(label, argument)),
            (false, DataType::Int64) => Reading::SumInt64,
            (false, DataType::UInt64) => Reading::SumUInt64,
            (false, DataType::Decimal128(precision, result_scale)) if *result_scale == scale => Reading::SumDecimal {
                precision: *precision,
                scale,
            },
            (true, DataType::Float64) => Reading::AverageFloat,
            (true, DataType::Decimal128(precision, result_scale)) if *result_scale >= scale => {
                Reading::AverageDecimal {
                    precision: *precision,
                    scale: *result_scale,
                    factor: 10i128
                        .checked_pow(u32::from(result_scale.abs_diff(scale)))
                        .ok_or_else(|| unsupported(label, result))?,
                }
            }
            _ => return Err(unsupported(label, result)),
        };
        Ok(ExactSum {
            sums: Vec::new(),
            counts: Vec::new(),
            scale,
            reading,
            label: label.to_owned(),
        })
    }

    fn add<T: ArrowPrimitiveType>(&mut self, values: &PrimitiveArray<T>, rows: GroupedRows<'_>) -> Result<()>
    where
        T::Native: Into<i128>,
    {
        if values.null_count() == 0 && rows.weights.is_none() {
            for (&group, &value) in rows.groups.iter().zip(values.values()) {
                let sum = &mut self.sums[group as usize];
                *sum = sum
                    .checked_add(value.into())
                    .ok_or_else(|| out_of_range("numeric", &self.label))?;
                self.counts[group as usize] += 1;
            }
            return Ok(());
        }
        for (row, &group) in rows.groups.iter().enumerate() {
            if values.is_valid(row) {
                let weight = rows.weight(row);
                let value: i128 = values.value(row).into();
                let sum = &mut self.sums[group as usize];
                *sum = value
                    .checked_mul(i128::from(weight))
                    .and_then(|product| sum.checked_add(product))
                    .ok_or_else(|| out_of_range("numeric", &self.label))?;
                self.counts[group as usize] += weight;
            }
        }
        Ok(())
    }

    fn read<V>(
        &self,
        groups: &[u32],
        type_name: &str,
        value: impl Fn(i128, i64) -> Option<V>,
    ) -> Result<Vec<Option<V>>> {
        let one = |&group: &u32| {
            let (sum, count) = (self.sums[group as usize], self.counts[group as usize]);
            if count == 0 {
                return Ok(None);
            }
            value(sum, count)
                .map(Some)
                .ok_or_else(|| out_of_range(type_name, &self.label))
        };
        groups.iter().map(one).collect()
    }

    fn read_decimal(
        &self,
        groups: &[u32],
        precision: u8,
        scale: i8,
        value: impl Fn(i128, i64) -> Option<i128>,
    ) -> Result<ArrayRef> {
        let fits = |sum, count| {
            value(sum, count)
                .filter(|&value| Decimal128Type::validate_decimal_precision(value, precision, scale).is_ok())
        };
        let values = self.read(groups, "numeric", fits)?;
        Ok(Arc::new(
            values
                .into_iter()
                .collect::<Decimal128Array>()
                .with_precision_and_scale(precision, scale)?,
        ))
    }
}

fn unsupported(label: &str, data_type: &DataType) -> Error {
    Error::NotSupported {
        what: format!("{label} over {data_type}"),
        hint: Some("Cast the argument to a number.".into()),
    }
}

impl Accumulator for ExactSum {
    fn resize(&mut self, groups: usize) {
        if self.sums.len() < groups {
            self.sums.resize(groups, 0);
            self.counts.resize(groups, 0);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        let values = &arguments[0];
        match values.data_type() {
            DataType::Int8 => self.add(values.as_primitive::<Int8Type>(), rows),
            DataType::Int16 => self.add(values.as_primitive::<Int16Type>(), rows),
            DataType::Int32 => self.add(values.as_primitive::<Int32Type>(), rows),
            DataType::Int64 => self.add(values.as_primitive::<Int64Type>(), rows),
            DataType::UInt8 => self.add(values.as_primitive::<UInt8Type>(), rows),
            DataType::UInt16 => self.add(values.as_primitive::<UInt16Type>(), rows),
            DataType::UInt32 => self.add(values.as_primitive::<UInt32Type>(), rows),
            DataType::UInt64 => self.add(values.as_primitive::<UInt64Type>(), rows),
            DataType::Decimal128(_, _) => self.add(values.as_primitive::<Decimal128Type>(), rows),
            other => Err(unsupported(&self.label, other)),
        }
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        let sums = states[0]
            .as_primitive_opt::<Decimal128Type>()
            .ok_or_else(|| Error::Internal(format!("state of {} has another type", self.label)))?;
        let counts = as_int64(&states[1])?;
        for (row, &group) in groups.iter().enumerate() {
            let sum = &mut self.sums[group as usize];
            *sum = sum
                .checked_add(sums.value(row))
                .ok_or_else(|| out_of_range("numeric", &self.label))?;
            self.counts[group as usize] += counts.value(row);
        }
        Ok(())
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        Ok(match self.reading {
            Reading::SumInt64 => {
                let values = self.read(groups, "bigint", |sum, _| i64::try_from(sum).ok())?;
                Arc::new(Int64Array::from(values))
            }
            Reading::SumUInt64 => {
                let values = self.read(groups, "bigint unsigned", |sum, _| u64::try_from(sum).ok())?;
                Arc::new(UInt64Array::from(values))
            }
            Reading::SumDecimal { precision, scale } => {
                self.read_decimal(groups, precision, scale, |sum, _| Some(sum))?
            }
            Reading::AverageFloat => {
                let unit = 10f64.powi(i32::from(self.scale));
                let values = self.read(groups, "double precision", |sum, count| {
                    Some(sum as f64 / unit / count as f64)
                })?;
                Arc::new(Float64Array::from(values))
            }
            Reading::AverageDecimal {
                precision,
                scale,
                factor,
            } => self.read_decimal(groups, precision, scale, |sum, count| {
                sum.checked_mul(factor)?.checked_div(i128::from(count))
            })?,
        })
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let sums: Decimal128Array = groups.iter().map(|&group| Some(self.sums[group as usize])).collect();
        let counts: Int64Array = groups.iter().map(|&group| self.counts[group as usize]).collect();
        Ok(vec![
            Arc::new(sums.with_precision_and_scale(STATE_PRECISION, self.scale)?),
            Arc::new(counts),
        ])
    }

    fn reset(&mut self, group: u32) {
        self.sums[group as usize] = 0;
        self.counts[group as usize] = 0;
    }

    fn clear(&mut self) {
        self.sums.clear();
        self.counts.clear();
    }

    fn memory_bytes(&self) -> usize {
        self.sums.capacity() * 16 + self.counts.capacity() * 8
    }
}
