//! The queries of the auction benchmark, `benches/nexmark/`: as pipelines, with a crash, against the batch engine over the same events.
//!
//! Where windows need it, the batch has a file of its own, `qN.batch.sql`. `LAMINAR_NEXMARK_EVENTS` says over how many events.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use crate::catalog::objects::{Object, View};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    ConnectorTable, DeliveryGuarantee, Direction, Source, SourceContext, SourcePoll, SplitOffset,
};
use crate::engine::error::Error;
use crate::engine::graph::{JobGraph, OperatorSpec};
use crate::error::ErrorReport;
use crate::planner::Settings;
use crate::planner::tests::catalog::{header, options, table};
use crate::testing::job_simulator::{Adversity, simulate};
use crate::testing::random_queries::oracle::{Rows, batch_answer};
use crate::testing::random_queries::{snapshot, stream_graph};
use crate::testing::row_sets::difference;

const QUERIES: u32 = 23;

const EVENTS_DEFAULT: u64 = 10_000;

const VIEWS: [&str; 5] = ["person", "auction", "bid", "bid_by_arrival", "side_input"];

/// Rows that a source gives at a time, so that there is something between them.
const POLL_ROWS: usize = 300;

/// A table that gives few rows at a time.
#[derive(Debug)]
struct SmallPolls(Arc<dyn ConnectorTable>);

impl ConnectorTable for SmallPolls {
    fn connector(&self) -> &'static str {
        self.0.connector()
    }
    fn common(&self) -> CommonOptions {
        self.0.common()
    }
    fn schema(&self) -> Option<SchemaRef> {
        self.0.schema()
    }
    fn direction(&self) -> Direction {
        self.0.direction()
    }
    fn guarantee(&self) -> DeliveryGuarantee {
        self.0.guarantee()
    }
    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(SmallPollSource(self.0.open_source(context)?)))
    }
}

struct SmallPollSource(Box<dyn Source>);

impl Source for SmallPollSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll, Error> {
        self.0.poll(rows_max.min(POLL_ROWS))
    }
    fn offsets(&self) -> Vec<SplitOffset> {
        self.0.offsets()
    }
}

fn text_of(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("benches/nexmark")
        .join(name);
    fs::read_to_string(path).ok()
}

/// The events at so many a second of event time, and the views over them.
fn catalog(events: u64, rate: u64) -> Arc<CatalogSnapshot> {
    let (events, rate) = (events.to_string(), rate.to_string());
    let generator = |oid: u32, name: &str, more: &[(&str, &str)]| {
        let mut given = vec![
            ("connector", "nexmark"),
            ("events", events.as_str()),
            ("first_event_rate", rate.as_str()),
            ("splits", "4"),
        ];
        given.extend(more);
        let mut table = table(oid, name, &[], &[]);
        table.options = options(&given);
        Object::Table(table)
    };
    let tables = [
        generator(21_001, "nexmark", &[]),
        generator(21_002, "nexmark_by_arrival", &[("event_time", "processing")]),
    ];
    let views = VIEWS.iter().enumerate().map(|(at, name)| {
        Object::View(View {
            header: header(21_010 + at as u32, name),
            query: text_of(&format!("{name}.sql")).unwrap(),
            column_names: Vec::new(),
            columns: Vec::new(),
            search_path: vec!["public".into()],
        })
    });
    Arc::new(snapshot(tables.into_iter().chain(views)))
}

fn graph(sql: &str, catalog: &CatalogSnapshot, parallelism: u32) -> Result<JobGraph, ErrorReport> {
    let mut graph = stream_graph(sql, catalog, parallelism, Settings::default())?;
    for node in &mut graph.nodes {
        if let OperatorSpec::Source(source) = &mut node.operator {
            source.table = Arc::new(SmallPolls(Arc::clone(&source.table)));
        }
    }
    Ok(graph)
}

struct Suite {
    catalog: Arc<CatalogSnapshot>,
    runtime: tokio::runtime::Runtime,
}

impl Suite {
    fn of(rate: u64) -> Suite {
        let events = std::env::var("LAMINAR_NEXMARK_EVENTS").map_or(EVENTS_DEFAULT, |text| text.parse().unwrap());
        Suite {
            catalog: catalog(events, rate),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    fn run(&self, sql: &str, parallelism: u32, crashes: u32) -> Result<Vec<RecordBatch>, ErrorReport> {
        let adversity = Adversity {
            crashes,
            parallelism: parallelism..=parallelism,
            turns_a_barrier: 20,
        };
        let compile = |width: u32| graph(sql, &self.catalog, width);
        Ok(simulate(&compile, adversity, 7, self.runtime.handle())?.kept)
    }

    fn events(&self) -> Rows {
        let batches = self.run("SELECT * FROM nexmark", 1, 0).unwrap();
        let all = concat_batches(&batches[0].schema(), &batches).unwrap();
        Rows([("nexmark".to_owned(), all)].into())
    }

    /// What is wrong with query `number`.
    fn check(&self, number: u32, widths: &[u32], events: &Rows) -> Option<String> {
        let stream = text_of(&format!("q{number}.sql")).unwrap();
        let batch = text_of(&format!("q{number}.batch.sql")).unwrap_or_else(|| stream.clone());
        let mut expected = None;
        for &width in widths {
            let kept = match self.run(&stream, width, 1) {
                Ok(kept) => kept,
                Err(report) => return Some(format!("at parallelism {width}: {} {report:?}", report.code.as_str())),
            };
            let expected = match &mut expected {
                Some(expected) => expected,
                none => match batch_answer(&batch, &self.catalog, events, &self.runtime) {
                    Ok(answer) => none.insert(answer),
                    Err(error) => return Some(format!("the batch engine failed: {error}")),
                },
            };
            if let Some(difference) = difference(&kept, expected) {
                return Some(format!(
                    "at parallelism {width} it differs from the batch's:\n{difference}"
                ));
            }
        }
        None
    }

    fn check_all(&self, widths: &[u32]) {
        let events = self.events();
        let wrong = (0..QUERIES).filter_map(|number| {
            let problem = self.check(number, widths, &events)?;
            Some(format!("q{number}: {problem}\n"))
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

/// Some windows close on the way.
#[test]
fn answers_are_those_of_a_batch() {
    Suite::of(300).check_all(&[1, 2]);
}

/// The usual two speeds of event time: with as few events as here all windows are open until the end.
#[test]
fn answers_are_those_of_a_batch_at_a_hundred_thousand_events_a_second() {
    Suite::of(100_000).check_all(&[2]);
}

#[test]
fn answers_are_those_of_a_batch_at_ten_million_events_a_second() {
    Suite::of(10_000_000).check_all(&[1]);
}

/// On a slow machine a split may have no turn for long: its rows are not late for that.
#[test]
fn splits_of_a_bounded_table_wait_for_each_other() {
    let graph = stream_graph("SELECT * FROM nexmark", &catalog(100, 100), 1, Settings::default()).unwrap();
    let mut sources = graph.nodes.iter().filter_map(|node| match &node.operator {
        OperatorSpec::Source(source) => source.event_time.as_ref(),
        _ => None,
    });
    let timeout = sources.next().unwrap().idle_timeout_ms;
    assert!(timeout > 365 * 24 * 60 * 60 * 1000, "{timeout} ms");
}
