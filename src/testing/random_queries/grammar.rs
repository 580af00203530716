//! Random queries: each as a stream would be asked, and as the same question to a batch engine, which knows no windows.
//!
//! A relation grows from tables by one step after the other; every step makes both texts from the texts of what it is over. What
//! has event time, what only grows and what has windows is tracked, so that nearly every query can be planned.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::testing::random_queries::data::{Column, Kind, Table};
use crate::testing::random_queries::expressions::{Expression, aggregate, column_of, scalar};
use crate::testing::random_queries::windows::Window;

#[derive(Clone, Debug)]
pub struct Relation {
    pub stream: String,
    pub batch: String,
    pub columns: Vec<Column>,
    /// Event time is the greatest of these; empty: there is none.
    pub times: Vec<TimeColumn>,
    /// Rows only come.
    pub append: bool,
    /// At every barrier it is what the batch gives over the rows so far.
    pub prompt: bool,
    /// The column of the windows that its rows are results of.
    pub window: Option<(String, Window)>,
    /// The steps that it was made by.
    pub steps: Vec<&'static str>,
}

/// Where the batch finds event time.
#[derive(Clone, Debug)]
pub enum TimeColumn {
    Is(String),
    /// The last moment of this window.
    LastOf(String),
}

impl TimeColumn {
    fn name(&self) -> &str {
        match self {
            TimeColumn::Is(name) | TimeColumn::LastOf(name) => name,
        }
    }

    fn renamed(&self, names: &[(String, String)]) -> Option<TimeColumn> {
        let (_, new) = names.iter().find(|(old, _)| old == self.name())?;
        Some(match self {
            TimeColumn::Is(_) => TimeColumn::Is(new.clone()),
            TimeColumn::LastOf(_) => TimeColumn::LastOf(new.clone()),
        })
    }
}

impl Relation {
    fn of_table(table: &Table) -> Relation {
        let text = format!("SELECT * FROM {}", table.name);
        Relation {
            stream: text.clone(),
            batch: text,
            columns: table.columns.clone(),
            times: vec![TimeColumn::Is("ts".into())],
            append: true,
            prompt: true,
            window: None,
            steps: Vec::new(),
        }
    }

    /// The expression of event time for the batch.
    pub fn batch_time(&self, alias: &str) -> String {
        let one = |time: &TimeColumn| match time {
            TimeColumn::Is(name) => format!("{alias}.{name}"),
            TimeColumn::LastOf(name) => format!("({alias}.{name}[\'end\'] - INTERVAL '1 microsecond')"),
        };
        match self.times.as_slice() {
            [only] => one(only),
            several => format!("greatest({})", several.iter().map(one).collect::<Vec<_>>().join(", ")),
        }
    }

    pub fn is_timed(&self) -> bool {
        !self.times.is_empty() && self.append
    }

    /// Its columns as `alias.name`.
    pub fn scope(&self, alias: &str) -> Vec<Column> {
        let qualified = |column: &Column| Column {
            name: format!("{alias}.{}", column.name),
            kind: column.kind,
        };
        self.columns.iter().map(qualified).collect()
    }
}

pub struct Grammar<'a> {
    pub random: &'a mut StdRng,
    tables: &'a [Table],
    names: u32,
    /// Each join multiplies rows.
    joins_left: u32,
}

