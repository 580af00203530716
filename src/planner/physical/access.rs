//! Which parts of a table's columns a plan looks at, so that a source decodes or makes nothing else.
//!
//! Follows columns from the top of a plan down to its scans: through projections, filters and aliases exactly, elsewhere
//! assuming that a column is needed whole. Errs only to that side.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, JoinType, Result};
use datafusion::logical_expr::{Expr, Extension, Join, LogicalPlan, TableScan};

use crate::planner::rewrites::asof_node::AsofJoinNode;
use crate::planner::rewrites::text_literal;
use crate::planner::rewrites::top_n_node::TopNNode;
use crate::planner::rewrites::window_node::WindowAggregateNode;

/// What is needed of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Whole,
    /// Whether it is NULL, and these fields of the struct that it is.
    Fields(BTreeMap<String, Access>),
}

impl Access {
    /// Only whether it is NULL.
    pub fn presence() -> Access {
        Access::Fields(BTreeMap::new())
    }

    pub fn merge(&mut self, other: Access) {
        match (&mut *self, other) {
            (Access::Whole, _) => {}
            (_, Access::Whole) => *self = Access::Whole,
            (Access::Fields(mine), Access::Fields(others)) => {
                for (name, access) in others {
                    match mine.get_mut(&name) {
                        Some(known) => known.merge(access),
                        None => {
                            mine.insert(name, access);
                        }
                    }
                }
            }
        }
    }
}

/// Accesses to the columns of one schema, by index; columns that nobody looks at are missing.
pub type Accesses = BTreeMap<usize, Access>;

pub fn add(accesses: &mut Accesses, column: usize, access: Access) {
    match accesses.get_mut(&column) {
        Some(known) => known.merge(access),
        None => {
            accesses.insert(column, access);
        }
    }
}

/// Calls `found` with every scan of `plan` and what is needed of its table's columns.
pub fn of_plan(plan: &LogicalPlan, found: &mut impl FnMut(&TableScan, Accesses)) -> Result<()> {
    visit(plan, &everything(plan.schema()), found)
}

fn everything(schema: &DFSchema) -> Accesses {
    (0..schema.fields().len())
        .map(|column| (column, Access::Whole))
        .collect()
}

fn visit(plan: &LogicalPlan, needed: &Accesses, found: &mut impl FnMut(&TableScan, Accesses)) -> Result<()> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            found(scan, of_table(scan, needed));
            Ok(())
        }
        LogicalPlan::SubqueryAlias(alias) => visit(&alias.input, needed, found),
        LogicalPlan::Projection(projection) => {
            let mut below = Accesses::new();
            for (index, expr) in projection.expr.iter().enumerate() {
                // A column that nobody needs is computed all the same.
                let access = needed.get(&index).cloned().unwrap_or_else(Access::presence);
                of_expression(expr, access, projection.input.schema(), &mut below)?;
            }
            visit(&projection.input, &below, found)
        }
        LogicalPlan::Filter(filter) => {
            let mut below = needed.clone();
            of_expression(&filter.predicate, Access::Whole, filter.input.schema(), &mut below)?;
            visit(&filter.input, &below, found)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let expressions = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
            visit(
                &aggregate.input,
                &read_by(expressions, aggregate.input.schema())?,
                found,
            )
        }
        LogicalPlan::Join(join) => visit_join(join, needed, found),
        LogicalPlan::Extension(extension) if extension.node.as_any().is::<TopNNode>() => {
            for input in extension.node.inputs() {
                let mut below = read_by(extension.node.expressions().iter(), input.schema())?;
                let columns = input.schema().fields().len();
                for (&column, access) in needed.range(..columns) {
                    add(&mut below, column, access.clone());
                }
                // Every column travels with its row.
                (0..columns).for_each(|column| add(&mut below, column, Access::presence()));
                visit(input, &below, found)?;
            }
            Ok(())
        }
        LogicalPlan::Extension(extension) if extension.node.as_any().is::<AsofJoinNode>() => {
            visit_asof(extension, needed, found)
        }
        LogicalPlan::Extension(extension) if extension.node.as_any().is::<WindowAggregateNode>() => {
            for input in extension.node.inputs() {
                let needed = read_by(extension.node.expressions().iter(), input.schema())?;
                visit(input, &needed, found)?;
            }
            Ok(())
        }
        other => {
            for input in other.inputs() {
                visit(input, &everything(input.schema()), found)?;
            }
            Ok(())
        }
    }
}

