//! GROUPING SETS: one aggregate a set over the same prepared rows, put together by a union.
//!
//! Each set is as if it stood alone: it has its own exchange and local aggregation, the empty set gives its row over no
//! rows too, and equal sets share one aggregate whose rows come once for each. Before the union a Project makes the keys
//! that are not in the set NULL and writes the number of the set beside them, so that a NULL of the data is told apart.
//!
//! The result has no unique key: its keys may be NULL for either reason.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};

use crate::engine::graph::AggregateSpec;
use crate::planner::bind::positions::SourceText;
use crate::planner::error::Result;
use crate::planner::physical::aggregate::Prepared;
use crate::planner::physical::{Lowering, Stream};
use crate::planner::rewrites::grouping_sets::{GroupingSets, KeySet};

/// What an aggregate groups by, and the columns that it is to give.
pub(super) struct Grouping<'a> {
    pub keys: &'a [Expr],
    pub sets: Option<&'a GroupingSets>,
    /// Keys, the window if there is one, results; with sets their number in column `id`.
    pub planned: &'a Schema,
    pub id: usize,
}

/// One set on its own.
pub(super) struct OneSet {
    pub prepared: Prepared,
    pub keys: Vec<Expr>,
    pub planned: Schema,
    /// Nothing was lowered of this aggregate before.
    pub is_first: bool,
}

impl Lowering {
    /// Lowers an aggregate by `lower`, for each of its sets.
    pub(super) fn grouped(
        &mut self,
        prepared: Prepared,
        grouping: &Grouping<'_>,
        lower: impl Fn(&mut Lowering, OneSet) -> Result<Stream>,
    ) -> Result<Stream> {
        let Some(sets) = grouping.sets else {
            let only = OneSet {
                prepared,
                keys: grouping.keys.to_vec(),
                planned: grouping.planned.clone(),
                is_first: true,
            };
            return lower(self, only);
        };
        let mut streams = Vec::with_capacity(sets.sets.len());
        for (index, set) in sets.sets.iter().enumerate() {
            let alone = OneSet {
                prepared: Prepared {
                    stream: prepared.stream.clone(),
                    spec: AggregateSpec {
                        keys: set.keys.iter().map(|&key| prepared.spec.keys[key]).collect(),
                        ..prepared.spec.clone()
                    },
                },
                keys: set.keys.iter().map(|&key| grouping.keys[key].clone()).collect(),
                planned: columns_of(grouping, set),
                is_first: index == 0,
            };
            let stream = lower(self, alone)?;
            streams.push(self.with_all_keys(stream, &prepared, grouping, sets, set)?);
        }
        let schema = nullable_keys(&streams[0].shape.schema, grouping.keys.len());
        self.union_of(streams, schema)
    }

    /// The columns of the whole aggregate over those of one set.
    fn with_all_keys(
        &mut self,
        stream: Stream,
        prepared: &Prepared,
        grouping: &Grouping<'_>,
        sets: &GroupingSets,
        set: &KeySet,
    ) -> Result<Stream> {
        let of_set = Arc::clone(&stream.shape.schema);
        let column = |index: usize| Arc::new(Column::new(of_set.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
        let data = |error| SourceText("").error(error);
        let mut next = set.keys.len();
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(grouping.planned.fields().len());
        let mut texts = Vec::with_capacity(grouping.planned.fields().len());
        for (index, field) in grouping.planned.fields().iter().enumerate() {
            let expression = if index == grouping.id {
                let id = ScalarValue::UInt64(Some(set.id)).cast_to(&sets.id_type).map_err(data)?;
                Arc::new(Literal::new(id))
            } else if let Some(key) = prepared.spec.keys.get(index) {
                match set.keys.iter().position(|&of_set| of_set == index) {
                    Some(position) => column(position),
                    None => {
                        let of = prepared.stream.shape.schema.field(*key).data_type();
                        Arc::new(Literal::new(ScalarValue::try_from(of).map_err(data)?))
                    }
                }
            } else {
                next += 1;
                column(next - 1)
            };
            let shown = crate::planner::explain::column_name(field.name());
            texts.push(match expression.downcast_ref::<Literal>() {
                Some(literal) => format!("{} AS {shown}", literal.value()),
                None => shown,
            });
            expressions.push(expression);
        }
        let planned = Arc::new(grouping.planned.clone());
        Ok(self.project(stream, expressions, planned, texts))
    }
}

/// What one set gives of the columns of all.
fn columns_of(grouping: &Grouping<'_>, set: &KeySet) -> Schema {
    let fields = grouping.planned.fields().iter().enumerate();
    let kept = fields.filter(|(index, _)| match index {
        _ if *index == grouping.id => false,
        _ if *index < grouping.keys.len() => set.keys.contains(index),
        _ => true,
    });
    Schema::new(kept.map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>())
}

fn nullable_keys(schema: &SchemaRef, keys: usize) -> SchemaRef {
    let fields = schema.fields().iter().enumerate();
    let fields = fields.map(|(index, field)| match index < keys {
        true => Arc::new(field.as_ref().clone().with_nullable(true)),
        false => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
