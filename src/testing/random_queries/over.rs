//! OVER: by event time and over windows. Where rows must have an order among peers, all columns that are shown are in ORDER BY.

use rand::RngExt;

use crate::testing::random_queries::data::{Column, Kind};
use crate::testing::random_queries::expressions::column_of;
use crate::testing::random_queries::grammar::{Grammar, Relation, TimeColumn, renamed_times, step, steps};

/// Frames whose rows are counted.
const MOVING: &[&str] = &[
    "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
    "ROWS 3 PRECEDING",
    "ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING",
    "ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING",
    "ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING",
    "ROWS UNBOUNDED PRECEDING",
    "GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
    "GROUPS BETWEEN 2 PRECEDING AND 1 FOLLOWING",
    "",
];

/// Frames of partitions that end.
const WHOLE: &[&str] = &[
    "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
    "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
    "GROUPS BETWEEN CURRENT ROW AND 1 FOLLOWING",
];

impl Grammar<'_> {
    pub fn over(&mut self, below: Relation) -> Relation {
        match self.random.random_range(0..3) {
            0 => self.over_range(below),
            1 if below.window.is_some() => self.over_window(below),
            _ => self.over_rows(below),
        }
    }

    /// An aggregate over the rows of some time.
    fn over_range(&mut self, below: Relation) -> Relation {
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

    /// Functions of rows in order of time, then of all else that is shown.
    fn over_rows(&mut self, below: Relation) -> Relation {
        let [TimeColumn::Is(time)] = below.times.as_slice() else {
            return below;
        };
        let time = Column {
            name: time.clone(),
            kind: Kind::Time,
        };
        let Some(shown) = self.shown(&below, &time) else {
            return below;
        };
        let partition = match self.chance(4) {
            true => Vec::new(),
            false => vec![shown[1].name.clone()],
        };
        let item = self.over_item(&shown, false);
        self.over_shown(below, &shown, &[&partition, &partition], &shown, &item)
    }

    /// Functions of the results of one window: in any order, with any frame.
    fn over_window(&mut self, below: Relation) -> Relation {
        let Some((window, _)) = below.window.clone() else {
            return below;
        };
        let window = Column {
            name: window,
            kind: Kind::Window,
        };
        let Some(shown) = self.shown(&below, &window) else {
            return below;
        };
        let fields = [format!("{}['start']", window.name), format!("{}['end']", window.name)];
        let item = self.over_item(&shown, true);
        let order = &shown[1..];
        self.over_shown(
            below,
            &shown,
            &[std::slice::from_ref(&window.name), &fields],
            order,
            &item,
        )
    }

    /// Functions of rows that change, in any order and with any frame.
    pub fn over_changing(&mut self, below: Relation) -> Relation {
        let ordered = |kind| matches!(kind, Kind::Int | Kind::Text | Kind::Date | Kind::Numeric);
        let first = column_of(self.random, &below.columns, ordered);
        let Some(shown) = first.and_then(|first| self.shown(&below, &first)) else {
            return below;
        };
        let partition = match self.chance(4) {
            true => Vec::new(),
            false => vec![shown[0].name.clone()],
        };
        let item = self.over_item(&shown, true);
        let prompt = below.prompt;
        let over = self.over_shown(below, &shown, &[&partition, &partition], &shown, &item);
        Relation { prompt, ..over }
    }

    /// `first` and one or two other columns that have an order.
    fn shown(&mut self, below: &Relation, first: &Column) -> Option<Vec<Column>> {
        let mut shown = vec![first.clone()];
        for _ in 0..3 {
            let ordered = |kind| matches!(kind, Kind::Int | Kind::Text | Kind::Date | Kind::Numeric);
            match column_of(self.random, &below.columns, ordered) {
                Some(column) if shown.iter().all(|known| known.name != column.name) => shown.push(column),
                _ => {}
            }
        }
        (shown.len() > 1).then_some(shown)
    }

    /// `function(..)` and a frame for it.
    fn over_item(&mut self, shown: &[Column], whole: bool) -> (String, &'static str, Kind) {
        let value = &shown[self.random.random_range(1..shown.len())];
        let (name, kind) = (&value.name, value.kind);
        let number = self.random.random_range(1..3);
        let frames = match whole && self.chance(2) {
            true => WHOLE,
            false => MOVING,
        };
        let frame = frames[self.random.random_range(0..frames.len())];
        let count = if whole { 13 } else { 11 };
        match self.random.random_range(0..count) {
            0 => (format!("count({name})"), frame, Kind::Int),
            1 => ("count(*)".to_owned(), frame, Kind::Int),
            2 => (format!("min({name})"), frame, kind),
            3 => (format!("max({name})"), frame, kind),
            4 => (format!("first_value({name})"), frame, kind),
            5 => (format!("last_value({name})"), frame, kind),
            6 => (format!("nth_value({name}, {number})"), frame, kind),
            7 => (format!("lag({name}, {number})"), "", kind),
            8 => (format!("lead({name}, {number})"), "", kind),
            9 => ("row_number()".to_owned(), "", Kind::Int),
            10 => (
                ["rank()", "dense_rank()"][self.random.random_range(0..2)].to_owned(),
                "",
                Kind::Int,
            ),
            11 => ("ntile(2)".to_owned(), "", Kind::Int),
            _ => (
                ["percent_rank()", "cume_dist()"][self.random.random_range(0..2)].to_owned(),
                "",
                Kind::Rough,
            ),
        }
    }

    /// `partition` for the stream and for the batch.
    fn over_shown(
        &mut self,
        below: Relation,
        shown: &[Column],
        partition: &[&[String]; 2],
        order: &[Column],
        (function, frame, kind): &(String, &'static str, Kind),
    ) -> Relation {
        let (inner, name) = (self.fresh("o"), self.fresh("c"));
        let order: Vec<&str> = order.iter().map(|column| column.name.as_str()).collect();
        let renamed: Vec<(String, String)> = shown
            .iter()
            .map(|column| (column.name.clone(), self.fresh("c")))
            .collect();
        let items: Vec<String> = renamed.iter().map(|(old, new)| format!("{old} AS {new}")).collect();
        let text = |text: &str, partition: &[String]| {
            let partition = match partition.is_empty() {
                true => String::new(),
                false => format!("PARTITION BY {} ", partition.join(", ")),
            };
            format!(
                "SELECT {}, {function} OVER ({partition}ORDER BY {} {frame}) AS {name} FROM ({text}) AS {inner}",
                items.join(", "),
                order.join(", ")
            )
        };
        let new = |(column, (_, name)): (&Column, &(String, String))| Column {
            name: name.clone(),
            kind: column.kind,
        };
        let mut columns: Vec<Column> = shown.iter().zip(&renamed).map(new).collect();
        let (stream, batch) = (text(&below.stream, partition[0]), text(&below.batch, partition[1]));
        columns.push(Column { name, kind: *kind });
        Relation {
            stream,
            batch,
            columns,
            times: renamed_times(&below.times, &renamed),
            append: below.append,
            prompt: false,
            window: None,
            steps: steps(&below, None, "over"),
        }
    }
}
