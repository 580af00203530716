//! Windows: calls in the words of the stream, arithmetic and self-joins in those of the batch.

use rand::RngExt;

use crate::testing::random_queries::data::{Column, Kind};
use crate::testing::random_queries::expressions::Expression;
use crate::testing::random_queries::grammar::{Grammar, Relation, TimeColumn, items, named, steps};

/// Sizes in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Tumble(u32),
    Hop { slide: u32, size: u32 },
    Session(u32),
}

const EPOCH: &str = "TIMESTAMP '1970-01-01 00:00:00'";

fn seconds(count: u32) -> String {
    format!("INTERVAL '{count} seconds'")
}

impl Window {
    fn call(self) -> String {
        match self {
            Window::Tumble(size) => format!("TUMBLE({})", seconds(size)),
            Window::Hop { slide, size } => format!("HOP({}, {})", seconds(slide), seconds(size)),
            Window::Session(gap) => format!("SESSION({})", seconds(gap)),
        }
    }

    /// `over` with columns `w_start` and `w_end`, one row for each window that a row lies in. `keys` are columns of `over`.
    fn rows_in_windows(self, over: &str, time: &str, keys: &[&str]) -> String {
        match self {
            Window::Tumble(size) => format!(
                "SELECT i.*, date_bin({size}, {time}, {EPOCH}) AS w_start, date_bin({size}, {time}, {EPOCH}) + {size} AS w_end \
                 FROM ({over}) AS i",
                size = seconds(size)
            ),
            Window::Hop { slide, size } => {
                let offsets: Vec<String> = (0..size.div_ceil(slide))
                    .map(|n| format!("({})", seconds(n * slide)))
                    .collect();
                format!(
                    "SELECT * FROM (SELECT i.*, date_bin({slide}, {time}, {EPOCH}) - o.back AS w_start, \
                     date_bin({slide}, {time}, {EPOCH}) - o.back + {size} AS w_end, {time} AS w_time \
                     FROM ({over}) AS i CROSS JOIN (VALUES {}) AS o(back)) AS h WHERE w_time < w_end",
                    offsets.join(", "),
                    slide = seconds(slide),
                    size = seconds(size)
                )
            }
            Window::Session(gap) => {
                let partition = match keys.is_empty() {
                    true => String::new(),
                    false => format!("PARTITION BY {} ", keys.join(", ")),
                };
                format!(
                    "SELECT n.*, min(w_time) OVER ({numbered}) AS w_start, max(w_time) OVER ({numbered}) + {gap} AS w_end FROM \
                     (SELECT m.*, sum(w_new) OVER ({partition}ORDER BY w_time ROWS UNBOUNDED PRECEDING) AS w_number FROM \
                     (SELECT i.*, {time} AS w_time, CASE WHEN {time} - lag({time}) OVER ({partition}ORDER BY {time}) < {gap} \
                     THEN 0 ELSE 1 END AS w_new FROM ({over}) AS i) AS m) AS n",
                    numbered = match keys.is_empty() {
                        true => "PARTITION BY w_number".to_owned(),
                        false => format!("PARTITION BY {}, w_number", keys.join(", ")),
                    },
                    gap = seconds(gap)
                )
            }
        }
    }
}

