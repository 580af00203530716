//! `dim FOR SYSTEM_TIME AS OF now()`: the spelled-out form of joining a lookup table, which has no other version than that of now.
//!
//! Versions of tables that are not lookup tables are none of this file's business, except the one of now: a stream has none.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Spanned, TableFactor, TableVersion, Value, VisitMut, VisitorMut,
};

use crate::catalog::objects::Object;
use crate::planner::bind::Binder;
use crate::planner::bind::lookup_tables;
use crate::planner::bind::names;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::{function_name, is_clock};
use crate::planner::error::{Error, Result};

/// What stands for `now()` between the pass over the syntax, which refuses clocks, and the one that knows tables.
const NOW: &str = "now";

/// Hides the clock of `FOR SYSTEM_TIME AS OF now()` from the checks of expressions.
pub fn mark_now(factor: &mut TableFactor) {
    if let TableFactor::Table {
        version: Some(TableVersion::ForSystemTimeAsOf(moment)),
        ..
    } = factor
        && is_now(moment)
    {
        *moment = Expr::Value(Value::SingleQuotedString(NOW.to_owned()).with_span(moment.span()));
    }
}

fn is_now(moment: &Expr) -> bool {
    match moment {
        Expr::Function(function) => {
            let name = function_name(function);
            name == "proctime" || is_clock(&name)
        }
        _ => false,
    }
}

/// Whether it is that of now, marked or not.
pub fn is_of_now(version: &TableVersion) -> bool {
    matches!(version, TableVersion::ForSystemTimeAsOf(moment) if is_now(moment) || is_marked(moment))
}

fn is_marked(moment: &Expr) -> bool {
    matches!(moment, Expr::Value(value) if value.value == Value::SingleQuotedString(NOW.to_owned()))
}

/// Takes the versions of lookup tables off `query`, or refuses them.
pub fn settle(query: &mut Query, binder: &Binder<'_>, source: SourceText<'_>) -> Result<()> {
    match query.visit(&mut Settle { binder, source }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Settle<'a, 'b> {
    binder: &'a Binder<'b>,
    source: SourceText<'a>,
}

impl VisitorMut for Settle<'_, '_> {
    type Break = Box<Error>;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Box<Error>> {
        let TableFactor::Table { name, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(TableVersion::ForSystemTimeAsOf(moment)) = version else {
            return ControlFlow::Continue(());
        };
        match (self.is_lookup(name), is_marked(moment)) {
            (Ok(true), true) => {
                *version = None;
                ControlFlow::Continue(())
            }
            (Ok(true), false) => self.refuse(
                moment,
                format!("lookup table \"{name}\" has no other version than that of now"),
                "Say FOR SYSTEM_TIME AS OF now(), or nothing.",
            ),
            (Ok(false), true) => self.refuse(
                moment,
                format!("\"{name}\" is not a lookup table, so it cannot be read as of now"),
                "A lookup table is declared with type = 'lookup'; other tables are joined as they change, without FOR \
                 SYSTEM_TIME.",
            ),
            (Ok(false), false) => ControlFlow::Continue(()),
            (Err(error), _) => ControlFlow::Break(Box::new(error)),
        }
    }
}

impl Settle<'_, '_> {
    fn is_lookup(&self, name: &ObjectName) -> Result<bool> {
        match names::qualified(name).and_then(|name| self.binder.find(&name)) {
            Some(Object::Table(table)) if !table.is_internal() => {
                Ok(lookup_tables::lookup(self.binder, table)?.is_some())
            }
            _ => Ok(false),
        }
    }

    fn refuse(&self, moment: &Expr, message: String, hint: &str) -> ControlFlow<Box<Error>> {
        let error = Error::not_supported(message, hint).at(self.source.position(moment.span()));
        ControlFlow::Break(Box::new(error))
    }
}
