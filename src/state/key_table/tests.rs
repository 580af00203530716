//! The key table against a `HashMap` of row-format keys, over random keys, removals and batch sizes.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::{cast, concat};
use arrow::datatypes::*;
use proptest::prelude::*;

use super::*;
use crate::state::hash::{hash_columns, hash_rows};

/// One cell, small enough that keys repeat.
type Cell = Option<u8>;

/// A column of `data_type` whose cell `n` is some value that differs for different `n`.
fn column(data_type: &DataType, cells: &[Cell]) -> ArrayRef {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(cells.iter().map(|cell| cell.map(i64::from))));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(
        cells
            .iter()
            .map(|cell| cell.map(|n| "x".repeat(usize::from(n) % 29) + &n.to_string())),
    ));
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary | DataType::Dictionary(_, _) => {
            cast(&texts, data_type).unwrap()
        }
        DataType::FixedSizeBinary(4) => {
            let values = cells.iter().map(|cell| cell.map(|n| u32::from(n).to_be_bytes()));
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 4).unwrap())
        }
        DataType::Struct(fields) => {
            let children = fields.iter().map(|field| column(field.data_type(), cells)).collect();
            let nulls = cells.iter().map(|cell| *cell != Some(3)).collect::<Vec<_>>();
            Arc::new(StructArray::new(fields.clone(), children, Some(nulls.into())))
        }
        DataType::List(_) => {
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(cells.iter().map(
                |cell| cell.map(|n| (0..n % 3).map(|_| Some(f64::from(n / 3))).collect::<Vec<_>>()),
            )))
        }
        DataType::Interval(_) => {
            Arc::new(IntervalMonthDayNanoArray::from_iter(cells.iter().map(|cell| {
                cell.map(|n| IntervalMonthDayNanoType::make_value(i32::from(n), -1, i64::from(n) - 9))
            })))
        }
        other => cast(&numbers, other).unwrap(),
    }
}

fn shapes() -> Vec<Vec<DataType>> {
    let row = DataType::Struct(
        vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Utf8, true),
        ]
        .into(),
    );
    let list = DataType::List(Arc::new(Field::new("item", DataType::Float64, true)));
    vec![
        vec![],
        vec![DataType::Int64],
        vec![DataType::UInt8],
        vec![DataType::Float32],
        vec![DataType::Boolean],
        vec![DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))],
        vec![DataType::Utf8],
        vec![DataType::Utf8View],
        vec![DataType::FixedSizeBinary(4)],
        vec![DataType::Decimal128(38, 9)],
        vec![DataType::Interval(IntervalUnit::MonthDayNano)],
        vec![DataType::Dictionary(
            Box::new(DataType::Int32),
            Box::new(DataType::Utf8),
        )],
        vec![DataType::Int32, DataType::Int64],
        vec![DataType::Int16, DataType::LargeUtf8, DataType::Date32],
        vec![DataType::Utf8, DataType::Binary],
        vec![row],
        vec![list, DataType::Boolean],
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Intern(Vec<Vec<Cell>>),
    Remove(Vec<u16>),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    // Half the cells are from a small set, so that rows repeat also over several columns.
    let cell = || prop_oneof![1 => Just(None), 4 => (0..4u8).prop_map(Some), 4 => any::<u8>().prop_map(Some)];
    prop_oneof![
        8 => prop::collection::vec(prop::collection::vec(cell(), 3), 0..150).prop_map(Step::Intern),
        4 => prop::collection::vec(any::<u16>(), 0..80).prop_map(Step::Remove),
        1 => Just(Step::Clear),
    ]
}

/// What the table should hold: the key as cells, by group.
#[derive(Default)]
struct Model {
    groups: HashMap<Vec<String>, u32>,
}

fn displayed(columns: &[ArrayRef], row: usize) -> Vec<String> {
    columns
        .iter()
        .map(|column| {
            if column.is_null(row) {
                "NULL".into()
            } else {
                format!(
                    "{:?}",
                    arrow::util::display::array_value_to_string(column, row).unwrap()
                )
            }
        })
        .collect()
}

impl Model {
    fn intern(&mut self, table: &mut KeyTable, types: &[DataType], rows: &[Vec<Cell>]) {
        let columns: Vec<ArrayRef> = types
            .iter()
            .enumerate()
            .map(|(index, data_type)| column(data_type, &rows.iter().map(|row| row[index]).collect::<Vec<_>>()))
            .collect();
        let mut hashes = Vec::new();
        hash_rows(&columns, rows.len(), &mut hashes);
        let mut before = Vec::new();
        table.lookup(&columns, &hashes, &mut before);
        let mut groups = Vec::new();
        table.intern(&columns, &hashes, &mut groups);
        let mut new = Vec::new();
        for row in 0..rows.len() {
            let key = displayed(&columns, row);
            assert_eq!(before[row], self.groups.get(&key).copied().filter(|g| !new.contains(g)));
            let group = groups[row];
            assert_eq!(table.hash_of(group), hashes[row]);
            match self.groups.get(&key) {
                Some(expected) => assert_eq!(group, *expected, "{key:?}"),
                None => {
                    assert!(
                        !self.groups.values().any(|used| *used == group),
                        "group {group} is in use"
                    );
                    new.push(group);
                    self.groups.insert(key, group);
                }
            }
        }
        assert_eq!(table.new_groups(), new);
    }