impl<'a> Grammar<'a> {
    pub fn new(random: &'a mut StdRng, tables: &'a [Table]) -> Grammar<'a> {
        Grammar {
            random,
            tables,
            names: 0,
            joins_left: 2,
        }
    }

    pub fn fresh(&mut self, letter: &str) -> String {
        self.names += 1;
        format!("{letter}{}", self.names)
    }

    pub fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    pub fn base(&mut self) -> Relation {
        let table = self.random.random_range(0..self.tables.len());
        Relation::of_table(&self.tables[table])
    }

    /// A whole query.
    pub fn query(&mut self) -> Relation {
        let depth = self.random.random_range(1..=3);
        let relation = self.relation(depth);
        match self.random.random_range(0..12) {
            0 => self.common_table(relation),
            1 => self.projection(relation),
            _ => relation,
        }
    }

    pub fn relation(&mut self, depth: u32) -> Relation {
        if depth == 0 {
            return self.base();
        }
        if self.joins_left > 0 && self.chance(2) {
            self.joins_left -= 1;
            return match self.random.random_range(0..10) {
                0..3 => self.join(depth - 1),
                3 | 4 => self.interval_join(depth - 1),
                5 => self.window_join(),
                6 => self.subquery(depth - 1),
                7 => self.scalar_subquery(depth - 1),
                8 => self.asof_join(depth - 1),
                _ => self.set_operation(depth - 1),
            };
        }
        let below = self.relation(depth - 1);
        if self.chance(10) {
            return self.top_n(below);
        }
        if below.is_timed() && self.chance(6) {
            return self.over(below);
        }
        if !below.append && !below.is_timed() && self.chance(6) {
            return self.over_changing(below);
        }
        match self.random.random_range(0..14) {
            0 => self.filter(below),
            1 | 2 => self.projection(below),
            3 => self.union(below),
            4 | 5 => self.grouped(below),
            6 => self.distinct(below),
            7 => self.unnested(below),
            8 | 9 if below.window.is_some() => self.grouped_by_window(below),
            _ if below.is_timed() => self.windowed(below),
            _ => self.grouped(below),
        }
    }

    /// A relation with event time.
    pub fn timed(&mut self, depth: u32) -> Relation {
        let relation = self.relation(depth);
        match relation.is_timed() {
            true => relation,
            false => self.base(),
        }
    }

    fn filter(&mut self, below: Relation) -> Relation {
        let alias = self.fresh("f");
        let condition = scalar(self.random, &below.scope(&alias), Kind::Bool, 3);
        let over = |text: &str| format!("SELECT * FROM ({text}) AS {alias} WHERE {condition}");
        step(below.clone(), "filter", over(&below.stream), over(&below.batch))
    }

    /// Some columns, some expressions; windows and event time stay.
    fn projection(&mut self, below: Relation) -> Relation {
        let alias = self.fresh("p");
        let scope = below.scope(&alias);
        let kept =
            |column: &Column| column.kind == Kind::Window || below.times.iter().any(|time| time.name() == column.name);
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for column in &below.columns {
            if kept(column) || !self.chance(3) {
                items.push(format!("{alias}.{}", column.name));
                columns.push(column.clone());
            }
        }
        for _ in 0..self.random.random_range(1..3) {
            let kinds = [Kind::Int, Kind::Text, Kind::Bool, Kind::Float];
            let kind = kinds[self.random.random_range(0..kinds.len())];
            let name = self.fresh("c");
            items.push(format!("{} AS {name}", scalar(self.random, &scope, kind, 3)));
            columns.push(Column { name, kind });
        }
        let over = |text: &str| format!("SELECT {} FROM ({text}) AS {alias}", items.join(", "));
        let (stream, batch) = (over(&below.stream), over(&below.batch));
        Relation {
            columns,
            ..step(below, "projection", stream, batch)
        }
    }

    fn union(&mut self, below: Relation) -> Relation {
        let other = match self.chance(2) {
            true => self.base(),
            false => self.relation(1),
        };
        let (a, b) = (self.fresh("u"), self.fresh("u"));
        let mut columns = Vec::new();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for kind in [Kind::Int, Kind::Text, Kind::Int, Kind::Float] {
            let name = self.fresh("c");
            left.push(format!("{} AS {name}", scalar(self.random, &below.scope(&a), kind, 1)));
            right.push(format!("{} AS {name}", scalar(self.random, &other.scope(&b), kind, 1)));
            columns.push(Column { name, kind });
        }
        let mut times = Vec::new();
        if let ([TimeColumn::Is(one)], [TimeColumn::Is(two)]) = (below.times.as_slice(), other.times.as_slice()) {
            let name = self.fresh("c");
            left.push(format!("{a}.{one} AS {name}"));
            right.push(format!("{b}.{two} AS {name}"));
            times.push(TimeColumn::Is(name.clone()));
            columns.push(Column { name, kind: Kind::Time });
        }
        let text = |one: &str, two: &str| {
            format!(
                "SELECT {} FROM ({one}) AS {a} UNION ALL SELECT {} FROM ({two}) AS {b}",
                left.join(", "),
                right.join(", ")
            )
        };
        Relation {
            stream: text(&below.stream, &other.stream),
            batch: text(&below.batch, &other.batch),
            columns,
            times,
            append: below.append && other.append,
            prompt: below.prompt && other.prompt,
            window: None,
            steps: steps(&below, Some(&other), "union"),
        }
    }

    /// Grouping keys, as expressions with names.
    pub fn keys(&mut self, below: &Relation, alias: &str, most: usize) -> Vec<(Expression, String)> {
        let scope = below.scope(alias);
        let mut keys = Vec::new();
        for _ in 0..self.random.random_range(0..=most) {
            let key = match self.chance(4) {
                true => Expression::same(format!("({})", scalar(self.random, &scope, Kind::Int, 1)), Kind::Int),
                false => match column_of(self.random, &scope, Kind::is_key) {
                    Some(column) => Expression::key(column.name, column.kind),
                    None => continue,
                },
            };
            // A constant would be the number of a column.
            let constant = key.stream.chars().all(|c| !c.is_alphabetic());
            let known = keys
                .iter()
                .any(|(other, _): &(Expression, String)| other.stream == key.stream);
            if !constant && !known {
                keys.push((key, self.fresh("g")));
            }
        }
        keys
    }

    pub fn aggregates(&mut self, below: &Relation, alias: &str, least: usize) -> Vec<(Expression, String)> {
        let scope = below.scope(alias);
        let mut aggregates: Vec<(Expression, String)> = Vec::new();
        for _ in 0..self.random.random_range(least..4) {
            let new = aggregate(self.random, &scope);
            // The batch engine cannot aggregate in two orders at once.
            let ordered = |of: &Expression| of.stream.contains("ORDER BY");
            if !aggregates.iter().any(|(known, _)| ordered(known) && ordered(&new)) {
                aggregates.push((new, self.fresh("a")));
            }
        }
        aggregates
    }

    fn grouped(&mut self, below: Relation) -> Relation {
        let alias = self.fresh("q");
        let keys = self.keys(&below, &alias, 2);
        let mut aggregates = self.aggregates(&below, &alias, 1);
        let sets = self.sets(&keys, &mut aggregates, |(key, _)| &key.batch);
        let having = match self.chance(4) {
            true => " HAVING count(*) > 1",
            false => "",
        };
        let text = |over: &str, word: fn(&Expression) -> &str| {
            let group: Vec<&str> = keys.iter().map(|(key, _)| word(key)).collect();
            let group = match (group.is_empty(), sets) {
                (true, _) => String::new(),
                (false, None) => format!(" GROUP BY {}", group.join(", ")),
                (false, Some(sets)) => format!(" GROUP BY {sets} ({})", group.join(", ")),
            };
            format!(
                "SELECT {} FROM ({over}) AS {alias}{group}{having}",
                items(&[&keys, &aggregates], word)
            )
        };
        Relation {
            stream: text(&below.stream, |key| &key.stream),
            batch: text(&below.batch, |key| &key.batch),
            columns: named(&[&keys, &aggregates]),
            times: Vec::new(),
            append: false,
            prompt: below.prompt,
            window: None,
            steps: steps(&below, None, if sets.is_some() { "grouping sets" } else { "group" }),
        }
    }

    /// Now and then sets of the keys, which GROUPING then tells apart. A window would have to be in all of them, and of keys
    /// that say the same in other words the batch makes two columns.
    pub fn sets(
        &mut self,
        keys: &[(Expression, String)],
        aggregates: &mut Vec<(Expression, String)>,
        of_batch: fn(&(Expression, String)) -> &str,
    ) -> Option<&'static str> {
        let is_column = |(key, _): &(Expression, String)| key.kind != Kind::Window && !key.stream.contains('(');
        if keys.is_empty() || !keys.iter().all(is_column) || !self.chance(4) {
            return None;
        }
        let text = |word: fn(&(Expression, String)) -> &str| {
            let keys: Vec<&str> = keys.iter().map(word).collect();
            format!("grouping({})", keys.join(", "))
        };
        let grouping = Expression {
            stream: text(|(key, _)| &key.stream),
            batch: text(of_batch),
            kind: Kind::Int,
        };
        aggregates.push((grouping, self.fresh("a")));
        Some(if self.chance(2) { "ROLLUP" } else { "CUBE" })
    }

    fn distinct(&mut self, below: Relation) -> Relation {
        let alias = self.fresh("d");
        let keys = self.keys(&below, &alias, 3);
        if keys.is_empty() {
            return self.filter(below);
        }
        let text = |over: &str, word: fn(&Expression) -> &str| {
            format!("SELECT DISTINCT {} FROM ({over}) AS {alias}", items(&[&keys], word))
        };
        Relation {
            stream: text(&below.stream, |key| &key.stream),
            batch: text(&below.batch, |key| &key.batch),
            columns: named(&[&keys]),
            times: Vec::new(),
            append: false,
            prompt: below.prompt,
            window: None,
            steps: steps(&below, None, "distinct"),
        }
    }

    fn unnested(&mut self, below: Relation) -> Relation {
        let Some(list) = column_of(self.random, &below.columns, |kind| kind == Kind::List) else {
            return self.filter(below);
        };
        let (alias, element) = (self.fresh("n"), self.fresh("c"));
        let columns: Vec<Column> = below
            .columns
            .iter()
            .filter(|column| column.kind != Kind::List)
            .cloned()
            .collect();
        let kept: Vec<String> = columns
            .iter()
            .map(|column| format!("{alias}.{}", column.name))
            .collect();
        let over = |text: &str| {
            let kept = kept.join(", ");
            format!(
                "SELECT {kept}, unnest({alias}.{}) AS {element} FROM ({text}) AS {alias}",
                list.name
            )
        };
        let (stream, batch) = (over(&below.stream), over(&below.batch));
        let mut columns = columns;
        columns.push(Column {
            name: element,
            kind: Kind::Int,
        });
        Relation {
            columns,
            ..step(below, "unnest", stream, batch)
        }
    }

    fn common_table(&mut self, below: Relation) -> Relation {
        let name = self.fresh("cte");
        let over = |text: &str| format!("WITH {name} AS ({text}) SELECT * FROM {name} UNION ALL SELECT * FROM {name}");
        step(below.clone(), "with", over(&below.stream), over(&below.batch))
    }

    fn set_operation(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth));
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        let word = ["EXCEPT", "INTERSECT", "UNION"][self.random.random_range(0..3)];
        let mut columns = Vec::new();
        let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
        for kind in [Kind::Int, Kind::Text] {
            let name = self.fresh("c");
            of_left.push(format!("{} AS {name}", scalar(self.random, &left.scope(&a), kind, 0)));
            of_right.push(format!("{} AS {name}", scalar(self.random, &right.scope(&b), kind, 0)));
            columns.push(Column { name, kind });
        }
        let text = |one: &str, two: &str| {
            format!(
                "SELECT {} FROM ({one}) AS {a} {word} SELECT {} FROM ({two}) AS {b}",
                of_left.join(", "),
                of_right.join(", ")
            )
        };
        Relation {
            stream: text(&left.stream, &right.stream),
            batch: text(&left.batch, &right.batch),
            columns,
            times: Vec::new(),
            append: false,
            prompt: left.prompt && right.prompt,
            window: None,
            steps: steps(&left, Some(&right), "set operation"),
        }
    }
}

