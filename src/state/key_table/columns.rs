//! Keys by group, one store a key column, in canonical form; comparisons of many rows with many groups at once.
//!
//! Nested keys (structs, lists) are kept as the row format of Arrow, in memory only; their floats are canonical too.

use arrow::array::{Array, ArrayRef, BinaryBuilder, FixedSizeBinaryBuilder};
use arrow::buffer::NullBuffer;
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use crate::state::canonical::{BytesColumn, Canonical, CanonicalKind, canonical, canonical_floats, kind_of};
use crate::state::error::Error;
use crate::state::key_table::arena::Arena;
use crate::state::key_table::bits::Bits;
use crate::state::key_table::slots::prefetch;
use crate::state::key_table::values::{wide_array, word_array};

/// The stored values of one key column.
pub(super) struct KeyColumn {
    data_type: DataType,
    nulls: Bits,
    values: Values,
}

enum Values {
    Words(Vec<u64>),
    Wide(Vec<u128>),
    Bytes(Arena),
    Nested { rows: Arena, converter: RowConverter },
}

/// A column of a batch, ready to be compared and stored.
pub(super) struct InputColumn<'a> {
    nulls: Option<NullBuffer>,
    values: InputValues<'a>,
}

enum InputValues<'a> {
    Words(std::borrow::Cow<'a, [u64]>),
    Wide(Vec<u128>),
    Bytes(BytesColumn<'a>),
    Rows(Rows),
}

impl InputColumn<'_> {
    #[inline(always)]
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }
}

impl KeyColumn {
    pub(super) fn new(data_type: &DataType) -> Result<KeyColumn, Error> {
        if let DataType::Dictionary(_, values) = data_type
            && !can_cast_types(values, data_type)
        {
            return Err(unsupported(data_type));
        }
        let values = match kind_of(data_type) {
            CanonicalKind::Word => Values::Words(Vec::new()),
            CanonicalKind::Wide => Values::Wide(Vec::new()),
            CanonicalKind::Bytes => Values::Bytes(Arena::default()),
            CanonicalKind::Nested => {
                let converter = RowConverter::new(vec![SortField::new(plain_type(data_type).clone())])
                    .map_err(|_| unsupported(data_type))?;
                Values::Nested {
                    rows: Arena::default(),
                    converter,
                }
            }
        };
        Ok(KeyColumn {
            data_type: data_type.clone(),
            nulls: Bits::default(),
            values,
        })
    }

