//! Filter, project, unnest, union.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use datafusion::logical_expr::Operator as BinaryOperator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr, Column, lit};

use crate::engine::graph::{OperatorSpec, StreamShape, UnnestColumn, UnnestSpec};
use crate::engine::message::Chunk;
use crate::engine::operator::Output;
use crate::engine::operators::build;
use crate::error::{Report, SqlState};
use crate::testing::aggregate_specs::{context, schema, shape};
use crate::testing::operator_harness::{Harness, describe, lines};

const INT: DataType = DataType::Int64;

fn two_columns() -> StreamShape {
    shape(schema(&[("a", INT), ("b", INT)]), false)
}

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

fn binary(
    left: Arc<dyn PhysicalExpr>,
    operator: BinaryOperator,
    right: Arc<dyn PhysicalExpr>,
) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, operator, right))
}

#[test]
fn filter_keeps_what_is_true_with_its_weight() {
    let predicate = binary(column("a", 0), BinaryOperator::Gt, lit(3i64));
    let spec = OperatorSpec::Filter { predicate };
    let mut harness = Harness::new(spec, two_columns(), two_columns(), context(0, 1), None);
    assert_eq!(
        harness.run("+ 4 1\n- 5 2\n+ 3 0\n+ null 1\nW 5"),
        lines("+ 4 1\n- 5 2\nW 5")
    );
    assert_eq!(harness.run("+ 1 1"), "");
}

#[test]
fn project_computes_and_passes_columns() {
    let sum = binary(column("a", 0), BinaryOperator::Plus, column("b", 1));
    let spec = OperatorSpec::Project {
        expressions: vec![column("b", 1), sum, lit(7i64)],
    };
    let output = shape(schema(&[("b", INT), ("s", INT), ("c", INT)]), false);
    let mut harness = Harness::new(spec, two_columns(), output, context(0, 1), None);
    assert_eq!(harness.run("+ 4 1\n- 5 null"), lines("+ 1 5 7\n- null null 7"));
}

#[test]
fn errors_in_rows_have_codes_and_guards_hold() {
    let quotient = binary(column("a", 0), BinaryOperator::Divide, column("b", 1));
    let output = shape(schema(&[("q", INT)]), false);
    let spec = OperatorSpec::Project {
        expressions: vec![Arc::clone(&quotient)],
    };
    let mut harness = Harness::new(spec, two_columns(), output.clone(), context(0, 1), None);
    let error = harness.try_run("+ 1 0").unwrap_err();
    assert_eq!(
        (error.code(), error.to_string()),
        (SqlState::DIVISION_BY_ZERO, "division by zero".into())
    );
    let is_zero = binary(column("b", 1), BinaryOperator::Eq, lit(0i64));
    let guarded = CaseExpr::try_new(None, vec![(is_zero, lit(-1i64))], Some(quotient)).unwrap();
    let spec = OperatorSpec::Project {
        expressions: vec![Arc::new(guarded)],
    };
    let mut harness = Harness::new(spec, two_columns(), output, context(0, 1), None);
    assert_eq!(harness.run("+ 6 0\n+ 6 2"), lines("+ -1\n+ 3"));
}

#[test]
fn unnest_walks_lists_together() {
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), Some(2), None]),
        None,
        Some(vec![]),
        Some(vec![Some(9)]),
    ]);
    let others = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(10)]),
        Some(vec![Some(20), Some(21)]),
        Some(vec![]),
        None,
    ]);
    let pair: Fields = vec![Field::new("x", INT, true)].into();
    let structs = StructArray::new(
        pair,
        vec![Arc::new(Int64Array::from(vec![5, 6, 7, 8])) as ArrayRef],
        None,
    );
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("l", Arc::new(lists) as ArrayRef, true),
        ("m", Arc::new(others) as ArrayRef, true),
        ("s", Arc::new(structs) as ArrayRef, true),
    ])
    .unwrap();
    let input = shape(rows.schema(), true);
    let output = shape(schema(&[("l", INT), ("m", INT), ("x", INT)]), true);
    for (preserve_nulls, extra) in [(false, ""), (true, "+ null null 7\n")] {
        let spec = OperatorSpec::Unnest(UnnestSpec {
            columns: vec![
                UnnestColumn::List { input: 0, depth: 1 },
                UnnestColumn::List { input: 1, depth: 1 },
                UnnestColumn::StructField { input: 2, field: 0 },
            ],
            preserve_nulls,
        });
        let mut unnest = build(&spec, Some(&input), &output, &context(0, 1)).unwrap();
        let mut collected = Output::default();
        unnest.process(0, Chunk::insert(rows.clone()), &mut collected).unwrap();
        let expected = format!(
            "{}{extra}+ 9 null 8\n",
            lines("+ 1 10 5\n+ 2 null 5\n+ null null 5\n+ null 20 6\n+ null 21 6")
        );
        assert_eq!(describe(&mut collected), expected);
    }
}

#[test]
fn unnest_takes_off_several_levels() {
    let inner = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), Some(2)]),
        Some(vec![Some(3)]),
        Some(vec![]),
    ]);
    let item = Arc::new(Field::new_list_field(inner.data_type_of(), true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([2, 1]);
    let outer = ListArray::new(item, offsets, Arc::new(inner), None);
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("l", Arc::new(outer) as ArrayRef, true),
        ("k", Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef, true),
    ])
    .unwrap();
    let spec = OperatorSpec::Unnest(UnnestSpec {
        columns: vec![
            UnnestColumn::List { input: 0, depth: 2 },
            UnnestColumn::Repeat { input: 1 },
        ],
        preserve_nulls: false,
    });
    let output = shape(schema(&[("l", INT), ("k", INT)]), true);
    let mut unnest = build(&spec, Some(&shape(rows.schema(), true)), &output, &context(0, 1)).unwrap();
    let mut collected = Output::default();
    unnest.process(0, Chunk::insert(rows), &mut collected).unwrap();
    assert_eq!(describe(&mut collected), lines("+ 1 7\n+ 2 7\n+ 3 7"));
}

trait TypeOf {
    fn data_type_of(&self) -> DataType;
}

impl TypeOf for ListArray {
    fn data_type_of(&self) -> DataType {
        arrow::array::Array::data_type(self).clone()
    }
}

#[test]
fn union_passes_in_its_own_schema() {
    let output = shape(schema(&[("x", INT), ("y", INT)]), false);
    let mut harness = Harness::new(OperatorSpec::Union, two_columns(), output, context(0, 1), None);
    assert_eq!(harness.run("- 1 2"), lines("- 1 2"));
}

#[test]
fn a_union_without_columns_counts_rows_that_carry_some() {
    let output = shape(schema(&[]), false);
    let mut harness = Harness::new(OperatorSpec::Union, two_columns(), output, context(0, 1), None);
    assert_eq!(harness.run("- 1 2").trim(), "-");
}