impl Grammar<'_> {
    fn window(&mut self) -> Window {
        match self.random.random_range(0..6) {
            0..3 => Window::Tumble([1, 5, 10, 60][self.random.random_range(0..4)]),
            3 | 4 => {
                let (slide, size) = [(5, 10), (10, 30), (4, 10), (10, 10), (7, 5)][self.random.random_range(0..5)];
                Window::Hop { slide, size }
            }
            _ => Window::Session([3, 10][self.random.random_range(0..2)]),
        }
    }

    /// `GROUP BY keys, window` over a relation with event time.
    pub fn windowed(&mut self, below: Relation) -> Relation {
        let window = self.window();
        let alias = self.fresh("q");
        let keys = self.keys(&below, &alias, 2);
        let mut aggregates = self.aggregates(&below, &alias, 1);
        let sets = match window {
            // Each set has sessions of its own.
            Window::Session(_) => None,
            _ => self.sets(&keys, &mut aggregates, |(_, name)| name),
        };
        self.windowed_by(below, window, &alias, keys, aggregates, sets)
    }

    fn windowed_by(
        &mut self,
        below: Relation,
        window: Window,
        alias: &str,
        keys: Vec<(Expression, String)>,
        aggregates: Vec<(Expression, String)>,
        sets: Option<&str>,
    ) -> Relation {
        let name = self.fresh("w");
        let grouped = |window: &str, keys: &[&str]| match (keys, sets) {
            ([], _) => window.to_owned(),
            (keys, None) => format!("{}, {window}", keys.join(", ")),
            (keys, Some(sets)) => format!("{window}, {sets} ({})", keys.join(", ")),
        };
        let group: Vec<&str> = keys.iter().map(|(key, _)| key.stream.as_str()).collect();
        let group = grouped(&name, &group);
        let list = |lists: &[&Vec<(Expression, String)>], word: fn(&Expression) -> &str| match items(lists, word) {
            empty if empty.is_empty() => empty,
            some => format!(", {some}"),
        };
        let stream = format!(
            "SELECT {} AS {name}{} FROM ({}) AS {alias} GROUP BY {}",
            window.call(),
            list(&[&keys, &aggregates], |one| &one.stream),
            below.stream,
            group
        );
        // Keys become columns first, so that sessions can be told apart by them.
        let key_names: Vec<&str> = keys.iter().map(|(_, name)| name.as_str()).collect();
        let with_keys = format!(
            "SELECT {alias}.*{} FROM ({}) AS {alias}",
            list(&[&keys], |one| &one.batch),
            below.batch
        );
        let in_windows = window.rows_in_windows(&with_keys, &below.batch_time("i"), &key_names);
        let group = grouped("w_start, w_end", &key_names);
        let key_items: String = key_names.iter().map(|key| format!(", {key}")).collect();
        let batch = format!(
            "SELECT named_struct('start', w_start, 'end', w_end) AS {name}{key_items}{} FROM ({in_windows}) AS {alias} \
             GROUP BY {}",
            list(&[&aggregates], |one| &one.batch),
            group
        );
        let mut columns = vec![Column {
            name: name.clone(),
            kind: Kind::Window,
        }];
        columns.extend(named(&[&keys, &aggregates]));
        let step = match window {
            _ if sets.is_some() => "window and sets",
            Window::Tumble(_) => "tumble",
            Window::Hop { .. } => "hop",
            Window::Session(_) => "session",
        };
        Relation {
            stream,
            batch,
            columns,
            times: vec![TimeColumn::LastOf(name.clone())],
            append: true,
            prompt: false,
            window: (!matches!(window, Window::Session(_))).then_some((name, window)),
            steps: steps(&below, None, step),
        }
    }

    /// The results of windows, grouped by their windows again.
    pub fn grouped_by_window(&mut self, below: Relation) -> Relation {
        let Some((of, window)) = below.window.clone() else {
            return below;
        };
        let (alias, name) = (self.fresh("q"), self.fresh("w"));
        let aggregates = self.aggregates(&below, &alias, 1);
        let stream = format!(
            "SELECT {alias}.{of} AS {name}, {} FROM ({}) AS {alias} GROUP BY {alias}.{of}",
            items(&[&aggregates], |one| &one.stream),
            below.stream
        );
        let batch = format!(
            "SELECT named_struct('start', {alias}.{of}['start'], 'end', {alias}.{of}['end']) AS {name}, {} \
             FROM ({}) AS {alias} GROUP BY {alias}.{of}['start'], {alias}.{of}['end']",
            items(&[&aggregates], |one| &one.batch),
            below.batch
        );
        let mut columns = vec![Column {
            name: name.clone(),
            kind: Kind::Window,
        }];
        columns.extend(named(&[&aggregates]));
        Relation {
            stream,
            batch,
            columns,
            times: vec![TimeColumn::LastOf(name.clone())],
            append: below.append,
            prompt: false,
            window: Some((name, window)),
            steps: steps(&below, None, "window of windows"),
        }
    }

    /// Two aggregates by equal windows.
    pub fn window_pair(&mut self) -> (Relation, Relation) {
        let window = loop {
            let window = self.window();
            if !matches!(window, Window::Session(_)) {
                break window;
            }
        };
        let mut side = || {
            let below = self.timed(0);
            let alias = self.fresh("q");
            let keys = vec![(Expression::same(format!("{alias}.k"), Kind::Int), self.fresh("g"))];
            let aggregates = self.aggregates(&below, &alias, 1);
            self.windowed_by(below, window, &alias, keys, aggregates, None)
        };
        (side(), side())
    }
}