    /// Reads `array` (a plain one, not a dictionary) for comparing with this column.
    pub(super) fn bind<'a>(&self, array: &'a ArrayRef) -> InputColumn<'a> {
        assert_eq!(
            array.data_type(),
            plain_type(&self.data_type),
            "a key column has the type that the table was made with"
        );
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        let values = match (&self.values, canonical(array.as_ref())) {
            (Values::Nested { converter, .. }, _) => {
                let array = canonical_floats(array);
                let rows = converter
                    .convert_columns(&[array])
                    .expect("the converter was made for this type");
                return InputColumn {
                    // The row format says by itself which values are NULL.
                    nulls: None,
                    values: InputValues::Rows(rows),
                };
            }
            (_, Canonical::Words(words)) => InputValues::Words(words),
            (_, Canonical::Wide(wide)) => InputValues::Wide(wide),
            (_, Canonical::Bytes(bytes)) => InputValues::Bytes(bytes),
            (_, Canonical::Nested) => unreachable!("nested columns are stored as rows"),
        };
        InputColumn { nulls, values }
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, group: u32) {
        match &self.values {
            Values::Words(words) => prefetch(words.as_ptr().wrapping_add(group as usize)),
            Values::Wide(wide) => prefetch(wide.as_ptr().wrapping_add(group as usize)),
            Values::Bytes(arena) | Values::Nested { rows: arena, .. } => prefetch(arena.view_place(group)),
        }
    }

    /// Clears `equal[i]` where the key of `groups[i]` is not that of row `first + i`. Entries already cleared are
    /// skipped, their groups may be anything.
    pub(super) fn compare_block(&self, input: &InputColumn<'_>, first: usize, groups: &[u32], equal: &mut [bool]) {
        if input.nulls.is_some() || self.nulls.any() {
            for (at, equal) in equal.iter_mut().enumerate() {
                *equal = *equal && self.equals(groups[at], input, first + at);
            }
            return;
        }
        match (&self.values, &input.values) {
            (Values::Words(stored), InputValues::Words(words)) => {
                for (at, equal) in equal.iter_mut().enumerate() {
                    *equal = *equal && stored[groups[at] as usize] == words[first + at];
                }
            }
            (Values::Bytes(arena), InputValues::Bytes(bytes)) => {
                for (at, equal) in equal.iter_mut().enumerate() {
                    *equal = *equal && arena.equals(groups[at], bytes.get(first + at));
                }
            }
            _ => {
                for (at, equal) in equal.iter_mut().enumerate() {
                    *equal = *equal && self.equals(groups[at], input, first + at);
                }
            }
        }
    }

    #[inline]
    pub(super) fn equals(&self, group: u32, input: &InputColumn<'_>, row: usize) -> bool {
        let null = input.is_null(row);
        if null || self.nulls.any() {
            let stored_null = self.nulls.get(group as usize);
            if null || stored_null {
                return null && stored_null;
            }
        }
        match (&self.values, &input.values) {
            (Values::Words(stored), InputValues::Words(words)) => stored[group as usize] == words[row],
            (Values::Wide(stored), InputValues::Wide(wide)) => stored[group as usize] == wide[row],
            (Values::Bytes(arena), InputValues::Bytes(bytes)) => arena.equals(group, bytes.get(row)),
            (Values::Nested { rows, .. }, InputValues::Rows(input)) => rows.equals(group, input.row(row).as_ref()),
            _ => false,
        }
    }

    /// Stores row `row` as the key of `group`, which is free or the next.
    pub(super) fn set(&mut self, group: u32, input: &InputColumn<'_>, row: usize) {
        let null = input.is_null(row);
        self.nulls.set(group as usize, null);
        match (&mut self.values, &input.values) {
            (Values::Words(stored), InputValues::Words(words)) => put(stored, group, if null { 0 } else { words[row] }),
            (Values::Wide(stored), InputValues::Wide(wide)) => put(stored, group, if null { 0 } else { wide[row] }),
            (Values::Bytes(arena), InputValues::Bytes(bytes)) => {
                arena.set(group, if null { &[] } else { bytes.get(row) })
            }
            (Values::Nested { rows, .. }, InputValues::Rows(input)) => rows.set(group, input.row(row).as_ref()),
            _ => unreachable!("input was bound to this column"),
        }
    }

    pub(super) fn remove(&mut self, group: u32) {
        match &mut self.values {
            Values::Bytes(arena) | Values::Nested { rows: arena, .. } => arena.remove(group),
            Values::Words(_) | Values::Wide(_) => {}
        }
    }

    /// The keys of `groups` in the column's own type.
    pub(super) fn gather(&self, groups: &[u32]) -> ArrayRef {
        let nulls = self.nulls.gather(groups);
        let plain = plain_type(&self.data_type);
        let array = match &self.values {
            Values::Words(words) => word_array(plain, groups.iter().map(|group| words[*group as usize]), nulls),
            Values::Wide(wide) => wide_array(plain, groups.iter().map(|group| wide[*group as usize]), nulls),
            Values::Bytes(arena) => gather_bytes(arena, plain, groups, nulls.as_ref()),
            Values::Nested { rows, converter } => gather_rows(rows, converter, groups),
        };
        if array.data_type() == &self.data_type {
            array
        } else {
            cast(&array, &self.data_type).expect("checked when the table was made")
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.nulls.memory_bytes()
            + match &self.values {
                Values::Words(words) => words.capacity() * 8,
                Values::Wide(wide) => wide.capacity() * 16,
                Values::Bytes(arena) => arena.memory_bytes(),
                Values::Nested { rows, converter } => rows.memory_bytes() + converter.size(),
            }
    }
}

fn unsupported(data_type: &DataType) -> Error {
    Error::UnsupportedKey {
        data_type: data_type.to_string(),
    }
}

/// The type of a dictionary's values; other types as they are.
pub(super) fn plain_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        other => other,
    }
}

fn put<T>(values: &mut Vec<T>, group: u32, value: T) {
    if group as usize == values.len() {
        values.push(value);
    } else {
        values[group as usize] = value;
    }
}

fn gather_bytes(arena: &Arena, data_type: &DataType, groups: &[u32], nulls: Option<&NullBuffer>) -> ArrayRef {
    let mut inline = [0; 16];
    if let DataType::FixedSizeBinary(width) = data_type {
        let mut builder = FixedSizeBinaryBuilder::with_capacity(groups.len(), *width);
        for (at, group) in groups.iter().enumerate() {
            if nulls.is_some_and(|nulls| nulls.is_null(at)) {
                builder.append_null();
            } else {
                builder
                    .append_value(arena.get(*group, &mut inline))
                    .expect("stored with this width");
            }
        }
        return std::sync::Arc::new(builder.finish());
    }
    let mut builder = BinaryBuilder::with_capacity(groups.len(), groups.len() * 8);
    for (at, group) in groups.iter().enumerate() {
        if nulls.is_some_and(|nulls| nulls.is_null(at)) {
            builder.append_null();
        } else {
            builder.append_value(arena.get(*group, &mut inline));
        }
    }
    let binary: ArrayRef = std::sync::Arc::new(builder.finish());
    cast(&binary, data_type).expect("what was stored as text is text")
}

fn gather_rows(rows: &Arena, converter: &RowConverter, groups: &[u32]) -> ArrayRef {
    let parser = converter.parser();
    let mut inline = vec![[0; 16]; groups.len()];
    let parsed = groups
        .iter()
        .zip(inline.iter_mut())
        .map(|(group, inline)| parser.parse(rows.get(*group, inline)))
        .collect::<Vec<_>>();
    let mut columns = converter.convert_rows(parsed).expect("rows came from this converter");
    columns.swap_remove(0)
}
