//! The first rows of each group, and aggregates over frames; rows that an order does not tell apart are equal in all that is shown.

use rand::RngExt;

use crate::testing::random_queries::data::{Column, Kind};
use crate::testing::random_queries::expressions::column_of;
use crate::testing::random_queries::grammar::{Grammar, Relation, TimeColumn, step, steps};

/// Refused with 0A000 as long as there is no Top-N.
pub const TOP_N_PROBE: &str = "SELECT k FROM (SELECT k, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v DESC, s) AS place FROM t0) AS x \
                               WHERE place <= 3";

/// Refused with 0A000 as long as there are no aggregates over frames.
pub const OVER_PROBE: &str = "SELECT k, sum(v) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '10 seconds' PRECEDING \
                              AND CURRENT ROW) AS total FROM t0";

impl Grammar<'_> {
    pub fn top_n(&mut self, below: Relation) -> Relation {
        let alias = self.fresh("o");
        let scope = below.scope(&alias);
        let key = |kind: Kind| matches!(kind, Kind::Int | Kind::Text | Kind::Date | Kind::Time | Kind::Numeric);
        let mut columns: Vec<Column> = Vec::new();
        for _ in 0..3 {
            match column_of(self.random, &scope, key) {
                Some(column) if columns.iter().all(|known| known.name != column.name) => columns.push(column),
                _ => {}
            }
        }
        if columns.len() < 2 {
            return below;
        }
        let order: Vec<String> = columns[1..]
            .iter()
            .map(|column| {
                let directions = ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"];
                format!(
                    "{}{}",
                    column.name,
                    directions[self.random.random_range(0..directions.len())]
                )
            })
            .collect();
        let names: Vec<String> = columns.iter().map(|_| self.fresh("c")).collect();
        let items = columns
            .iter()
            .zip(&names)
            .map(|(column, name)| format!("{} AS {name}", column.name));
        let (items, order) = (items.collect::<Vec<_>>().join(", "), order.join(", "));
        let (ranked, place) = (self.fresh("o"), self.fresh("c"));
        let most = self.random.random_range(1..4);
        let partition = &columns[0].name;
        let is_time =
            |time: &TimeColumn| matches!(time, TimeColumn::Is(name) if *partition == format!("{alias}.{name}"));
        // The rows of a moment are ranked when it has passed.
        let waits = below.times.iter().any(is_time);
        let over = |text: &str| {
            format!(
                "SELECT * FROM (SELECT {items}, ROW_NUMBER() OVER (PARTITION BY {partition} ORDER BY {order}) AS {place} \
                 FROM ({text}) AS {alias}) AS {ranked} WHERE {ranked}.{place} <= {most}"
            )
        };
        let (stream, batch) = (over(&below.stream), over(&below.batch));
        let mut kept: Vec<Column> = columns
            .iter()
            .zip(names)
            .map(|(column, name)| Column {
                name,
                kind: column.kind,
            })
            .collect();
        kept.push(Column {
            name: place,
            kind: Kind::Int,
        });
        Relation {
            stream,
            batch,
            columns: kept,
            times: Vec::new(),
            append: false,
            prompt: below.prompt && !waits,
            window: None,
            steps: steps(&below, None, "top n"),
        }
    }

    pub fn over(&mut self, below: Relation) -> Relation {
        let [TimeColumn::Is(time)] = below.times.as_slice() else {
            return below;
        };
        let alias = self.fresh("o");
        let scope = below.scope(&alias);
        let Some(value) = column_of(self.random, &scope, |kind| kind == Kind::Int) else {
            return below;
        };
        let partition = column_of(self.random, &scope, |kind| matches!(kind, Kind::Int | Kind::Text));
        let partition = partition.map_or(String::new(), |column| format!("PARTITION BY {} ", column.name));
        let function = ["sum", "count", "min", "max"][self.random.random_range(0..4)];
        let seconds = [0, 3, 20][self.random.random_range(0..3)];
        let name = self.fresh("c");
        let frame = format!("RANGE BETWEEN INTERVAL '{seconds} seconds' PRECEDING AND CURRENT ROW");
        let item = format!(
            "{function}({}) OVER ({partition}ORDER BY {alias}.{time} {frame}) AS {name}",
            value.name
        );
        let over = |text: &str| format!("SELECT {alias}.*, {item} FROM ({text}) AS {alias}");
        let (stream, batch) = (over(&below.stream), over(&below.batch));
        let mut columns = below.columns.clone();
        columns.push(Column { name, kind: Kind::Int });
        Relation {
            columns,
            prompt: false,
            ..step(below, "over", stream, batch)
        }
    }
}
