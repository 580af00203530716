//! Statements that change an internal table as queries: which rows go, and what comes in their place.
//!
//! The table itself is the relation `laminar.target_rows` of such a query (a name that no statement of a client can reach: the
//! one who answers for it is made for the statement), under the statement's alias. It has one column more, the number of
//! the row.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::scalar::ScalarValue;
use datafusion::sql::planner::PlannerContext;
use datafusion::sql::sqlparser::ast::{self, Ident, Query, SelectItem, SetExpr, TableWithJoins};

use crate::catalog::objects::{self, ColumnKind, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::error::{ErrorReport, SqlState, nearest};
use crate::planner::assignment::{assignable, is_text_constant, mismatch};
use crate::planner::batch::{self, BatchQuery};
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::{self, Purpose};
use crate::planner::bind::{BatchRelations, Binder, names};
use crate::planner::dialect;
use crate::planner::dml::schema_of;
use crate::planner::error::{Error, Result};
use crate::planner::functions;
use crate::planner::settings::Settings;
use crate::types::quote_identifier;

/// The names under which a statement's own relations are found.
pub const STATEMENT_SCHEMA: &str = "laminar";
pub const TARGET_ROWS: &str = "target_rows";
pub const EXCLUDED_ROWS: &str = "excluded_rows";
/// The column that numbers the rows of these relations.
pub const ROW_NUMBER: &str = "laminar_row_number";

/// What planning a statement needs.
pub struct Planning<'a> {
    pub table: &'a Table,
    /// What errors point into.
    pub text: &'a str,
    pub snapshot: &'a Arc<CatalogSnapshot>,
    pub settings: &'a Settings,
    pub relations: &'a dyn BatchRelations,
}

/// Which column gets which value.
pub struct SetColumn {
    pub column: usize,
    pub value: ast::Expr,
}

/// What an UPDATE or DELETE says of the rows that it changes.
pub struct Found<'a> {
    pub with: Option<&'a ast::With>,
    /// FROM or USING.
    pub from: &'a [TableWithJoins],
    pub selection: Option<&'a ast::Expr>,
}

