//! `min` and `max` over input without retractions: the extreme alone is kept.
//!
//! Order: numbers and times by value with NaN greatest, everything else (text by bytes) by the order-preserving row
//! encoding.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray, PrimitiveArray, downcast_primitive};
use arrow::datatypes::{ArrowPrimitiveType, DataType};

use arrow::row::{RowConverter, SortField};

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows};
use crate::state::canonical::canonical_floats;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Min,
    Max,
}

impl Side {
    /// Whether a value that compares so to the present one replaces it.
    #[inline]
    fn replaces(self, ordering: Ordering) -> bool {
        match self {
            Side::Min => ordering == Ordering::Less,
            Side::Max => ordering == Ordering::Greater,
        }
    }
}

pub(crate) fn build(side: Side, data_type: &DataType) -> Result<Box<dyn Accumulator>> {
    macro_rules! primitive {
        ($t:ty) => {
            Ok(Box::new(PrimitiveExtreme::<$t> {
                values: Vec::new(),
                present: Vec::new(),
                side,
                data_type: data_type.clone(),
            }))
        };
    }
    downcast_primitive! {
        data_type => (primitive),
        _ => Ok(Box::new(EncodedExtreme {
            converter: RowConverter::new(vec![SortField::new(data_type.clone())])?,
            values: Vec::new(),
            bytes: 0,
            side,
            data_type: data_type.clone(),
        }))
    }
}

struct PrimitiveExtreme<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    present: Vec<bool>,
    side: Side,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> PrimitiveExtreme<T> {
    fn gather(&self, groups: &[u32]) -> ArrayRef {
        let values: PrimitiveArray<T> = groups
            .iter()
            .map(|&group| self.present[group as usize].then(|| self.values[group as usize]))
            .collect();
        Arc::new(values.with_data_type(self.data_type.clone()))
    }

    fn add(&mut self, column: &ArrayRef, rows: GroupedRows<'_>) -> Result<()> {
        let column = canonical_floats(column);
        let values = column
            .as_primitive_opt::<T>()
            .ok_or_else(|| Error::Internal(format!("expected {}, found {}", self.data_type, column.data_type())))?;
        for (row, &group) in rows.groups.iter().enumerate() {
            if values.is_null(row) || rows.weight(row) <= 0 {
                continue;
            }
            let value = values.value(row);
            let group = group as usize;
            if !self.present[group] || self.side.replaces(value.compare(self.values[group])) {
                self.present[group] = true;
                self.values[group] = value;
            }
        }
        Ok(())
    }
}

impl<T: ArrowPrimitiveType> Accumulator for PrimitiveExtreme<T> {
    fn resize(&mut self, groups: usize) {
        if self.values.len() < groups {
            self.values.resize(groups, T::Native::default());
            self.present.resize(groups, false);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        self.add(&arguments[0], rows)
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        self.add(&states[0], GroupedRows { groups, weights: None })
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        Ok(self.gather(groups))
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.gather(groups)])
    }

    fn reset(&mut self, group: u32) {
        self.present[group as usize] = false;
    }

    fn clear(&mut self) {
        self.values.clear();
        self.present.clear();
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.present.capacity()
    }
}

struct EncodedExtreme {
    converter: RowConverter,
    values: Vec<Option<Box<[u8]>>>,
    bytes: usize,
    side: Side,
    data_type: DataType,
}

impl EncodedExtreme {
    fn gather(&self, groups: &[u32]) -> Result<ArrayRef> {
        let null = self
            .converter
            .convert_columns(&[arrow::array::new_null_array(&self.data_type, 1)])?;
        let parser = self.converter.parser();
        let rows = groups.iter().map(|&group| match &self.values[group as usize] {
            Some(value) => parser.parse(value),
            None => parser.parse(null.row(0).data()),
        });
        let rows: Vec<_> = rows.collect();
        Ok(self.converter.convert_rows(rows)?.swap_remove(0))
    }

    fn add(&mut self, column: &ArrayRef, rows: GroupedRows<'_>) -> Result<()> {
        let nulls = column.logical_nulls();
        let encoded = self.converter.convert_columns(std::slice::from_ref(column))?;
        for (row, &group) in rows.groups.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) || rows.weight(row) <= 0 {
                continue;
            }
            let encoded_row = encoded.row(row);
            let value = encoded_row.data();
            let present = &mut self.values[group as usize];
            if present
                .as_ref()
                .is_none_or(|present| self.side.replaces(value.cmp(present)))
            {
                self.bytes += value.len();
                self.bytes -= present.as_ref().map_or(0, |present| present.len());
                *present = Some(value.into());
            }
        }
        Ok(())
    }
}

impl Accumulator for EncodedExtreme {
    fn resize(&mut self, groups: usize) {
        if self.values.len() < groups {
            self.values.resize(groups, None);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        self.add(&arguments[0], rows)
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        self.add(&states[0], GroupedRows { groups, weights: None })
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        self.gather(groups)
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.gather(groups)?])
    }

    fn reset(&mut self, group: u32) {
        if let Some(value) = self.values[group as usize].take() {
            self.bytes -= value.len();
        }
    }

    fn clear(&mut self) {
        self.values.clear();
        self.bytes = 0;
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<Option<Box<[u8]>>>() + self.bytes
    }
}
