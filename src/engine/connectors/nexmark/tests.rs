//! The generator: the official mix, the same events at any parallelism and after a restore.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::*;
use crate::engine::connectors::testing::{Bench, given};

fn table(options: &[(&str, &str)]) -> Arc<dyn ConnectorTable> {
    Nexmark.resolve(&given(options), None).unwrap()
}

fn generate(events: Range<u64>) -> arrow::array::RecordBatch {
    let generator = Generator::new(7, 0, 10_000.0);
    ColumnGenerator::new(&columns::schema())
        .unwrap()
        .generate(&generator, events)
        .unwrap()
}

#[test]
fn the_mix_is_1_3_46_and_one_struct_is_set() {
    let rows = generate(0..5000);
    for (name, count) in [("person", 100), ("auction", 300), ("bid", 4600)] {
        let column = rows.column_by_name(name).unwrap();
        assert_eq!(column.len() - column.null_count(), count, "{name}");
    }
}

#[test]
fn keys_are_hot_and_within_what_exists() {
    let rows = generate(0..100_000);
    let bids = rows.column_by_name("bid").unwrap().as_struct();
    let auctions = bids.column_by_name("auction").unwrap().as_primitive::<Int64Type>();
    let bidders = bids.column_by_name("bidder").unwrap().as_primitive::<Int64Type>();
    let prices = bids.column_by_name("price").unwrap().as_primitive::<Int64Type>();
    let share_of = |hot: &dyn Fn(i64) -> bool, values: &arrow::array::Int64Array| {
        let all = values.iter().flatten().count() as f64;
        values.iter().flatten().filter(|value| hot(*value)).count() as f64 / all
    };
    let hot_auctions = share_of(&|id| (id - 1000) % 100 == 0, auctions);
    assert!((0.49..0.53).contains(&hot_auctions), "{hot_auctions}");
    let hot_bidders = share_of(&|id| (id - 1000) % 100 == 1, bidders);
    assert!((0.74..0.78).contains(&hot_bidders), "{hot_bidders}");
    for limit in [10_000, 1_000_000] {
        let above = share_of(&|price| price < limit, prices);
        let expected = if limit == 10_000 { 1.0 / 3.0 } else { 2.0 / 3.0 };
        assert!((above - expected).abs() < 0.02, "{above} below {limit}");
    }
    assert!(
        auctions
            .iter()
            .flatten()
            .all(|id| (1000..1000 + 6000 + 10).contains(&id))
    );
    assert!(
        bidders
            .iter()
            .flatten()
            .all(|id| (1000..1000 + 2000 + 10).contains(&id))
    );
    assert!(
        prices
            .iter()
            .flatten()
            .all(|price| (100..=100_000_000).contains(&price))
    );
}

#[test]
fn ids_of_auctions_and_people_are_consecutive() {
    let rows = generate(0..500);
    for (name, count) in [("person", 10), ("auction", 30)] {
        let ids = rows.column_by_name(name).unwrap().as_struct();
        let ids = ids.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        assert_eq!(
            ids.iter().flatten().collect::<Vec<_>>(),
            (1000..1000 + count).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_url_belongs_to_its_channel() {
    let rows = generate(0..20_000);
    let bids = rows.column_by_name("bid").unwrap().as_struct();
    let channels = bids.column_by_name("channel").unwrap().as_string::<i32>();
    let urls = bids.column_by_name("url").unwrap().as_string::<i32>();
    let mut url_of = HashMap::new();
    for (channel, url) in channels.iter().zip(urls) {
        assert_eq!(url_of.entry(channel).or_insert(url), &url);
    }
    assert!(url_of.len() > 5000);
}

#[test]
fn a_projection_gives_the_same_values() {
    let all = generate(0..1000);
    let bid = all.schema().field_with_name("bid").unwrap().clone();
    let DataType::Struct(fields) = bid.data_type() else {
        panic!("bid is a struct")
    };
    let part: arrow::datatypes::Fields = vec![Arc::clone(&fields[2]), Arc::clone(&fields[0])].into();
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        all.schema().field_with_name("date_time").unwrap().clone(),
        Field::new("bid", DataType::Struct(part), true),
    ]));
    let generator = Generator::new(7, 0, 10_000.0);
    let narrow = ColumnGenerator::new(&schema)
        .unwrap()
        .generate(&generator, 0..1000)
        .unwrap();
    assert_eq!(narrow.column(0), all.column_by_name("date_time").unwrap());
    let wide = all.column_by_name("bid").unwrap().as_struct();
    for name in ["price", "auction"] {
        assert_eq!(
            narrow.column(1).as_struct().column_by_name(name),
            wide.column_by_name(name)
        );
    }
}

#[test]
fn restores_at_another_parallelism() {
    let table = table(&[("events", "12345"), ("splits", "6"), ("seed", "3")]);
    let bench = Bench::new();
    let schema = table.schema().unwrap();
    for (before, after) in [(1, 1), (1, 4), (2, 3), (3, 2), (2, 9)] {
        bench.check_restore(table.as_ref(), &schema, before, after, 3333);
    }
    assert_eq!(bench.rows(table.as_ref(), &schema).len(), 12_345);
}

#[test]
fn json_holds_what_the_source_gives() {
    let mut text = Vec::new();
    Events::first(1000, 0).write_json(&mut text).unwrap();
    let mut lines: Vec<_> = std::str::from_utf8(&text).unwrap().lines().map(str::to_owned).collect();
    let table = table(&[("events", "1000")]);
    let mut rows = Bench::new().rows(table.as_ref(), &table.schema().unwrap());
    lines.sort();
    rows.sort();
    assert_eq!(lines, rows);
    let bid = lines.iter().find(|line| line.contains("\"bid\":{")).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(bid).is_ok());
    let bytes_each = text.len() / 1000;
    assert!((250..450).contains(&bytes_each), "{bytes_each} bytes an event");
}

#[test]
fn wrong_columns_are_refused() {
    let declared: SchemaRef = Arc::new(Schema::new(vec![Field::new("bids", DataType::Int64, true)]));
    assert!(Nexmark.resolve(&given(&[]), Some(declared)).is_err());
    assert!(Nexmark.resolve(&given(&[("events", "-1")]), None).is_err());
}