/// What is needed of the columns of both sides, and what keys, times and the condition read.
fn visit_asof(extension: &Extension, needed: &Accesses, found: &mut impl FnMut(&TableScan, Accesses)) -> Result<()> {
    let mut first = 0;
    for input in extension.node.inputs() {
        let columns = input.schema().fields().len();
        let mut below = read_by(extension.node.expressions().iter(), input.schema())?;
        for (&column, access) in needed.range(first..first + columns) {
            add(&mut below, column - first, access.clone());
        }
        // Every column travels with its row.
        (0..columns).for_each(|column| add(&mut below, column, Access::presence()));
        visit(input, &below, found)?;
        first += columns;
    }
    Ok(())
}

/// What is needed of the joined rows, and what the condition reads, side by side.
fn visit_join(join: &Join, needed: &Accesses, found: &mut impl FnMut(&TableScan, Accesses)) -> Result<()> {
    let split = join.left.schema().fields().len();
    let only_right = matches!(
        join.join_type,
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
    );
    let (mut left, mut right) = (Accesses::new(), Accesses::new());
    for (&column, access) in needed {
        match column.checked_sub(split) {
            _ if only_right => add(&mut right, column, access.clone()),
            None => add(&mut left, column, access.clone()),
            Some(column) => add(&mut right, column, access.clone()),
        }
    }
    for (one, other) in &join.on {
        of_expression(one, Access::Whole, join.left.schema(), &mut left)?;
        of_expression(other, Access::Whole, join.right.schema(), &mut right)?;
    }
    if let Some(filter) = &join.filter {
        of_expression(filter, Access::Whole, join.left.schema(), &mut left)?;
        of_expression(filter, Access::Whole, join.right.schema(), &mut right)?;
    }
    // Every column travels with its row; a mark is none of theirs.
    for (side, plan) in [(&mut left, &join.left), (&mut right, &join.right)] {
        let columns = plan.schema().fields().len();
        side.retain(|&column, _| column < columns);
        (0..columns).for_each(|column| add(side, column, Access::presence()));
    }
    visit(&join.left, &left, found)?;
    visit(&join.right, &right, found)
}

fn of_table(scan: &TableScan, needed: &Accesses) -> Accesses {
    let mut accesses = Accesses::new();
    for (&column, access) in needed {
        let of_table = match &scan.projection {
            Some(columns) => columns.get(column).copied(),
            None => Some(column),
        };
        if let Some(of_table) = of_table {
            add(&mut accesses, of_table, access.clone());
        }
    }
    accesses
}

fn read_by<'a>(expressions: impl Iterator<Item = &'a Expr>, schema: &DFSchema) -> Result<Accesses> {
    let mut accesses = Accesses::new();
    for expr in expressions {
        of_expression(expr, Access::Whole, schema, &mut accesses)?;
    }
    Ok(accesses)
}

/// Adds what `expr` reads of the columns of `schema`, when `access` is what is needed of its value.
pub fn of_expression(expr: &Expr, access: Access, schema: &DFSchema, accesses: &mut Accesses) -> Result<()> {
    match expr {
        Expr::Alias(alias) => of_expression(&alias.expr, access, schema, accesses),
        Expr::Column(column) => {
            if let Some(index) = index_of(column, schema) {
                add(accesses, index, access);
            }
            Ok(())
        }
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => of_expression(inner, Access::presence(), schema, accesses),
        Expr::ScalarFunction(call) if call.name() == "get_field" => match field_path(&call.args) {
            Some((base, path)) => {
                let access = path.into_iter().rev().fold(access, |inner, name| {
                    Access::Fields(BTreeMap::from([(name.to_owned(), inner)]))
                });
                of_expression(base, access, schema, accesses)
            }
            None => of_children(expr, schema, accesses),
        },
        other => of_children(other, schema, accesses),
    }
}