/// The same relation after a step that keeps its columns.
pub fn step(below: Relation, name: &'static str, stream: String, batch: String) -> Relation {
    Relation {
        stream,
        batch,
        steps: steps(&below, None, name),
        ..below
    }
}

pub fn steps(one: &Relation, other: Option<&Relation>, step: &'static str) -> Vec<&'static str> {
    let mut all = one.steps.clone();
    all.extend(other.iter().flat_map(|other| other.steps.iter()));
    all.push(step);
    all
}

/// `expression AS name`, one after the other.
pub fn items(lists: &[&Vec<(Expression, String)>], word: fn(&Expression) -> &str) -> String {
    let all = lists.iter().flat_map(|list| list.iter());
    let texts: Vec<String> = all
        .map(|(expression, name)| format!("{} AS {name}", word(expression)))
        .collect();
    texts.join(", ")
}

pub fn named(lists: &[&Vec<(Expression, String)>]) -> Vec<Column> {
    let all = lists.iter().flat_map(|list| list.iter());
    let column = |(expression, name): &(Expression, String)| Column {
        name: name.clone(),
        kind: expression.kind,
    };
    all.map(column).collect()
}

/// Columns and their new names.
pub fn renamed_times(times: &[TimeColumn], names: &[(String, String)]) -> Vec<TimeColumn> {
    let renamed: Vec<TimeColumn> = times.iter().filter_map(|time| time.renamed(names)).collect();
    if renamed.len() == times.len() {
        renamed
    } else {
        Vec::new()
    }
}