impl Planning<'_> {
    /// The rows of an INSERT: the stored columns of the table, in its order.
    pub fn insert(&self, query: &Query, given: &[Ident]) -> Result<BatchQuery> {
        let named = self.named_columns(given)?;
        let mut query = query.clone();
        self.fill_in_defaults(&mut query, &named)?;
        let position = SourceText(self.text).position(ast::Spanned::span(&query));
        let shape = |plan: LogicalPlan| {
            let count = plan.schema().fields().len();
            if count > named.len() {
                let message = "INSERT has more expressions than target columns";
                return Err(Error::query(SqlState::SYNTAX_ERROR, message).at(position));
            }
            if count < named.len() && !given.is_empty() {
                let message = "INSERT has more target columns than expressions";
                return Err(Error::query(SqlState::SYNTAX_ERROR, message).at(position));
            }
            self.stored_columns(plan, &named[..count])
                .map_err(|error| error.at(position))
        };
        batch::plan_shaped(&query, self.text, self.snapshot, self.settings, self.relations, &shape)
    }

    /// `INSERT .. DEFAULT VALUES`.
    pub fn insert_defaults(&self) -> Result<BatchQuery> {
        let query = dialect::parse_query("SELECT 1")?;
        let shape = |plan: LogicalPlan| self.stored_columns(plan, &[]);
        batch::plan_shaped(&query, self.text, self.snapshot, self.settings, self.relations, &shape)
    }

    /// The rows that an UPDATE or DELETE finds: the row's number and all its columns, then the new values.
    pub fn changed(&self, alias: &str, found: &Found<'_>, set: &[SetColumn]) -> Result<BatchQuery> {
        let query = self.changed_query(alias, found, set)?;
        self.plan_set(&query, set)
    }

    /// That query, for describing its parameters.
    pub fn changed_query(&self, alias: &str, found: &Found<'_>, set: &[SetColumn]) -> Result<Query> {
        let target = format!("{STATEMENT_SCHEMA}.{TARGET_ROWS} AS {}", quote_identifier(alias));
        let mut query = self.skeleton(alias, &target, found.from, found.selection, set)?;
        query.with = found.with.cloned();
        Ok(query)
    }

    /// The same for rows that ON CONFLICT DO UPDATE changes: each target row beside the row of the same number that was to be
    /// inserted.
    pub fn conflicting(&self, alias: &str, selection: Option<&ast::Expr>, set: &[SetColumn]) -> Result<BatchQuery> {
        let target = format!(
            "{STATEMENT_SCHEMA}.{TARGET_ROWS} AS {alias} JOIN {STATEMENT_SCHEMA}.{EXCLUDED_ROWS} AS excluded \
             ON {alias}.{ROW_NUMBER} = excluded.{ROW_NUMBER}",
            alias = quote_identifier(alias)
        );
        let query = self.skeleton(alias, &target, &[], selection, set)?;
        self.plan_set(&query, set)
    }

    fn skeleton(
        &self,
        alias: &str,
        target: &str,
        from: &[TableWithJoins],
        selection: Option<&ast::Expr>,
        set: &[SetColumn],
    ) -> Result<Query> {
        let names = [ROW_NUMBER].into_iter();
        let names = names.chain(self.table.columns.iter().map(|column| column.name.as_str()));
        let columns: Vec<String> = names
            .enumerate()
            .map(|(index, name)| {
                format!(
                    "{}.{} AS laminar_old_{index}",
                    quote_identifier(alias),
                    quote_identifier(name)
                )
            })
            .collect();
        let mut query = dialect::parse_query(&format!("SELECT {} FROM {target}", columns.join(", ")))?;
        let SetExpr::Select(select) = query.body.as_mut() else {
            return Err(Error::Internal("a SELECT that is none".into()));
        };
        select.from.extend(from.iter().cloned());
        select.selection = selection.cloned();
        for (index, item) in set.iter().enumerate() {
            let mut value = item.value.clone();
            self.fill_in_default(&mut value, item.column)?;
            select.projection.push(SelectItem::ExprWithAlias {
                expr: value,
                alias: Ident::new(format!("laminar_new_{index}")),
            });
        }
        Ok(*query)
    }

    fn plan_set(&self, query: &Query, set: &[SetColumn]) -> Result<BatchQuery> {
        let schema = schema_of(self.table)?;
        let shape = |plan: LogicalPlan| {
            let old = schema.fields().len() + 1;
            let mut columns = plan_columns(&plan);
            for (index, item) in set.iter().enumerate() {
                let at = old + index;
                let position = SourceText(self.text).position(ast::Spanned::span(&item.value));
                let field = schema.field(item.column);
                let value = assigned(&plan, at, field).map_err(|error| error.at(position))?;
                columns[at] = value.alias(format!("laminar_new_{index}"));
            }
            projected(plan, columns)
        };
        batch::plan_shaped(query, self.text, self.snapshot, self.settings, self.relations, &shape)
    }

    /// `RETURNING` over the rows that were changed, which are the target rows of the relations given.
    pub fn returning(&self, alias: &str, items: &[SelectItem]) -> Result<Query> {
        let target = format!("{STATEMENT_SCHEMA}.{TARGET_ROWS} AS {}", quote_identifier(alias));
        let mut query = dialect::parse_query(&format!("SELECT 1 FROM {target}"))?;
        let SetExpr::Select(select) = query.body.as_mut() else {
            return Err(Error::Internal("a SELECT that is none".into()));
        };
        select.projection = items.to_vec();
        Ok(*query)
    }

    /// Numbers of the columns that a list names; without a list all that statements give values to.
    pub fn named_columns(&self, given: &[Ident]) -> Result<Vec<usize>> {
        if given.is_empty() {
            return Ok((0..self.table.columns.len())
                .filter(|column| !self.is_generated(*column))
                .collect());
        }
        let mut columns = Vec::with_capacity(given.len());
        for ident in given {
            let at = |error: Error| error.at(SourceText(self.text).position(ident.span));
            let column = self.column(&names::folded(ident)).map_err(at)?;
            if columns.contains(&column) {
                let message = format!("column \"{}\" specified more than once", names::folded(ident));
                return Err(at(Error::query(SqlState::DUPLICATE_COLUMN, message)));
            }
            columns.push(column);
        }
        Ok(columns)
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Result<usize> {
        let found = self.table.columns.iter().position(|column| column.name == name);
        found.ok_or_else(|| {
            let near = nearest(name, self.table.columns.iter().map(|column| column.name.as_str()));
            let report = ErrorReport::new(
                SqlState::UNDEFINED_COLUMN,
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    self.table.header.name
                ),
            );
            Error::Query(match near {
                Some(near) => report.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => report,
            })
        })
    }

    fn is_generated(&self, column: usize) -> bool {
        matches!(self.table.columns[column].kind, ColumnKind::Generated { .. })
    }

    /// The word DEFAULT in VALUES becomes what it stands for. A generated column takes nothing else.
    fn fill_in_defaults(&self, query: &mut Query, named: &[usize]) -> Result<()> {
        let mut computed = named.iter().filter(|column| self.is_generated(**column));
        let SetExpr::Values(values) = query.body.as_mut() else {
            return match computed.next() {
                Some(column) => Err(self.always_generated(*column)),
                None => Ok(()),
            };
        };
        for row in &mut values.rows {
            for (value, column) in row.content.iter_mut().zip(named) {
                let given = is_default(value) || is_text(value);
                self.fill_in_default(value, *column)?;
                if given {
                    self.say_type(value, *column)?;
                }
            }
        }
        Ok(())
    }

    /// A literal without a type has that of its column, whatever stands in other rows. Not of a text column: a cast would cut
    /// what is too long.
    fn say_type(&self, value: &mut ast::Expr, column: usize) -> Result<()> {
        let of = crate::types::parse(&self.table.columns[column].sql_type).map_err(Error::Table)?;
        let arrow = of.to_arrow();
        if arrow == DataType::Utf8 || arrow.is_nested() {
            return Ok(());
        }
        let mut typed = dialect::parse_expression(&format!("CAST(NULL AS {})", of.to_sql()))?;
        if let ast::Expr::Cast { expr, .. } = &mut typed {
            **expr = value.clone();
        }
        *value = typed;
        Ok(())
    }

    fn fill_in_default(&self, value: &mut ast::Expr, column: usize) -> Result<()> {
        if !is_default(value) {
            return match self.is_generated(column) {
                true => Err(self.always_generated(column)),
                false => Ok(()),
            };
        }
        *value = match &self.table.columns[column].default {
            Some(text) => ast::Expr::Nested(Box::new(dialect::parse_expression(text)?)),
            None => ast::Expr::Value(ast::Value::Null.into()),
        };
        Ok(())
    }

    fn always_generated(&self, column: usize) -> Error {
        let name = &self.table.columns[column].name;
        Error::Query(
            ErrorReport::new(
                SqlState::GENERATED_ALWAYS,
                format!("cannot insert a non-DEFAULT value into column \"{name}\""),
            )
            .with_detail(format!("Column \"{name}\" is a generated column.")),
        )
    }

    /// The stored columns, of which `given` come from the plan and the others are defaults.
    fn stored_columns(&self, plan: LogicalPlan, given: &[usize]) -> Result<LogicalPlan> {
        let schema = schema_of(self.table)?;
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (index, field) in schema.fields().iter().enumerate() {
            if self.is_generated(index) {
                continue;
            }
            let value = match given.iter().position(|column| *column == index) {
                Some(from) => assigned(&plan, from, field)?,
                None => self.default_value(&self.table.columns[index], field)?,
            };
            columns.push(value.alias(field.name()));
        }
        projected(plan, columns)
    }

    /// What a column holds of which nothing is said; evaluated with the query, since it may be `now()`.
    fn default_value(&self, column: &objects::Column, field: &Field) -> Result<Expr> {
        let Some(text) = &column.default else {
            let null = ScalarValue::try_from(field.data_type()).map_err(|error| SourceText("").error(error))?;
            return Ok(lit(null));
        };
        default_expression(text, field.data_type(), self.snapshot, self.settings)
    }
}