    fn remove(&mut self, table: &mut KeyTable, picks: &[u16]) {
        for pick in picks {
            let mut live: Vec<_> = self.groups.iter().map(|(key, group)| (*group, key.clone())).collect();
            live.sort();
            if let Some((group, key)) = live.get(usize::from(*pick) % live.len().max(1)) {
                table.remove(*group);
                assert!(!table.is_live(*group));
                table.remove(*group);
                self.groups.remove(key);
            }
        }
    }

    fn check(&self, table: &KeyTable, types: &[DataType]) {
        assert_eq!(table.len(), self.groups.len());
        let live: Vec<u32> = table.live_groups().collect();
        let keys = table.gather_keys(&live);
        assert_eq!(
            keys.iter().map(|key| key.data_type().clone()).collect::<Vec<_>>(),
            types
        );
        for (row, group) in live.iter().enumerate() {
            assert_eq!(self.groups.get(&displayed(&keys, row)), Some(group));
        }
        assert!(live.iter().all(|group| (*group as usize) < table.capacity_ids()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn behaves_like_a_map(shape in prop::sample::select(shapes()), steps in prop::collection::vec(step(), 1..12)) {
        let mut table = KeyTable::new(&shape).unwrap();
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Intern(rows) => model.intern(&mut table, &shape, rows),
                Step::Remove(picks) => model.remove(&mut table, picks),
                Step::Clear => {
                    table.clear();
                    model = Model::default();
                    prop_assert_eq!(table.capacity_ids(), 0);
                }
            }
            model.check(&table, &shape);
        }
    }
}

fn interned(table: &mut KeyTable, columns: &[ArrayRef]) -> Vec<u32> {
    let (mut hashes, mut groups) = (Vec::new(), Vec::new());
    hash_columns(columns, &mut hashes);
    table.intern(columns, &hashes, &mut groups);
    groups
}

#[test]
fn growth_keeps_every_key_of_both_forms() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..300_000).map(|n| n * 7919)));
    let texts = cast(&numbers, &DataType::Utf8).unwrap();
    for columns in [
        vec![Arc::clone(&numbers)],
        vec![Arc::clone(&texts)],
        vec![numbers, texts],
    ] {
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let mut table = KeyTable::new(&types).unwrap();
        let first = interned(&mut table, &columns);
        assert_eq!(first, (0..300_000).collect::<Vec<u32>>());
        assert_eq!(interned(&mut table, &columns), first);
        assert!(table.new_groups().is_empty());
        for (gathered, original) in table.gather_keys(&first).iter().zip(&columns) {
            assert_eq!(gathered, original);
        }
    }
}

#[test]
fn zeros_are_one_key_and_so_are_nans() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, 1.0]));
    let mut table = KeyTable::new(&[DataType::Float64]).unwrap();
    assert_eq!(interned(&mut table, &[Arc::clone(&floats)]), [0, 0, 1, 1, 2]);
    let item = Arc::new(Field::new("item", DataType::Float64, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1, 1, 1, 1]);
    let lists: ArrayRef = Arc::new(ListArray::new(Arc::clone(&item), offsets, floats, None));
    let mut table = KeyTable::new(&[DataType::List(item)]).unwrap();
    assert_eq!(interned(&mut table, &[lists]), [0, 0, 1, 1, 2]);
}

#[test]
fn removed_ids_are_given_again_and_to_nobody_twice() {
    let mut table = KeyTable::new(&[DataType::Utf8]).unwrap();
    let texts = |range: std::ops::Range<u32>| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            range.map(|n| format!("a rather long key {n}")),
        ))
    };
    interned(&mut table, &[texts(0..1000)]);
    for group in (0..1000).step_by(2) {
        table.remove(group);
    }
    let again = interned(&mut table, &[texts(1000..1600)]);
    assert_eq!(again.iter().collect::<HashSet<_>>().len(), 600);
    assert_eq!(table.capacity_ids(), 1100);
    assert_eq!(table.len(), 1100);
    let odd: Vec<u32> = (1..1000).step_by(2).collect();
    let kept = table.gather_keys(&odd);
    assert_eq!(kept[0].as_string::<i32>().value(0), "a rather long key 1");
}

#[test]
fn slices_and_concatenations_meet() {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(1)]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("a")]));
    let mut table = KeyTable::new(&[DataType::Int32, DataType::Utf8]).unwrap();
    let twice: Vec<ArrayRef> = [&numbers, &texts]
        .iter()
        .map(|a| concat(&[a.as_ref(), &a.slice(1, 3)]).unwrap())
        .collect();
    assert_eq!(interned(&mut table, &twice), [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(interned(&mut table, &[numbers.slice(1, 2), texts.slice(1, 2)]), [1, 2]);
}

#[test]
fn types_without_equality_are_refused() {
    let map = DataType::Map(
        Arc::new(Field::new(
            "entries",
            DataType::Struct(
                vec![
                    Field::new("keys", DataType::Utf8, false),
                    Field::new("values", DataType::Utf8, true),
                ]
                .into(),
            ),
            false,
        )),
        false,
    );
    if let Err(error) = KeyTable::new(&[map]) {
        assert!(matches!(error, Error::UnsupportedKey { .. }));
    }
}
