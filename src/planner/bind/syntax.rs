//! What is changed in the parsed query before DataFusion plans it, and what is refused with a position while it is known.
//!
//! - Select lists get the column names of Postgres.
//! - `pg_catalog.f(..)`, `OPERATOR(pg_catalog.~)`, `COLLATE` lose what only Postgres's catalog gives meaning to.
//! - The spellings of windows become one: `tumble(..)`, `hop(..)`, `session(..)` and their fields.
//! - `ROLLUP`, `CUBE` and `GROUPING SETS` become lists of sets.
//! - Functions that do not exist, and forms that cannot be continuous, are errors here.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Distinct, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, LimitClause, ObjectName, ObjectNamePart, Query, Select, SetExpr, Spanned, TableFactor,
    TableWithJoins, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::nearest;
use crate::planner::bind::asof_joins;
use crate::planner::bind::catalog_syntax;
use crate::planner::bind::grouping_sets;
use crate::planner::bind::lateral_unnest;
use crate::planner::bind::literals;
use crate::planner::bind::lookup_version;
use crate::planner::bind::names;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::using;
use crate::planner::dialect;
use crate::planner::error::{Error, Result, Undefined};
use crate::planner::functions::{self, Functions, window};

/// Which engine the query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Runs for ever; the result is kept or delivered.
    Pipeline,
    /// Runs in the foreground until LIMIT or cancel.
    Foreground,
    /// One answer from what is there now.
    Batch,
}

