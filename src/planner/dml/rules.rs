//! What every row of an internal table is held to: lengths, generated columns, NOT NULL, CHECK.
//!
//! Pure: rows in, rows or the error of Postgres out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::ExprSchemable;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use crate::catalog::objects::{ColumnKind, ConstraintKind, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::error::{ErrorReport, Report, SqlState};
use crate::planner::bind::Binder;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::Purpose;
use crate::planner::bind::tables::expression_over;
use crate::planner::dml::schema_of;
use crate::planner::error::{Error, Result};
use crate::planner::functions;
use crate::planner::functions::lengths::length_check;
use crate::planner::physical::physical_expression;
use crate::planner::settings::Settings;

/// The rules of one table, ready to be applied.
pub struct RowRules {
    table: String,
    /// As declared.
    schema: SchemaRef,
    /// The same where any column may be NULL, as rows are before they are checked.
    loose: SchemaRef,
    /// Columns that statements give values to.
    stored: Vec<usize>,
    lengths: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    generated: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    checks: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

impl RowRules {
    pub fn of(table: &Table, snapshot: &CatalogSnapshot, settings: &Settings) -> Result<RowRules> {
        let schema = schema_of(table)?;
        let loose: SchemaRef = Arc::new(Schema::new(loosened(&schema)));
        let functions = functions::register_all(&settings.session);
        let binder = Binder::new(snapshot, settings, &functions, &[], Purpose::Pipeline, None);
        let over = DFSchema::try_from(loose.as_ref().clone()).map_err(|error| SourceText("").error(error))?;
        let mut rules = RowRules {
            table: table.header.name.clone(),
            stored: Vec::new(),
            lengths: Vec::new(),
            generated: Vec::new(),
            checks: Vec::new(),
            schema,
            loose: Arc::clone(&loose),
        };
        for (index, column) in table.columns.iter().enumerate() {
            let ColumnKind::Generated { expression, .. } = &column.kind else {
                rules.stored.push(index);
                rules.lengths.extend(length_rule(&column.sql_type, index, &loose));
                continue;
            };
            let visible = Schema::new(plain_columns(table, &loose));
            let planned = expression_over(&binder, expression, &visible)?;
            let planned = datafusion::logical_expr::cast(planned, loose.field(index).data_type().clone());
            rules.generated.push((index, physical_expression(&planned, &over)?));
        }
        for constraint in &table.constraints {
            let ConstraintKind::Check { expression } = &constraint.kind else {
                continue;
            };
            let planned = expression_over(&binder, expression, &loose)?;
            let of = planned.get_type(&over).map_err(|error| SourceText("").error(error))?;
            if !matches!(of, DataType::Boolean | DataType::Null) {
                let message = "argument of CHECK must be of type boolean";
                return Err(Error::query(SqlState::DATATYPE_MISMATCH, message));
            }
            let check = (constraint.name.clone(), physical_expression(&planned, &over)?);
            rules.checks.push(check);
        }
        Ok(rules)
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns that statements give values to; the others are generated.
    pub fn stored(&self) -> &[usize] {
        &self.stored
    }

    /// Whole rows out of their stored columns, which come in the order of [`RowRules::stored`].
    pub fn complete(&self, stored: &[ArrayRef], rows: usize) -> Result<RecordBatch, ErrorReport> {
        let mut columns: Vec<ArrayRef> = self
            .loose
            .fields()
            .iter()
            .map(|field| new_null_array(field.data_type(), rows))
            .collect();
        for (index, column) in self.stored.iter().zip(stored) {
            columns[*index] = cast(column, self.loose.field(*index).data_type()).map_err(internal)?;
        }
        let given = self.batch(&columns)?;
        for (index, rule) in self.lengths.iter().chain(&self.generated) {
            columns[*index] = evaluate(rule, &given)?;
        }
        let whole = self.batch(&columns)?;
        self.check_nulls(&whole)?;
        self.check_rules(&whole)?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(internal)
    }

    fn batch(&self, columns: &[ArrayRef]) -> Result<RecordBatch, ErrorReport> {
        RecordBatch::try_new(Arc::clone(&self.loose), columns.to_vec()).map_err(internal)
    }

    fn check_nulls(&self, rows: &RecordBatch) -> Result<(), ErrorReport> {
        let required = |field: &&(usize, &FieldRef)| !field.1.is_nullable();
        let fields: Vec<(usize, &FieldRef)> = self.schema.fields().iter().enumerate().collect();
        for (index, field) in fields.iter().filter(required) {
            let column = rows.column(*index);
            let Some(row) = (0..column.len()).find(|row| column.is_null(*row)) else {
                continue;
            };
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                field.name(),
                self.table
            );
            return Err(ErrorReport::new(SqlState::NOT_NULL_VIOLATION, message).with_detail(failing_row(rows, row)));
        }
        Ok(())
    }

    fn check_rules(&self, rows: &RecordBatch) -> Result<(), ErrorReport> {
        for (name, check) in &self.checks {
            let kept = evaluate(check, rows)?;
            let Some(kept) = kept.as_boolean_opt() else {
                // A constant NULL says nothing.
                continue;
            };
            let Some(row) = (0..kept.len()).find(|row| kept.is_valid(*row) && !kept.value(*row)) else {
                continue;
            };
            let message = format!(
                "new row for relation \"{}\" violates check constraint \"{name}\"",
                self.table
            );
            return Err(ErrorReport::new(SqlState::CHECK_VIOLATION, message).with_detail(failing_row(rows, row)));
        }
        Ok(())
    }
}

fn loosened(schema: &Schema) -> Vec<Field> {
    let loose = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
    schema.fields().iter().map(loose).collect()
}

/// What a generated column may use.
fn plain_columns(table: &Table, loose: &Schema) -> Vec<FieldRef> {
    let columns = table.columns.iter().zip(loose.fields());
    columns
        .filter(|(column, _)| !matches!(column.kind, ColumnKind::Generated { .. }))
        .map(|(_, field)| Arc::clone(field))
        .collect()
}

fn length_rule(sql_type: &str, index: usize, loose: &Schema) -> Option<(usize, Arc<dyn PhysicalExpr>)> {
    let check = length_check(&crate::types::parse(sql_type).ok()?)?;
    let field = Arc::new(loose.field(index).clone());
    let value: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(field.name(), index));
    let name = check.name().to_owned();
    let options = Arc::new(ConfigOptions::new());
    let rule = ScalarFunctionExpr::new(&name, check, vec![value], field, options);
    Some((index, Arc::new(rule)))
}

fn evaluate(rule: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef, ErrorReport> {
    rule.evaluate(rows)
        .and_then(|value| value.into_array(rows.num_rows()))
        .map_err(|error| SourceText("").error(error).report())
}

/// `Failing row contains (1, null).`
fn failing_row(rows: &RecordBatch, row: usize) -> String {
    let values: Vec<String> = rows.columns().iter().map(|column| shown(column, row)).collect();
    format!("Failing row contains ({}).", values.join(", "))
}

/// A value as DETAIL shows it.
pub fn shown(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    // What cannot be shown is left out of the message, which is told all the same.
    array_value_to_string(column, row).unwrap_or_default()
}

fn internal(error: arrow::error::ArrowError) -> ErrorReport {
    Error::Internal(error.to_string()).report()
}
