//! One query takes the place of another at a random checkpoint: the end is what a batch gives for the second over all rows,
//! whatever state of the first it went on with.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::grammar::{Grammar, Relation};
use super::oracle::{Rows, batch_answer};
use super::{Case, stream_graph};
use crate::engine::coordinator::evolution::{SavedLineages, evolve};
use crate::engine::graph::JobGraph;
use crate::error::{ErrorReport, SqlState};
use crate::planner::Settings;
use crate::testing::job_simulator::{Finished, simulate_from};
use crate::testing::row_sets::difference;
use crate::testing::row_table::read_from;

/// One case in so many is replaced as well: it costs as much as the case itself.
const CASES_A_REPLACEMENT: u64 = 3;

/// What is wrong with the end.
pub(super) fn check(case: &Case, finished: &Finished, all: &Rows, runtime: &tokio::runtime::Runtime) -> Option<String> {
    if !case.run_seed.is_multiple_of(CASES_A_REPLACEMENT) {
        return None;
    }
    let mut random = StdRng::seed_from_u64(case.run_seed);
    let (stream, batch) = next(case, &mut random);
    let compile = |width: u32| -> Result<JobGraph, ErrorReport> {
        let mut graph = stream_graph(&stream, &case.snapshot, width, Settings::default())?;
        read_from(&mut graph, &case.sources());
        Ok(graph)
    };
    let problem = |text: String| Some(format!("replaced by\n{stream}\n{text}"));
    let graph = match compile(1) {
        Ok(graph) => graph,
        Err(report) if report.code == SqlState::FEATURE_NOT_SUPPORTED => return None,
        Err(report) => return problem(format!("{report:?}")),
    };
    let before = case.graph(1).ok()?;
    let evolution = evolve(&SavedLineages::of_graph(&before), &graph);
    let checkpoint = &finished.checkpoints[random.random_range(0..finished.checkpoints.len())];
    let first = checkpoint.part(&evolution.used(&graph));
    let seed = random.random();
    let ended = match simulate_from(first, &compile, case.adversity.clone(), seed, runtime.handle()) {
        Ok(ended) => ended,
        Err(report) => return problem(format!("{report:?}")),
    };
    let expected = match batch_answer(&batch, &case.snapshot, all, runtime) {
        Ok(expected) => expected,
        Err(error) => return problem(format!("the batch engine failed: {error}")),
    };
    let at = checkpoint.epoch;
    let kept = &evolution.fates;
    difference(&ended.kept, &expected).and_then(|difference| problem(format!("at {at}, {kept:?}:\n{difference}")))
}

/// The same query, one with something behind it, or another one.
fn next(case: &Case, random: &mut StdRng) -> (String, String) {
    let Relation {
        stream, batch, columns, ..
    } = &case.query;
    match random.random_range(0..4) {
        0 => (stream.clone(), batch.clone()),
        1 | 2 => {
            let column = &columns[random.random_range(0..columns.len())].name;
            let chosen = |of: &str| format!("SELECT * FROM ({of}) AS replaced WHERE {column} IS NOT NULL");
            (chosen(stream), chosen(batch))
        }
        _ => {
            let other = Grammar::new(random, &case.tables).query();
            (other.stream, other.batch)
        }
    }
}
