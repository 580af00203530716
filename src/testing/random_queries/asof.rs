//! ASOF joins. Of the version that is found its time is shown, which is the same whichever of several of one time it is.

use rand::RngExt;

use crate::testing::random_queries::data::{Column, Kind};
use crate::testing::random_queries::expressions::column_of;
use crate::testing::random_queries::grammar::{Grammar, Relation, TimeColumn, renamed_times, steps};

impl Grammar<'_> {
    pub fn asof_join(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.timed(depth), self.timed(depth.min(1)));
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        let ([TimeColumn::Is(one)], [TimeColumn::Is(two)]) = (left.times.as_slice(), right.times.as_slice()) else {
            return left;
        };
        let (one, two) = (format!("{a}.{one}"), format!("{b}.{two}"));
        let comparison = [">=", ">"][self.random.random_range(0..2)];
        let interval = ["", "", " - INTERVAL '7 seconds'", " + INTERVAL '4 seconds'"][self.random.random_range(0..4)];
        let times = format!("{one}{interval} {comparison} {two}");
        let mut keys = "true".to_owned();
        if !self.chance(6) {
            let kind = [Kind::Int, Kind::Int, Kind::Text][self.random.random_range(0..3)];
            let key = column_of(self.random, &left.scope(&a), |of| of == kind);
            let other = column_of(self.random, &right.scope(&b), |of| of == kind);
            let (Some(key), Some(other)) = (key, other) else {
                return left;
            };
            let equal = ["=", "=", "IS NOT DISTINCT FROM"][self.random.random_range(0..3)];
            keys = format!("{} {equal} {}", key.name, other.name);
        }
        let outer = self.chance(2);
        let mut names = Vec::new();
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for column in &left.columns {
            let name = self.fresh("c");
            items.push(format!("{a}.{} AS {name}", column.name));
            names.push((column.name.clone(), name.clone()));
            columns.push(Column {
                name,
                kind: column.kind,
            });
        }
        let items = items.join(", ");
        let (found, shown) = (self.fresh("c"), names.iter().map(|(_, name)| name.as_str()));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let word = if outer { "LEFT JOIN" } else { "JOIN" };
        let stream = match self.chance(2) {
            true => format!(
                "ASOF {word} ({}) AS {b} MATCH_CONDITION ({times}) ON {keys}",
                right.stream
            ),
            false => format!("ASOF {word} ({}) AS {b} ON {keys} AND {times}", right.stream),
        };
        let only_found = if outer {
            String::new()
        } else {
            format!(" AND {found} IS NOT NULL")
        };
        let batch = format!(
            "SELECT {shown}, {found} FROM (SELECT {items}, max({two}) OVER (PARTITION BY {a}.number) AS {found}, \
             row_number() OVER (PARTITION BY {a}.number) AS once \
             FROM (SELECT *, row_number() OVER () AS number FROM ({}) AS numbered) AS {a} \
             LEFT JOIN ({}) AS {b} ON {keys} AND {times}) AS {a} WHERE once = 1{only_found}",
            left.batch, right.batch
        );
        columns.push(Column {
            name: found.clone(),
            kind: Kind::Time,
        });
        let window = left.window.clone().and_then(|(of, shape)| {
            let new = names.iter().find(|(old, _)| *old == of);
            new.map(|(_, new)| (new.clone(), shape))
        });
        Relation {
            stream: format!(
                "SELECT {items}, {two} AS {found} FROM ({}) AS {a} {stream}",
                left.stream
            ),
            batch,
            columns,
            times: renamed_times(&left.times, &names),
            append: true,
            prompt: false,
            window,
            steps: steps(&left, Some(&right), "asof join"),
        }
    }
}
