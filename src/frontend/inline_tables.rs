//! `SELECT * FROM events WITH (connector = '..')`: options written where a table is read.
//!
//! The table becomes local to the query: the catalog's table of that name with these options over its own, or a new one
//! whose columns the connector knows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, TableFactor, UnaryOperator, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::catalog::objects::{Object, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::error::SqlState;
use crate::frontend::body::new_header;
use crate::frontend::error::{Error, Result};
use crate::options::{RawOptionValue, RawOptions, normalize_name};
use crate::planner::bind::names;

/// Whether a query has such options anywhere.
pub fn has_any(query: &ast::Query) -> bool {
    query.visit(&mut Finder).is_break()
}

/// Takes the options out of the query; the tables that they make.
pub fn take(query: &mut ast::Query, snapshot: &CatalogSnapshot, search_path: &[String]) -> Result<Vec<Object>> {
    let mut taker = Taker {
        snapshot,
        search_path,
        tables: Vec::new(),
    };
    match query.visit(&mut taker) {
        ControlFlow::Continue(()) => Ok(taker.tables.into_iter().map(Object::Table).collect()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Finder;

impl Visitor for Finder {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { with_hints, .. } if !with_hints.is_empty() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

struct Taker<'a> {
    snapshot: &'a CatalogSnapshot,
    search_path: &'a [String],
    tables: Vec<Table>,
}

impl VisitorMut for Taker<'_> {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, with_hints, .. } = factor else {
            return ControlFlow::Continue(());
        };
        if with_hints.is_empty() {
            return ControlFlow::Continue(());
        }
        let hints = std::mem::take(with_hints);
        match options_of(&hints).and_then(|options| self.table(name, options)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Taker<'_> {
    fn table(&mut self, name: &ast::ObjectName, options: RawOptions) -> Result<()> {
        let name = names::qualified(name).ok_or_else(|| Error::Internal("a table without a name".to_owned()))?;
        let table = match self.snapshot.resolve_relation(&name, self.search_path) {
            Some(Object::Table(table)) => {
                let mut table = table.clone();
                let given = |option: &str| options.get(option).is_some();
                table.options.0.retain(|(option, _)| !given(&normalize_name(option)));
                table.options.0.extend(options.0);
                table
            }
            Some(_) => {
                return Err(Error::WrongKind {
                    name: name.name,
                    expected: "table",
                    hint: None,
                });
            }
            None => Table {
                header: new_header(&name),
                connection: None,
                columns: Vec::new(),
                columns_inferred: true,
                primary_key: Vec::new(),
                constraints: Vec::new(),
                watermark: None,
                options,
                search_path: self.search_path.to_vec(),
            },
        };
        let twice = self.tables.iter().any(|other| {
            other.header.name == table.header.name
                && other.header.schema == table.header.schema
                && other.options != table.options
        });
        if twice {
            return Err(Error::not_supported(
                format!("table \"{}\" with different options in one query", table.header.name),
                "CREATE TABLE gives each a name of its own.",
            ));
        }
        self.tables.push(table);
        Ok(())
    }
}

/// The parser underneath reads the options as comparisons.
fn options_of(hints: &[Expr]) -> Result<RawOptions> {
    let wrong = || {
        Error::user_with_hint(
            SqlState::SYNTAX_ERROR,
            "options of a table are name = value",
            "SELECT .. FROM name WITH (connector = '..', ..).",
        )
    };
    let option = |hint: &Expr| {
        let Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } = hint
        else {
            return Err(wrong());
        };
        let name = name_of(left).ok_or_else(wrong)?;
        let value = text_of(right).ok_or_else(wrong)?;
        Ok((name, RawOptionValue::Text(value)))
    };
    Ok(RawOptions(hints.iter().map(option).collect::<Result<_>>()?))
}

fn name_of(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(name) => Some(name.value.clone()),
        Expr::CompoundIdentifier(parts) => Some(
            parts
                .iter()
                .map(|part| part.value.as_str())
                .collect::<Vec<_>>()
                .join("."),
        ),
        _ => text_of(expression),
    }
}

fn text_of(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(word) => Some(word.value.clone()),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => text_of(expr).map(|text| format!("-{text}")),
        Expr::Value(value) => match &value.value {
            ast::Value::Number(text, _)
            | ast::Value::SingleQuotedString(text)
            | ast::Value::EscapedStringLiteral(text) => Some(text.clone()),
            ast::Value::DollarQuotedString(text) => Some(text.value.clone()),
            ast::Value::Boolean(flag) => Some(flag.to_string()),
            _ => None,
        },
        _ => None,
    }
}
