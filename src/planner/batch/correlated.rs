//! Correlated subqueries that cannot be turned into joins: evaluated once for each different row of the outer query.
//!
//! Catalog queries of clients are full of them (`SELECT (SELECT .. WHERE a = outer.x AND b <> outer.y), ..`), over tables of
//! some hundred rows. The outer query's input is collected, each subquery is run with the row's values in place of its
//! outer columns, and the answers become columns of a table in memory.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Subquery};
use datafusion::physical_plan::collect;
use futures::future::BoxFuture;

/// Rows that a scalar subquery may be evaluated for.
const OUTER_ROWS_MAX: usize = 100_000;

/// Whether any expression of `plan` is a correlated subquery.
pub fn is_in(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found = found || expr.exists(|inner| Ok(correlated(inner).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })
    });
    walked.is_ok() && found
}

/// The subquery of a scalar or EXISTS expression that uses columns of the outer query.
fn correlated(expr: &Expr) -> Option<&Subquery> {
    let subquery = match expr {
        Expr::ScalarSubquery(subquery) => subquery,
        Expr::Exists(exists) => &exists.subquery,
        _ => return None,
    };
    (!subquery.outer_ref_columns.is_empty()).then_some(subquery)
}

/// The plan with every correlated subquery answered.
pub fn answer(state: &SessionState, plan: LogicalPlan) -> BoxFuture<'_, Result<LogicalPlan>> {
    Box::pin(async move {
        let mut inputs = Vec::new();
        for input in plan.inputs() {
            inputs.push(answer(state, input.clone()).await?);
        }
        let plan = match inputs.is_empty() {
            true => plan,
            false => plan.with_new_exprs(plan.expressions(), inputs)?,
        };
        let mut subqueries: Vec<Expr> = Vec::new();
        plan.apply_expressions(|expr| {
            expr.apply(|inner| {
                if correlated(inner).is_some() && !subqueries.contains(inner) {
                    subqueries.push(inner.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        if subqueries.is_empty() {
            return Ok(plan);
        }
        answer_node(state, plan, subqueries).await
    })
}

async fn answer_node(state: &SessionState, plan: LogicalPlan, subqueries: Vec<Expr>) -> Result<LogicalPlan> {
    let (LogicalPlan::Projection(_) | LogicalPlan::Filter(_)) = &plan else {
        return Err(DataFusionError::NotImplemented(
            "a correlated subquery is only supported in the select list and in WHERE".into(),
        ));
    };
    let input = plan.inputs()[0].clone();
    let physical = state.create_physical_plan(&input).await?;
    let batches = collect(physical, state.task_ctx()).await?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows > OUTER_ROWS_MAX {
        return Err(DataFusionError::ResourcesExhausted(format!(
            "a correlated subquery would have to be evaluated for {rows} rows"
        )));
    }
    let schema = Arc::clone(input.schema());
    let mut answers = Vec::with_capacity(subqueries.len());
    for subquery in &subqueries {
        answers.push(answers_of(state, subquery, &schema, &batches).await?);
    }
    let answered = with_answers(&input, &batches, &subqueries, answers)?;
    replace(plan, answered, &subqueries)
}

/// One value for each row of `batches`.
async fn answers_of(
    state: &SessionState,
    expr: &Expr,
    schema: &DFSchema,
    batches: &[RecordBatch],
) -> Result<Vec<ScalarValue>> {
    let Some(subquery) = correlated(expr) else {
        return Err(DataFusionError::Internal("a subquery that is not correlated".into()));
    };
    let mut columns: Vec<usize> = Vec::new();
    for outer in &subquery.outer_ref_columns {
        if let Expr::OuterReferenceColumn(_, column) = outer
            && let Some(index) = schema.maybe_index_of_column(column)
            && !columns.contains(&index)
        {
            columns.push(index);
        }
    }
    let mut known: HashMap<Vec<ScalarValue>, ScalarValue> = HashMap::new();
    let mut answers = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = columns
                .iter()
                .map(|&column| ScalarValue::try_from_array(batch.column(column), row))
                .collect::<Result<Vec<_>>>()?;
            let answer = match known.get(&values) {
                Some(answer) => answer.clone(),
                None => {
                    let answer = evaluate(state, expr, subquery, schema, &columns, &values).await?;
                    known.insert(values, answer.clone());
                    answer
                }
            };
            answers.push(answer);
        }
    }
    Ok(answers)
}

async fn evaluate(
    state: &SessionState,
    expr: &Expr,
    subquery: &Subquery,
    schema: &DFSchema,
    columns: &[usize],
    values: &[ScalarValue],
) -> Result<ScalarValue> {
    let plan = with_values(subquery.subquery.as_ref().clone(), schema, columns, values)?;
    let plan = match is_in(&plan) {
        true => answer(state, plan).await?,
        false => plan,
    };
    let physical = state.create_physical_plan(&plan).await?;
    let batches = collect(physical, state.task_ctx()).await?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if let Expr::Exists(exists) = expr {
        return Ok(ScalarValue::Boolean(Some((rows > 0) != exists.negated)));
    }
    if rows > 1 {
        return Err(DataFusionError::External(Box::new(
            crate::planner::error::Error::query(
                crate::error::SqlState::CARDINALITY_VIOLATION,
                "more than one row returned by a subquery used as an expression",
            ),
        )));
    }
    match batches.iter().find(|batch| batch.num_rows() > 0) {
        Some(batch) => ScalarValue::try_from_array(batch.column(0), 0),
        None => ScalarValue::try_from(plan.schema().field(0).data_type()),
    }
}

/// The subquery with the row's values for its outer columns.
fn with_values(plan: LogicalPlan, schema: &DFSchema, columns: &[usize], values: &[ScalarValue]) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let replaced = expr.transform_up(|inner| {
                let value = match &inner {
                    Expr::OuterReferenceColumn(_, column) => schema
                        .maybe_index_of_column(column)
                        .and_then(|index| columns.iter().position(|candidate| *candidate == index))
                        .map(|position| values[position].clone()),
                    Expr::ScalarSubquery(subquery) => {
                        return Ok(Transformed::yes(Expr::ScalarSubquery(without_outer(subquery.clone()))));
                    }
                    _ => None,
                };
                Ok(match value {
                    Some(value) => Transformed::yes(Expr::Literal(value, None)),
                    None => Transformed::no(inner),
                })
            })?;
            Ok(replaced.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

/// Recounts what a nested subquery still takes from outside.
fn without_outer(mut subquery: Subquery) -> Subquery {
    subquery.outer_ref_columns = subquery.subquery.all_out_ref_exprs();
    subquery
}

fn answer_column(position: usize) -> String {
    format!("\u{1}answer{position}")
}

/// The collected rows with a column for each subquery, as a plan with the input's columns.
fn with_answers(
    input: &LogicalPlan,
    batches: &[RecordBatch],
    subqueries: &[Expr],
    answers: Vec<Vec<ScalarValue>>,
) -> Result<LogicalPlan> {
    let schema = input.schema();
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (index, field) in schema.fields().iter().enumerate() {
        fields.push(
            field
                .as_ref()
                .clone()
                .with_name(format!("\u{1}{index}"))
                .with_nullable(true),
        );
        let parts: Vec<ArrayRef> = batches.iter().map(|batch| Arc::clone(batch.column(index))).collect();
        let parts: Vec<&dyn arrow::array::Array> = parts.iter().map(AsRef::as_ref).collect();
        arrays.push(match parts.is_empty() {
            true => arrow::array::new_empty_array(field.data_type()),
            false => arrow::compute::concat(&parts)?,
        });
    }
    for (position, (expr, values)) in subqueries.iter().zip(answers).enumerate() {
        let of = match correlated(expr) {
            Some(subquery) if matches!(expr, Expr::ScalarSubquery(_)) => {
                subquery.subquery.schema().field(0).data_type().clone()
            }
            _ => DataType::Boolean,
        };
        fields.push(Field::new(answer_column(position), of.clone(), true));
        arrays.push(match values.is_empty() {
            true => arrow::array::new_empty_array(&of),
            false => ScalarValue::iter_to_array(values)?,
        });
    }
    let table_schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&table_schema), arrays)?;
    let table = MemTable::try_new(table_schema, vec![vec![batch]])?;
    let mut columns: Vec<Expr> = schema
        .iter()
        .enumerate()
        .map(|(index, (qualifier, field))| {
            Expr::Column(Column::new(Some("\u{1}rows"), format!("\u{1}{index}")))
                .alias_qualified(qualifier.cloned(), field.name())
        })
        .collect();
    columns.extend((0..subqueries.len()).map(|position| {
        Expr::Column(Column::new(Some("\u{1}rows"), answer_column(position))).alias(answer_column(position))
    }));
    LogicalPlanBuilder::scan("\u{1}rows", provider_as_source(Arc::new(table)), None)?
        .project(columns)?
        .build()
}

/// The node over the collected rows, with the answers instead of the subqueries.
fn replace(plan: LogicalPlan, answered: LogicalPlan, subqueries: &[Expr]) -> Result<LogicalPlan> {
    let answer_of = |expr: Expr| -> Result<Transformed<Expr>> {
        Ok(match subqueries.iter().position(|subquery| *subquery == expr) {
            Some(position) => Transformed::yes(Expr::Column(Column::new_unqualified(answer_column(position)))),
            None => Transformed::no(expr),
        })
    };
    match plan {
        LogicalPlan::Projection(projection) => {
            let schema = Arc::clone(&projection.schema);
            let mut columns = Vec::with_capacity(projection.expr.len());
            for (expr, (qualifier, field)) in projection.expr.into_iter().zip(schema.iter()) {
                let replaced = expr.transform_down(answer_of)?;
                columns.push(match replaced.transformed {
                    true => replaced
                        .data
                        .unalias()
                        .alias_qualified(qualifier.cloned(), field.name()),
                    false => replaced.data,
                });
            }
            LogicalPlanBuilder::from(answered).project(columns)?.build()
        }
        LogicalPlan::Filter(filter) => {
            let columns: Vec<Expr> = filter
                .input
                .schema()
                .iter()
                .map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))))
                .collect();
            let predicate = filter.predicate.transform_down(answer_of)?.data;
            let filtered = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(answered))?);
            LogicalPlanBuilder::from(filtered).project(columns)?.build()
        }
        other => Err(DataFusionError::Internal(format!("a subquery in {}", other.display()))),
    }
}
