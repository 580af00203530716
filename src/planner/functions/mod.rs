//! The functions that queries can call: DataFusion's and ours, one file a family.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use datafusion::catalog::{TableFunction, TableFunctionArgs};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use crate::catalog::snapshot::CatalogSnapshot;
use crate::planner::bind::Binder;
use crate::planner::bind::syntax::Purpose;
use crate::planner::error::{Error, Undefined};
use crate::planner::settings::{SessionFacts, Settings};

pub mod arrays;
pub mod asof;
mod cast_arguments;
pub mod catalog;
pub mod checked_arithmetic;
mod float_extremes;
mod json;
pub mod lengths;
mod postgres;
pub mod ranks;
mod row_function;
mod time_arithmetic;
pub mod window;

/// Everything that can be called by name. Names are in lower case; aliases are names of their own.
#[derive(Clone)]
pub struct Functions {
    pub scalar: HashMap<String, Arc<ScalarUDF>>,
    pub higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    pub aggregate: HashMap<String, Arc<AggregateUDF>>,
    pub window: HashMap<String, Arc<WindowUDF>>,
    pub table: BTreeMap<String, Arc<TableFunction>>,
    pub expr_planners: Vec<Arc<dyn ExprPlanner>>,
}

/// Words that the SQL planner itself reads as functions.
const SYNTAX: &[&str] = &[
    "unnest",
    "struct",
    "row",
    "make_map",
    "array",
    "tumble_start",
    "hop_start",
    "hop_end",
    "session_start",
    "session_end",
    "tumble_end",
];

/// DataFusion's functions and all of ours. Those that answer for a session answer with `session`.
pub fn register_all(session: &SessionFacts) -> Functions {
    let mut functions = COMMON.clone();
    postgres::register(&mut functions, session);
    functions
}

/// What is the same for every session.
static COMMON: LazyLock<Functions> = LazyLock::new(|| {
    let mut functions = from_datafusion();
    float_extremes::register(&mut functions);
    ranks::register(&mut functions);
    window::register(&mut functions);
    json::register(&mut functions);
    time_arithmetic::register(&mut functions);
    cast_arguments::register(&mut functions);
    functions
});

fn from_datafusion() -> Functions {
    let mut functions = Functions {
        scalar: HashMap::new(),
        higher_order: HashMap::new(),
        aggregate: HashMap::new(),
        window: HashMap::new(),
        table: BTreeMap::new(),
        expr_planners: SessionStateDefaults::default_expr_planners(),
    };
    for function in SessionStateDefaults::default_scalar_functions() {
        functions.add_scalar(function);
    }
    for function in SessionStateDefaults::default_higher_order_functions() {
        functions.higher_order.insert(function.name().to_lowercase(), function);
    }
    for function in SessionStateDefaults::default_aggregate_functions() {
        functions.add_aggregate(function);
    }
    for function in SessionStateDefaults::default_window_functions() {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            functions.window.insert(name.to_lowercase(), Arc::clone(&function));
        }
    }
    for function in SessionStateDefaults::default_table_functions() {
        functions.table.insert(function.name().to_lowercase(), function);
    }
    functions
}

impl Functions {
    /// Adds or replaces a scalar function under its name and aliases.
    pub fn add_scalar(&mut self, function: Arc<ScalarUDF>) {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            self.scalar.insert(name.to_lowercase(), Arc::clone(&function));
        }
    }

    pub fn add_aggregate(&mut self, function: Arc<AggregateUDF>) {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            self.aggregate.insert(name.to_lowercase(), Arc::clone(&function));
        }
    }

    pub fn exists(&self, name: &str) -> bool {
        self.scalar.contains_key(name)
            || self.aggregate.contains_key(name)
            || self.window.contains_key(name)
            || self.higher_order.contains_key(name)
            || self.table.contains_key(name)
            || SYNTAX.contains(&name)
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .scalar
            .keys()
            .chain(self.aggregate.keys())
            .chain(self.window.keys())
            .chain(self.higher_order.keys())
            .chain(self.table.keys())
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// As [`register_all`], with the functions that look into the catalog, which only one-shot queries have.
pub fn register_with_catalog(settings: &Settings, snapshot: &Arc<CatalogSnapshot>) -> Functions {
    let mut functions = register_all(&settings.session);
    catalog::register(&mut functions, settings, snapshot);
    functions
}

/// The source of rows that a function in FROM gives.
pub fn table_function(binder: &Binder<'_>, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
    let Some(function) = binder.functions.table.get(&name.to_lowercase()) else {
        return Err(DataFusionError::External(Box::new(Error::Undefined {
            kind: Undefined::Function,
            name: name.to_owned(),
            hint: None,
            position: None,
        })));
    };
    if binder.purpose != Purpose::Batch {
        return Err(DataFusionError::External(Box::new(Error::not_supported(
            format!("table function \"{name}\" in a continuous query is not supported"),
            "Use UNNEST(generate_series(..)) in the select list, or VALUES.",
        ))));
    }
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().build());
    let schema = DFSchema::empty();
    let args = args
        .into_iter()
        .map(|arg| simplifier.simplify(simplifier.coerce(arg, &schema)?))
        .collect::<Result<Vec<_>>>()?;
    let state = SessionStateBuilder::new().build();
    let provider = function.create_table_provider_with_args(TableFunctionArgs::new(&args, &state))?;
    Ok(provider_as_source(provider))
}