/// Rewrites `query` in place.
pub fn prepare(query: &mut Query, purpose: Purpose, functions: &Functions, source: SourceText<'_>) -> Result<()> {
    let mut pass = SyntaxPass {
        purpose,
        functions,
        source,
        depth: 0,
    };
    match query.visit(&mut pass) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Rewrites the expression of a generated column or watermark in place.
pub fn prepare_expression(expr: &mut Expr, functions: &Functions, source: SourceText<'_>) -> Result<()> {
    prepare_expression_for(expr, Purpose::Pipeline, functions, source)
}

/// The same for either engine.
pub fn prepare_expression_for(
    expr: &mut Expr,
    purpose: Purpose,
    functions: &Functions,
    source: SourceText<'_>,
) -> Result<()> {
    let mut pass = SyntaxPass {
        purpose,
        functions,
        source,
        depth: 1,
    };
    match expr.visit(&mut pass) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct SyntaxPass<'a> {
    purpose: Purpose,
    functions: &'a Functions,
    source: SourceText<'a>,
    depth: usize,
}

impl VisitorMut for SyntaxPass<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Box<Error>> {
        self.depth += 1;
        if self.purpose != Purpose::Batch {
            self.check_query(query)?;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Box<Error>> {
        self.depth -= 1;
        if self.depth == 0 {
            catalog_syntax::show_names(query);
            literals::show_integers(query);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Box<Error>> {
        for item in &mut select.from {
            self.mark_asof_joins(item)?;
        }
        lateral_unnest::rewrite(select);
        if let Err(error) = grouping_sets::expand(select, self.source) {
            return ControlFlow::Break(Box::new(error));
        }
        if self.purpose != Purpose::Batch
            && let Some((join, hint)) = using::misleading(select)
        {
            let message = "USING and NATURAL in this outer join are not supported in a continuous query";
            return self.refuse(join.relation.span(), message, hint);
        }
        names::name_items(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Box<Error>> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            self.mark_asof_joins(table_with_joins)?;
        }
        strip_catalog_from_table_function(factor);
        lookup_version::mark_now(factor);
        catalog_syntax::rewrite_table_function(factor);
        self.window_table_function(factor)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Box<Error>> {
        if let Expr::Function(function) = expr {
            strip_catalog(&mut function.name);
            self.check_function(function)?;
        }
        if self.purpose != Purpose::Batch {
            self.check_expression(expr)?;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Box<Error>> {
        literals::settle(expr);
        plain_operator(expr);
        field_of_value(expr);
        if let Expr::Collate { expr: inner, .. } = expr {
            *expr = inner.as_ref().clone();
        }
        if let Expr::Function(function) = expr
            && let Some((window, field)) = window::field_function(&function_name(function))
        {
            *expr = window_field(function.clone(), window, field);
        }
        catalog_syntax::rewrite_expression(expr);
        ControlFlow::Continue(())
    }
}

impl SyntaxPass<'_> {
    fn refuse(&self, span: Span, message: impl Into<String>, hint: impl Into<String>) -> ControlFlow<Box<Error>> {
        ControlFlow::Break(Box::new(
            Error::not_supported(message, hint).at(self.source.position(span)),
        ))
    }

    fn mark_asof_joins(&self, item: &mut TableWithJoins) -> ControlFlow<Box<Error>> {
        match asof_joins::rewrite(item, self.source) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }

    fn check_query(&self, query: &mut Query) -> ControlFlow<Box<Error>> {
        self.fetch_as_limit(query)?;
        let in_foreground = self.depth == 1 && self.purpose == Purpose::Foreground;
        if in_foreground
            && let Some(LimitClause::LimitOffset {
                offset: Some(offset), ..
            }) = &query.limit_clause
        {
            return self.refuse(
                offset.value.span(),
                "OFFSET is not supported in a continuous query",
                "Create a pipeline of the query without OFFSET and select from it.",
            );
        }
        // The first rows in an order are a ranking; the first rows of a foreground query are those that come first.
        let is_ranking = query.limit_clause.is_some() && !in_foreground;
        if is_ranking || is_distinct_on(query) {
            return ControlFlow::Continue(());
        }
        match query.order_by.take() {
            Some(order_by) if self.depth == 1 => self.refuse(
                order_by.span(),
                "ORDER BY is not supported in a continuous query",
                "A continuous result has no end to sort: give a LIMIT, or order when you read: SELECT .. FROM the \
                 pipeline ORDER BY ..",
            ),
            // Without LIMIT the order of a subquery means nothing.
            _ => ControlFlow::Continue(()),
        }
    }

    /// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
    fn fetch_as_limit(&self, query: &mut Query) -> ControlFlow<Box<Error>> {
        let Some(fetch) = query.fetch.take() else {
            return ControlFlow::Continue(());
        };
        if fetch.with_ties || fetch.percent {
            return self.refuse(
                fetch.quantity.as_ref().map_or(Span::empty(), Spanned::span),
                "FETCH FIRST with TIES or PERCENT is not supported in a continuous query",
                "For the first n rows and their ties: RANK() OVER (ORDER BY ..) in a subquery, WHERE rank <= n around it.",
            );
        }
        let offset = match query.limit_clause.take() {
            Some(LimitClause::LimitOffset { offset, .. }) => offset,
            _ => None,
        };
        let one = || Expr::Value(Value::Number("1".into(), false).with_empty_span());
        query.limit_clause = Some(LimitClause::LimitOffset {
            limit: Some(fetch.quantity.unwrap_or_else(one)),
            offset,
            limit_by: Vec::new(),
        });
        ControlFlow::Continue(())
    }

    fn check_expression(&self, expr: &Expr) -> ControlFlow<Box<Error>> {
        match expr {
            Expr::Function(function) if is_clock(&function_name(function)) => self.refuse(
                expr.span(),
                format!("{}() is not supported in a continuous query", function_name(function)),
                "A continuous query has no single moment; compare columns of the rows, or filter by time when you read.",
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn check_function(&self, function: &Function) -> ControlFlow<Box<Error>> {
        let name = function_name(function);
        if let Some(message) = window::not_yet(&name) {
            return self.refuse(
                function.name.span(),
                message,
                "There are TUMBLE(size), HOP(slide, size) and SESSION(gap).",
            );
        }
        let is_mark = functions::asof::mark(&name).is_some();
        if is_mark || self.functions.exists(&name) || matches!(function.args, FunctionArguments::Subquery(_)) {
            return ControlFlow::Continue(());
        }
        let known = self.functions.names();
        let hint = nearest(&name, known.iter().map(String::as_str))
            .map(|near| format!("Perhaps you meant \"{near}\"."))
            .or_else(|| Some("SHOW FUNCTIONS lists them.".to_owned()));
        let error = Error::Undefined {
            kind: Undefined::Function,
            name,
            hint,
            position: self.source.position(function.name.span()),
        };
        ControlFlow::Break(Box::new(error))
    }

    /// `TUMBLE(table, ts, size)` and `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), size))` in FROM, and the same of other windows,
    /// become a subquery over the table with the columns `window_start` and `window_end`.
    fn window_table_function(&self, factor: &mut TableFactor) -> ControlFlow<Box<Error>> {
        let (name, args, alias) = match factor {
            TableFactor::Table {
                name,
                args: Some(args),
                alias,
                ..
            } => (name.clone(), args.args.clone(), alias.clone()),
            TableFactor::Function { name, args, alias, .. } => (name.clone(), args.clone(), alias.clone()),
            TableFactor::TableFunction {
                expr: Expr::Function(function),
                alias,
            } => {
                let FunctionArguments::List(list) = &function.args else {
                    return ControlFlow::Continue(());
                };
                (function.name.clone(), list.args.clone(), alias.clone())
            }
            _ => return ControlFlow::Continue(()),
        };
        let function = last_name(&name);
        if let Some(message) = window::not_yet(&function) {
            let hint = "There are TUMBLE(table, ts, size), HOP(table, ts, slide, size) and SESSION(table, ts, gap).";
            return self.refuse(name.span(), message, hint);
        }
        if !window::is_window(&function) {
            return ControlFlow::Continue(());
        }
        let wrong = || {
            Box::new(
                Error::query(
                    crate::error::SqlState::SYNTAX_ERROR,
                    match function.as_str() {
                        window::HOP => "HOP in FROM takes a table, its time column, the slide and the window's size",
                        window::SESSION => "SESSION in FROM takes a table, its time column and the gap",
                        _ => "TUMBLE in FROM takes a table, its time column and the window's size",
                    },
                )
                .at(self.source.position(name.span())),
            )
        };
        let mut values = args.iter().filter_map(argument);
        let (Some(table), Some(time)) = (values.next(), values.next()) else {
            return ControlFlow::Break(wrong());
        };
        let durations: Vec<&Expr> = values.collect();
        if durations.len() != window::durations(&function) {
            return ControlFlow::Break(wrong());
        }
        let (Some(table), time) = (relation_of(table), undescribed(time)) else {
            return ControlFlow::Break(wrong());
        };
        match windowed_subquery(&function, &table, &time, &durations) {
            Ok(subquery) => {
                *factor = TableFactor::Derived {
                    lateral: false,
                    subquery,
                    alias: alias.or_else(|| Some(table_alias(&table))),
                    sample: None,
                };
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn is_distinct_on(query: &Query) -> bool {
    match query.body.as_ref() {
        SetExpr::Select(select) => matches!(select.distinct, Some(Distinct::On(_))),
        _ => false,
    }
}

/// The name of a function as Postgres reads it.
pub fn function_name(function: &Function) -> String {
    last_name(&function.name)
}

fn last_name(name: &ObjectName) -> String {
    name.0
        .last()
        .and_then(ObjectNamePart::as_ident)
        .map(names::folded)
        .unwrap_or_default()
}

/// The moment of execution, by any of its names.
pub(super) fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "now"
            | "current_timestamp"
            | "current_date"
            | "current_time"
            | "localtime"
            | "localtimestamp"
            | "clock_timestamp"
            | "statement_timestamp"
            | "transaction_timestamp"
            | "today"
    )
}

fn strip_catalog(name: &mut ObjectName) {
    let in_catalog = name.0.len() == 2
        && name.0[0]
            .as_ident()
            .is_some_and(|schema| matches!(names::folded(schema).as_str(), "pg_catalog" | "information_schema"));
    if in_catalog {
        name.0.remove(0);
    }
}

fn strip_catalog_from_table_function(factor: &mut TableFactor) {
    match factor {
        TableFactor::Table {
            name, args: Some(_), ..
        }
        | TableFactor::Function { name, .. } => strip_catalog(name),
        _ => {}
    }
}

/// `OPERATOR(pg_catalog.~)` is `~`.
fn plain_operator(expr: &mut Expr) {
    let Expr::BinaryOp { op, .. } = expr else {
        return;
    };
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else {
        return;
    };
    let plain = match parts.last().map(String::as_str) {
        Some("~") => BinaryOperator::PGRegexMatch,
        Some("~*") => BinaryOperator::PGRegexIMatch,
        Some("!~") => BinaryOperator::PGRegexNotMatch,
        Some("!~*") => BinaryOperator::PGRegexNotIMatch,
        Some("~~") => BinaryOperator::PGLikeMatch,
        Some("!~~") => BinaryOperator::PGNotLikeMatch,
        Some("=") => BinaryOperator::Eq,
        Some("<>") => BinaryOperator::NotEq,
        Some("<") => BinaryOperator::Lt,
        Some("<=") => BinaryOperator::LtEq,
        Some(">") => BinaryOperator::Gt,
        Some(">=") => BinaryOperator::GtEq,
        Some("+") => BinaryOperator::Plus,
        Some("-") => BinaryOperator::Minus,
        Some("*") => BinaryOperator::Multiply,
        Some("/") => BinaryOperator::Divide,
        Some("||") => BinaryOperator::StringConcat,
        _ => return,
    };
    *op = plain;
}

/// `TUMBLE_START(..)` is the field `start` of `TUMBLE(..)`.
fn window_field(mut function: Function, window: &str, field: &str) -> Expr {
    function.name = ObjectName::from(Ident::new(window));
    let field = Expr::Value(Value::SingleQuotedString(field.to_owned()).with_empty_span());
    call("get_field", vec![Expr::Function(function), field])
}

/// `(value).field`, `(a.b).c`, `a[1].b`: fields by name, as the SQL planner takes them only of columns.
fn field_of_value(expr: &mut Expr) {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else {
        return;
    };
    // What follows a plain name may be the column of a table: the planner tells.
    let is_name = matches!(root.as_ref(), Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    let mut may_be_column = is_name;
    for access in access_chain.iter_mut() {
        match access {
            AccessExpr::Dot(Expr::Identifier(_)) if may_be_column => {}
            AccessExpr::Dot(Expr::Identifier(ident)) => {
                let field = Value::SingleQuotedString(names::folded(ident));
                *access = AccessExpr::Dot(Expr::Value(field.with_empty_span()));
            }
            _ => may_be_column = false,
        }
    }
    if let Expr::Nested(inner) = root.as_ref() {
        *root = inner.clone();
    }
}

/// A plain function call.
pub fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args
                .into_iter()
                .map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)))
                .collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn argument(argument: &FunctionArg) -> Option<&Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
        | FunctionArg::Named {
            arg: FunctionArgExpr::Expr(expr),
            ..
        }
        | FunctionArg::ExprNamed {
            arg: FunctionArgExpr::Expr(expr),
            ..
        } => Some(expr),
        _ => None,
    }
}

/// A table named in an expression's place: `t`, `s.t`; `TABLE t` arrives as one of the two.
fn relation_of(expr: &Expr) -> Option<ObjectName> {
    match expr {
        Expr::Identifier(ident) => Some(ObjectName::from(ident.clone())),
        Expr::CompoundIdentifier(parts) => Some(ObjectName::from(parts.clone())),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Table(table) => {
                let schema = table.schema_name.iter().map(Ident::new);
                let parts: Vec<Ident> = schema.chain(table.table_name.iter().map(Ident::new)).collect();
                Some(ObjectName::from(parts))
            }
            _ => None,
        },
        _ => None,
    }
}

/// `DESCRIPTOR(ts)` is `ts`.
fn undescribed(expr: &Expr) -> Expr {
    if let Expr::Function(function) = expr
        && function_name(function) == "descriptor"
        && let FunctionArguments::List(list) = &function.args
        && let [only] = list.args.as_slice()
        && let Some(inner) = argument(only)
    {
        return inner.clone();
    }
    expr.clone()
}

fn table_alias(table: &ObjectName) -> datafusion::sql::sqlparser::ast::TableAlias {
    datafusion::sql::sqlparser::ast::TableAlias {
        explicit: false,
        name: table
            .0
            .last()
            .and_then(ObjectNamePart::as_ident)
            .cloned()
            .unwrap_or_else(|| Ident::new("windowed")),
        columns: Vec::new(),
        at: None,
    }
}

fn windowed_subquery(function: &str, table: &ObjectName, time: &Expr, durations: &[&Expr]) -> Result<Box<Query>> {
    let places: Vec<String> = (0..durations.len()).map(|at| format!("lm_duration_{at}")).collect();
    let places = places.join(", ");
    let mut query = dialect::parse_query(&format!(
        "SELECT *, {function}_start(lm_time, {places}) AS window_start, {function}_end(lm_time, {places}) AS window_end \
         FROM {table}"
    ))?;
    let mut fill = FillPlaces { time, durations };
    let _: ControlFlow<()> = query.visit(&mut fill);
    Ok(query)
}

struct FillPlaces<'a> {
    time: &'a Expr,
    durations: &'a [&'a Expr],
}

impl VisitorMut for FillPlaces<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr {
            match ident.value.as_str() {
                "lm_time" => *expr = self.time.clone(),
                name => {
                    let place = name
                        .strip_prefix("lm_duration_")
                        .and_then(|at| at.parse::<usize>().ok());
                    if let Some(duration) = place.and_then(|at| self.durations.get(at)) {
                        *expr = (*duration).clone();
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}
