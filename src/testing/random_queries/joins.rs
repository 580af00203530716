//! Joins of all kinds, and subqueries, which are joins.

use rand::RngExt;

use crate::testing::random_queries::data::{Column, Kind};
use crate::testing::random_queries::expressions::{column_of, scalar};
use crate::testing::random_queries::grammar::{Grammar, Relation, TimeColumn, renamed_times, steps};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

const KINDS: [&str; 4] = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];

/// A condition in the words of the stream and of the batch.
struct Condition {
    stream: String,
    batch: String,
}

impl Condition {
    fn same(text: String) -> Condition {
        Condition {
            stream: text.clone(),
            batch: text,
        }
    }
}

/// What is known of a join besides its texts.
struct Nature {
    append: bool,
    prompt: bool,
    timed: bool,
    step: &'static str,
}

impl Grammar<'_> {
    /// An equality of columns of the two, and now and then more.
    fn on_keys(&mut self, left: &Relation, right: &Relation, a: &str, b: &str) -> Option<String> {
        let kind = match self.chance(4) {
            true => Kind::Text,
            false => Kind::Int,
        };
        let one = column_of(self.random, &left.scope(a), |of| of == kind)?;
        let two = column_of(self.random, &right.scope(b), |of| of == kind)?;
        let mut condition = format!("{} = {}", one.name, two.name);
        if self.chance(8) {
            condition = format!("{} IS NOT DISTINCT FROM {}", one.name, two.name);
        }
        if self.chance(3) {
            let mut scope = left.scope(a);
            scope.extend(right.scope(b));
            let residual = scalar(self.random, &scope, Kind::Bool, 2);
            condition = format!("{condition} AND {residual}");
        }
        Some(condition)
    }

    /// Two relations joined by `kind`, with new names for the columns of both.
    fn joined(
        &mut self,
        (left, right): (Relation, Relation),
        (a, b): (&str, &str),
        kind: &str,
        condition: &Condition,
        nature: Nature,
    ) -> Relation {
        let mut columns = Vec::new();
        let mut items = Vec::new();
        let mut times = Vec::new();
        let mut window = None;
        for (side, relation, alias) in [(Side::Left, &left, a), (Side::Right, &right, b)] {
            let mut names = Vec::new();
            for column in &relation.columns {
                let name = self.fresh("c");
                items.push(format!("{alias}.{} AS {name}", column.name));
                names.push((column.name.clone(), name.clone()));
                columns.push(Column {
                    name,
                    kind: column.kind,
                });
            }
            if nature.timed {
                times.extend(renamed_times(&relation.times, &names));
            }
            if let Some((of, shape)) = &relation.window
                && side == Side::Left
                && nature.step == "window join"
                && !kind.starts_with(['R', 'F'])
            {
                let new = names.iter().find(|(old, _)| old == of).map(|(_, new)| new.clone());
                window = new.map(|new| (new, *shape));
            }
        }
        let text = |one: &str, two: &str, condition: &str| {
            format!(
                "SELECT {} FROM ({one}) AS {a} {kind} ({two}) AS {b} ON {condition}",
                items.join(", ")
            )
        };
        Relation {
            stream: text(&left.stream, &right.stream, &condition.stream),
            batch: text(&left.batch, &right.batch, &condition.batch),
            columns,
            times,
            append: nature.append,
            prompt: nature.prompt,
            window,
            steps: steps(&left, Some(&right), nature.step),
        }
    }

    pub fn join(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.min(1)));
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        let Some(condition) = self.on_keys(&left, &right, &a, &b) else {
            return left;
        };
        let kind = KINDS[self.random.random_range(0..KINDS.len())];
        let inner = kind == "JOIN";
        let nature = Nature {
            append: inner && left.append && right.append,
            prompt: left.prompt && right.prompt,
            timed: inner && left.is_timed() && right.is_timed(),
            step: "join",
        };
        self.joined((left, right), (&a, &b), kind, &Condition::same(condition), nature)
    }

    pub fn window_join(&mut self) -> Relation {
        let (left, right) = self.window_pair();
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        let kind = KINDS[self.random.random_range(0..KINDS.len())];
        let (Some((one, _)), Some((two, _))) = (left.window.clone(), right.window.clone()) else {
            return left;
        };
        let mut keys = format!("{a}.{} = {b}.{}", left.columns[1].name, right.columns[1].name);
        if self.chance(4) {
            let scope = left.scope(&a).into_iter().chain(right.scope(&b)).collect::<Vec<_>>();
            keys = format!("{keys} AND {}", scalar(self.random, &scope, Kind::Bool, 1));
        }
        let condition = Condition {
            stream: format!("{a}.{one} = {b}.{two} AND {keys}"),
            batch: format!(
                "{a}.{one}['start'] = {b}.{two}['start'] AND {a}.{one}['end'] = {b}.{two}['end'] AND {keys}"
            ),
        };
        let nature = Nature {
            append: true,
            prompt: false,
            timed: kind == "JOIN",
            step: "window join",
        };
        self.joined((left, right), (&a, &b), kind, &condition, nature)
    }

    /// Rows near in time.
    pub fn interval_join(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.timed(depth.min(1)), self.timed(0));
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        let ([TimeColumn::Is(one)], [TimeColumn::Is(two)]) = (left.times.as_slice(), right.times.as_slice()) else {
            return left;
        };
        let (before, after) = [(0, 10), (5, 5), (20, 0), (3, 15)][self.random.random_range(0..4)];
        let near = format!(
            "{b}.{two} BETWEEN {a}.{one} - INTERVAL '{before} seconds' AND {a}.{one} + INTERVAL '{after} seconds'"
        );
        let keys = match self.chance(6) {
            // A key is not needed.
            true => None,
            false => self.on_keys(&left, &right, &a, &b),
        };
        let condition = match keys {
            Some(keys) => format!("{keys} AND {near}"),
            None => near,
        };
        if self.chance(3) {
            let not = ["", "NOT "][self.random.random_range(0..2)];
            return self.exists(left, right, (&a, &b), not, &condition, "interval exists");
        }
        let kind = KINDS[self.random.random_range(0..KINDS.len())];
        let inner = kind == "JOIN";
        let nature = Nature {
            append: true,
            prompt: inner && left.prompt && right.prompt,
            timed: inner,
            step: "interval join",
        };
        self.joined((left, right), (&a, &b), kind, &Condition::same(condition), nature)
    }

    fn exists(
        &mut self,
        left: Relation,
        right: Relation,
        (a, b): (&str, &str),
        not: &str,
        condition: &str,
        step: &'static str,
    ) -> Relation {
        let text = |one: &str, two: &str| {
            format!(
                "SELECT {a}.* FROM ({one}) AS {a} WHERE {not}EXISTS (SELECT 1 FROM ({two}) AS {b} WHERE {condition})"
            )
        };
        Relation {
            stream: text(&left.stream, &right.stream),
            batch: text(&left.batch, &right.batch),
            columns: left.columns.clone(),
            times: Vec::new(),
            append: false,
            prompt: step == "subquery" && left.prompt && right.prompt,
            window: None,
            steps: steps(&left, Some(&right), step),
        }
    }

    /// IN and EXISTS.
    pub fn subquery(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.min(1)));
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        if self.chance(2) {
            let Some(condition) = self.on_keys(&left, &right, &a, &b) else {
                return left;
            };
            let not = ["", "NOT "][self.random.random_range(0..2)];
            return self.exists(left, right, (&a, &b), not, &condition, "subquery");
        }
        let one = column_of(self.random, &left.scope(&a), |kind| kind == Kind::Int);
        let two = column_of(self.random, &right.scope(&b), |kind| kind == Kind::Int);
        let (Some(one), Some(two)) = (one, two) else {
            return left;
        };
        let text = |over: &str, inner: &str| {
            let list = format!("SELECT {} FROM ({inner}) AS {b}", two.name);
            format!("SELECT {a}.* FROM ({over}) AS {a} WHERE {} IN ({list})", one.name)
        };
        Relation {
            stream: text(&left.stream, &right.stream),
            batch: text(&left.batch, &right.batch),
            columns: left.columns.clone(),
            times: Vec::new(),
            append: false,
            prompt: left.prompt && right.prompt,
            window: None,
            steps: steps(&left, Some(&right), "in"),
        }
    }

    pub fn scalar_subquery(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(0));
        let (a, b) = (self.fresh("l"), self.fresh("r"));
        let Some(column) = column_of(self.random, &left.scope(&a), |kind| kind == Kind::Int) else {
            return left;
        };
        let related = match self.chance(2) {
            true => format!(" WHERE {b}.k = {}", column.name),
            false => String::new(),
        };
        let aggregate = ["min", "max", "sum", "count"][self.random.random_range(0..4)];
        let text = |over: &str, inner: &str| {
            let value = format!("SELECT {aggregate}({b}.v) FROM ({inner}) AS {b}{related}");
            format!("SELECT {a}.* FROM ({over}) AS {a} WHERE {} < ({value})", column.name)
        };
        Relation {
            stream: text(&left.stream, &right.stream),
            batch: text(&left.batch, &right.batch),
            columns: left.columns.clone(),
            times: Vec::new(),
            append: false,
            prompt: left.prompt && right.prompt,
            window: None,
            steps: steps(&left, Some(&right), "scalar subquery"),
        }
    }
}
