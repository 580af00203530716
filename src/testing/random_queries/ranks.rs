//! The first rows of each group; rows that an order does not tell apart are equal in all that is shown.

use rand::RngExt;

use crate::testing::random_queries::data::{Column, Kind};
use crate::testing::random_queries::expressions::column_of;
use crate::testing::random_queries::grammar::{Grammar, Relation, TimeColumn, steps};

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
}