/// The DEFAULT of a column, in the column's type; also asked when the table is created.
pub fn default_expression(
    text: &str,
    data_type: &DataType,
    snapshot: &CatalogSnapshot,
    settings: &Settings,
) -> Result<Expr> {
    let source = SourceText(text);
    let plan = || {
        let functions = functions::register_all(&settings.session);
        let binder = Binder::new(snapshot, settings, &functions, &[], Purpose::Batch, None);
        let mut parsed = dialect::parse_expression(text)?;
        syntax::prepare_expression_for(&mut parsed, Purpose::Batch, &functions, source)?;
        let nothing = datafusion::common::DFSchema::empty();
        let value = binder
            .sql_to_rel()
            .sql_to_expr(parsed, &nothing, &mut PlannerContext::new())
            .map_err(|error| source.error(error))?;
        Ok(cast(value, data_type.clone()))
    };
    // Positions in the table's definition mean nothing to whoever uses the table.
    plan().map_err(Error::nowhere)
}

/// The word DEFAULT where a value stands.
pub fn is_default(value: &ast::Expr) -> bool {
    match value {
        ast::Expr::Identifier(ident) => ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"),
        _ => false,
    }
}

fn is_text(value: &ast::Expr) -> bool {
    matches!(value, ast::Expr::Value(value) if matches!(value.value, ast::Value::SingleQuotedString(_)))
}

/// Column `from` of a plan as a value of `field`.
fn assigned(plan: &LogicalPlan, from: usize, field: &Field) -> Result<Expr> {
    let given = plan.schema().field(from);
    if !assignable(given.data_type(), field.data_type()) && !is_text_constant(plan, from) {
        return Err(mismatch(field, given));
    }
    let column = Expr::Column(Column::from(plan.schema().qualified_field(from)));
    Ok(match given.data_type() == field.data_type() {
        true => column,
        false => cast(column, field.data_type().clone()),
    })
}

fn plan_columns(plan: &LogicalPlan) -> Vec<Expr> {
    let columns = plan.schema().iter();
    columns.map(|named| Expr::Column(Column::from(named))).collect()
}

fn projected(plan: LogicalPlan, columns: Vec<Expr>) -> Result<LogicalPlan> {
    LogicalPlanBuilder::from(plan)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| SourceText("").error(error))
}

/// The columns of a table and the number of each row.
pub fn numbered_schema(table: &Schema) -> Schema {
    let mut fields: Vec<_> = table.fields().iter().map(Arc::clone).collect();
    fields.push(Arc::new(Field::new(ROW_NUMBER, DataType::Int64, false)));
    Schema::new(fields)
}
