//! Whether a query reads connected tables, which only the streaming engine can, or what is kept, which answers at once.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName, Query, Visit, Visitor};

use crate::catalog::objects::Object;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::planner::bind::{SYSTEM_SCHEMAS, names};
use crate::planner::dialect;
use crate::planner::functions::window;
use crate::planner::settings::Settings;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classification {
    /// Reads kept results, internal tables, system views, or nothing: [`super::plan_select`].
    Batch,
    /// Reads connected tables: a foreground job.
    Stream,
}

/// Looks through views. Names that do not exist are left for the planner to report.
pub fn classify(query: &Query, snapshot: &CatalogSnapshot, settings: &Settings) -> Classification {
    let mut names = Relations::default();
    let _: ControlFlow<()> = query.visit(&mut names);
    let mut seen = BTreeSet::new();
    match names.connected(snapshot, &settings.search_path, &mut seen) {
        true => Classification::Stream,
        false => Classification::Batch,
    }
}

#[derive(Default)]
struct Relations {
    names: Vec<QualifiedName>,
    /// Names of WITH queries, which hide relations.
    local: BTreeSet<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.local.insert(names::folded(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.names.extend(names::qualified(relation));
        ControlFlow::Continue(())
    }
}

impl Relations {
    fn connected(&self, snapshot: &CatalogSnapshot, path: &[String], seen: &mut BTreeSet<u32>) -> bool {
        self.names.iter().any(|name| {
            let hidden = name.schema.is_none() && self.local.contains(&name.name);
            let system = name
                .schema
                .as_deref()
                .is_some_and(|schema| SYSTEM_SCHEMAS.contains(&schema));
            if hidden || system {
                return false;
            }
            // The table function's table is read by the streaming engine, whatever it is.
            if name.schema.is_none() && window::is_window(&name.name) {
                return true;
            }
            match snapshot.resolve_relation(name, path) {
                Some(Object::Table(table)) => !table.is_internal(),
                Some(Object::View(view)) if seen.insert(view.header.oid.0) => {
                    let Ok(query) = dialect::parse_query(&view.query) else {
                        return false;
                    };
                    let mut inner = Relations::default();
                    let _: ControlFlow<()> = query.visit(&mut inner);
                    let path = match view.search_path.is_empty() {
                        true => path,
                        false => view.search_path.as_slice(),
                    };
                    inner.connected(snapshot, path, seen)
                }
                _ => false,
            }
        })
    }
}
