//! A catalog in memory and a connector that connects to nothing, for the planner's tests.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::catalog::objects::{
    Column, ColumnKind, Object, ObjectHeader, Pipeline, Schema, Table, View, WatermarkDefinition,
};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, Result, SinkChangelogSupport,
};
use crate::engine::graph::SinkChangelog;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions, ResolvedOptions};

/// Takes any options; `bounded`, `direction`, `changelog` and `width` say what its tables are.
pub struct TestConnector;

#[derive(Debug)]
struct TestTable {
    schema: Option<SchemaRef>,
    options: ResolvedOptions,
}

impl TestTable {
    fn is(&self, option: &str, value: &str) -> bool {
        self.options.get(option).is_some_and(|given| given.text == value)
    }
}

#[async_trait::async_trait]
impl Connector for TestConnector {
    fn name(&self) -> &'static str {
        "test"
    }

    fn describe(&self) -> ConnectorDescription {
        ConnectorDescription {
            name: "test",
            title: "Test",
            summary: "Nothing.",
            category: "Test",
            direction: Direction::Both,
            formats: &[],
            options: Vec::new(),
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        Ok(Arc::new(TestTable {
            schema: declared,
            options: options.clone(),
        }))
    }

    async fn check_connection(&self, _options: &ResolvedOptions) -> Result<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl ConnectorTable for TestTable {
    fn connector(&self) -> &'static str {
        "test"
    }

    fn schema(&self) -> Option<SchemaRef> {
        self.schema.as_ref().map(Arc::clone)
    }

    fn direction(&self) -> Direction {
        match () {
            () if self.is("direction", "source") => Direction::Source,
            () if self.is("direction", "sink") => Direction::Sink,
            () => Direction::Both,
        }
    }

    fn bounded(&self) -> bool {
        self.is("bounded", "true")
    }

    fn sink_parallelism_max(&self) -> Option<u32> {
        self.is("width", "1").then_some(1)
    }

    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        match primary_key {
            _ if self.is("changelog", "debezium") => SinkChangelogSupport::Any(SinkChangelog::Debezium { key: None }),
            Some(key) if self.is("changelog", "upsert") => {
                SinkChangelogSupport::Any(SinkChangelog::Upsert { key: key.to_vec() })
            }
            _ => SinkChangelogSupport::AppendOnly,
        }
    }

    fn common(&self) -> CommonOptions {
        CommonOptions {
            processing_time: self.is("event_time", "processing"),
            ..CommonOptions::default()
        }
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }
}

pub fn header(oid: u32, name: &str) -> ObjectHeader {
    ObjectHeader {
        oid: Oid(oid),
        public_id: format!("id_{oid}"),
        schema: Some("public".into()),
        name: name.into(),
        owner: "laminar".into(),
        created_at_micros: 0,
        updated_at_micros: 0,
        comment: None,
    }
}

pub fn options(given: &[(&str, &str)]) -> RawOptions {
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), RawOptionValue::Text((*value).to_owned()));
    RawOptions(given.iter().map(text).collect())
}

/// A table from `name type` pairs; `name type = expression` is a generated column.
pub fn table(oid: u32, name: &str, columns: &[&str], given: &[(&str, &str)]) -> Table {
    let column = |text: &&str| {
        let (declared, generated) = match text.split_once(" = ") {
            Some((declared, expression)) => (declared, Some(expression)),
            None => (*text, None),
        };
        let (name, sql_type) = declared.split_once(' ').unwrap();
        Column {
            name: name.into(),
            sql_type: sql_type.into(),
            not_null: false,
            default: None,
            kind: match generated {
                Some(expression) => ColumnKind::Generated {
                    expression: expression.into(),
                    stored: false,
                },
                None => ColumnKind::Physical,
            },
        }
    };
    let given: Vec<(&str, &str)> = std::iter::once(("connector", "test"))
        .chain(given.iter().copied())
        .collect();
    Table {
        header: header(oid, name),
        connection: None,
        columns: columns.iter().map(column).collect(),
        columns_inferred: columns.is_empty(),
        primary_key: Vec::new(),
        constraints: Vec::new(),
        watermark: None,
        options: options(&given),
        search_path: vec!["public".into()],
    }
}

fn view(oid: u32, name: &str, query: &str) -> Object {
    Object::View(View {
        header: header(oid, name),
        query: query.into(),
        column_names: Vec::new(),
        columns: Vec::new(),
        search_path: vec!["public".into()],
    })
}

/// `bids` (event time), `clicks` (wall clock), `logs` (bounded, no time), sinks, a view and a pipeline.
pub fn objects() -> Vec<Object> {
    let mut bids = table(
        20001,
        "bids",
        &[
            "auction BIGINT",
            "bidder BIGINT",
            "price DOUBLE PRECISION",
            "channel TEXT",
            "tags TEXT[]",
            "item STRUCT<id BIGINT, name TEXT>",
            "payload JSON",
            "ts TIMESTAMP",
            "cents BIGINT = CAST(price * 100 AS BIGINT)",
        ],
        &[],
    );
    bids.watermark = Some(WatermarkDefinition {
        column: "ts".into(),
        expression: Some("ts - INTERVAL '5 seconds'".into()),
    });
    let mut auctions = table(
        20011,
        "auctions",
        &[
            "id BIGINT",
            "seller BIGINT",
            "category INT",
            "expires TIMESTAMP",
            "ts TIMESTAMP",
        ],
        &[],
    );
    auctions.watermark.clone_from(&bids.watermark);
    let mut keyed = table(
        20006,
        "upserts",
        &["bidder BIGINT", "count BIGINT"],
        &[("changelog", "upsert")],
    );
    keyed.primary_key = vec!["bidder".into()];
    let schema = Object::Schema(Schema {
        header: ObjectHeader {
            schema: None,
            ..header(2200, "public")
        },
    });
    let pipeline = Object::Pipeline(Pipeline {
        header: header(20020, "totals"),
        query: "SELECT bidder, count(*) FROM bids GROUP BY bidder".into(),
        options: RawOptions::default(),
        columns: vec![("bidder".into(), "BIGINT".into()), ("count".into(), "BIGINT".into())],
        unique_key: vec!["bidder".into()],
        append_only: false,
        bounded: false,
        materialized_view: false,
        desired_running: true,
        key_groups: 1024,
        search_path: vec!["public".into()],
        counts_after: Default::default(),
    });
    vec![
        schema,
        Object::Table(bids),
        Object::Table(auctions),
        Object::Table(table(20002, "clicks", &["url TEXT", "at TIMESTAMP"], &[])),
        Object::Table(table(
            20003,
            "logs",
            &["line TEXT", "level INT"],
            &[("bounded", "true")],
        )),
        Object::Table(table(
            20004,
            "out",
            &["auction BIGINT", "price REAL", "note TEXT"],
            &[("width", "1")],
        )),
        Object::Table(table(20005, "inferred", &[], &[("direction", "sink")])),
        Object::Table(keyed),
        Object::Table(table(
            20007,
            "changes",
            &["bidder BIGINT", "count BIGINT"],
            &[("changelog", "debezium")],
        )),
        Object::Table(table(20008, "generator", &["n BIGINT"], &[("direction", "source")])),
        view(
            20010,
            "per_auction",
            "SELECT auction, tumble(interval '10 seconds') AS window, count(*) AS bids FROM bids GROUP BY 1, 2",
        ),
        pipeline,
    ]
}

pub fn snapshot() -> CatalogSnapshot {
    let objects = objects().into_iter().map(|object| (object, Vec::new()));
    CatalogSnapshot::new(1, 30000, objects, SecretBox::ephemeral().unwrap())
}