fn of_children(expr: &Expr, schema: &DFSchema, accesses: &mut Accesses) -> Result<()> {
    use datafusion::common::tree_node::TreeNode;
    expr.apply_children(|child| {
        of_expression(child, Access::Whole, schema, accesses)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// `get_field(base, 'a', 'b')`; `None` when a name is computed.
fn field_path(args: &[Expr]) -> Option<(&Expr, Vec<&str>)> {
    let (base, names) = args.split_first()?;
    let path: Vec<&str> = names.iter().map(text_literal).collect::<Option<_>>()?;
    Some((base, path))
}

fn index_of(column: &Column, schema: &DFSchema) -> Option<usize> {
    schema.maybe_index_of_column(column)
}

/// The field with only what is needed of it. At least one field of a struct stays: its rows have to be counted.
pub fn narrowed(field: &Field, access: &Access) -> Field {
    let (DataType::Struct(fields), Access::Fields(wanted)) = (field.data_type(), access) else {
        return field.clone();
    };
    let mut kept: Vec<FieldRef> = fields
        .iter()
        .filter_map(|inner| Some(narrowed(inner, wanted.get(inner.name())?).into()))
        .collect();
    if kept.is_empty() {
        let narrow = fields.iter().find(|inner| inner.data_type().is_primitive());
        kept.extend(narrow.or(fields.first()).cloned());
    }
    field.clone().with_data_type(DataType::Struct(Fields::from(kept)))
}

/// The column as EXPLAIN shows what is read of it: `bid`, `bid{auction, price}`.
pub fn shown(field: &Field, access: &Access) -> String {
    match (narrowed(field, access).data_type(), field.data_type()) {
        (DataType::Struct(kept), DataType::Struct(all)) if kept != all => {
            let Access::Fields(wanted) = access else {
                return field.name().clone();
            };
            let inner = kept.iter().map(|inner| {
                let whole = all.iter().find(|of_all| of_all.name() == inner.name()).unwrap_or(inner);
                shown(whole, wanted.get(inner.name()).unwrap_or(&Access::Whole))
            });
            format!("{}{{{}}}", field.name(), inner.collect::<Vec<_>>().join(", "))
        }
        _ => field.name().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_struct() -> Field {
        let inner = Fields::from(vec![
            Field::new("x", DataType::Utf8, true),
            Field::new("y", DataType::Int64, true),
        ]);
        let fields = Fields::from(vec![
            Field::new("a", DataType::Utf8, true),
            Field::new("b", DataType::Int64, true),
            Field::new("c", DataType::Struct(inner), true),
        ]);
        Field::new("s", DataType::Struct(fields), true)
    }

    fn fields(names: &[&str]) -> Access {
        Access::Fields(names.iter().map(|name| ((*name).to_owned(), Access::Whole)).collect())
    }

    #[test]
    fn a_struct_is_narrowed_to_what_is_read() {
        let shown_as = |access: &Access| shown(&of_struct(), access);
        assert_eq!(shown_as(&Access::Whole), "s");
        assert_eq!(shown_as(&fields(&["a", "b", "c"])), "s");
        assert_eq!(shown_as(&fields(&["c", "a"])), "s{a, c}");
        // Something has to be there to say whether the struct is: what is cheapest.
        assert_eq!(shown_as(&Access::presence()), "s{b}");
        let nested = Access::Fields(BTreeMap::from([("c".to_owned(), fields(&["x"]))]));
        assert_eq!(shown_as(&nested), "s{c{x}}");
        assert_eq!(
            narrowed(&Field::new("i", DataType::Int64, true), &Access::presence()).data_type(),
            &DataType::Int64
        );
    }

    #[test]
    fn accesses_add_up() {
        let mut access = fields(&["a"]);
        access.merge(Access::presence());
        assert_eq!(access, fields(&["a"]));
        access.merge(Access::Fields(BTreeMap::from([("c".to_owned(), fields(&["x"]))])));
        access.merge(Access::Fields(BTreeMap::from([("c".to_owned(), fields(&["y"]))])));
        assert_eq!(shown(&of_struct(), &access), "s{a, c}");
        access.merge(Access::Whole);
        access.merge(fields(&["b"]));
        assert_eq!(access, Access::Whole);
    }
}
