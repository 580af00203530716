//! Random scalar expressions and aggregates. They mean the same in a stream and in a batch, and no value can overflow.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::testing::random_queries::data::{Column, Kind};

impl Kind {
    /// Has an order that min, max and comparisons know.
    pub fn is_ordered(self) -> bool {
        !matches!(
            self,
            Kind::List | Kind::Struct | Kind::Window | Kind::Rough | Kind::Bool
        )
    }

    /// Rows can be grouped by it and joined on it, or told apart by it.
    pub fn is_key(self) -> bool {
        !matches!(self, Kind::List | Kind::Struct | Kind::Window | Kind::Rough)
    }
}

/// Columns that an expression may use, qualified.
pub type Scope<'a> = &'a [Column];

fn pick<T: Clone>(random: &mut StdRng, all: &[T]) -> T {
    all[random.random_range(0..all.len())].clone()
}

/// A column of one of `kinds`.
pub fn column_of(random: &mut StdRng, scope: Scope<'_>, wanted: impl Fn(Kind) -> bool) -> Option<Column> {
    let fitting: Vec<&Column> = scope.iter().filter(|column| wanted(column.kind)).collect();
    (!fitting.is_empty()).then(|| fitting[random.random_range(0..fitting.len())].clone())
}

/// An expression of kind `wanted`.
pub fn scalar(random: &mut StdRng, scope: Scope<'_>, wanted: Kind, depth: u32) -> String {
    if depth == 0 || random.random_range(0..3) == 0 {
        return match column_of(random, scope, |kind| kind == wanted) {
            Some(column) => column.name,
            None => literal(random, wanted),
        };
    }
    let below = depth - 1;
    match wanted {
        Kind::Int => integer(random, scope, below),
        Kind::Text => text(random, scope, below),
        Kind::Bool => boolean(random, scope, below),
        Kind::Float => {
            let inner = scalar(random, scope, Kind::Float, below);
            match random.random_range(0..4) {
                0 => format!("CAST({} AS DOUBLE PRECISION)", scalar(random, scope, Kind::Int, below)),
                1 => format!("({inner} * 0.5)"),
                2 => format!("(- {inner})"),
                _ => format!("abs({inner})"),
            }
        }
        Kind::Numeric => format!("({} + 1.5)", scalar(random, scope, Kind::Numeric, 0)),
        other => scalar(random, scope, other, 0),
    }
}

fn literal(random: &mut StdRng, of: Kind) -> String {
    let null = random.random_range(0..10) == 0;
    let texts: &[&str] = match of {
        Kind::Int if null => &["CAST(NULL AS BIGINT)"],
        Kind::Int => &["0", "1", "2", "-3", "7"],
        Kind::WideInt => &["9223372036854775807", "CAST(-5 AS BIGINT)"],
        Kind::Text if null => &["CAST(NULL AS TEXT)"],
        Kind::Text => &["'a'", "''", "'ab'", "'x y'"],
        Kind::Bool => &["true", "false", "CAST(NULL AS BOOLEAN)"],
        Kind::Float => &["CAST(0.25 AS DOUBLE PRECISION)", "CAST(-2 AS DOUBLE PRECISION)"],
        Kind::WildFloat | Kind::Rough => &["CAST('NaN' AS DOUBLE PRECISION)", "CAST(1.5 AS DOUBLE PRECISION)"],
        Kind::Numeric => &["CAST(1.25 AS NUMERIC(10,2))", "CAST(-3 AS NUMERIC(10,2))"],
        Kind::WideNumeric => &["CAST(12.5 AS NUMERIC(38,6))"],
        Kind::Date => &["DATE '2024-02-29'", "DATE '1969-12-31'"],
        Kind::Time | Kind::Window => &["TIMESTAMP '2024-02-28 22:00:30'"],
        Kind::TimeTz => &["TIMESTAMPTZ '2024-02-28 22:00:30+00'"],
        Kind::TimeOfDay => &["TIME '12:30:00'"],
        Kind::Bytes => &["CAST('x' AS BYTEA)"],
        Kind::List => &["ARRAY[CAST(1 AS BIGINT), CAST(2 AS BIGINT)]"],
        Kind::Struct => &["1"],
    };
    pick(random, texts).to_owned()
}

fn integer(random: &mut StdRng, scope: Scope<'_>, depth: u32) -> String {
    let first = scalar(random, scope, Kind::Int, depth);
    match random.random_range(0..11) {
        0 => format!("({first} + {})", scalar(random, scope, Kind::Int, depth)),
        1 => format!("({first} - {})", scalar(random, scope, Kind::Int, depth)),
        2 => format!("({first} * 2)"),
        3 => format!("abs({first})"),
        4 => format!("length({})", scalar(random, scope, Kind::Text, depth)),
        5 => format!("coalesce({first}, 0)"),
        6 => format!("nullif({first}, 2)"),
        7 => format!("({first} % 3)"),
        8 => match column_of(random, scope, |kind| kind == Kind::Time) {
            Some(time) => format!("CAST(extract(minute FROM {}) AS BIGINT)", time.name),
            None => format!("({first} / 2)"),
        },
        9 => match column_of(random, scope, |kind| kind == Kind::Struct) {
            Some(composite) => format!("({}).a", composite.name),
            None => first,
        },
        _ => format!(
            "CASE WHEN {} THEN {first} ELSE {} END",
            scalar(random, scope, Kind::Bool, depth),
            scalar(random, scope, Kind::Int, depth)
        ),
    }
}

fn text(random: &mut StdRng, scope: Scope<'_>, depth: u32) -> String {
    let first = scalar(random, scope, Kind::Text, depth);
    match random.random_range(0..9) {
        0 => format!("upper({first})"),
        1 => format!("({first} || 'x')"),
        2 => format!("CAST({} AS TEXT)", scalar(random, scope, Kind::Int, depth)),
        3 => format!("coalesce({first}, '-')"),
        4 => format!("substr({first}, 1, 1)"),
        5 => format!("replace({first}, 'a', 'bb')"),
        6 => format!("lower({first})"),
        7 => format!("nullif({first}, 'a')"),
        _ => format!(
            "CASE WHEN {} THEN {first} WHEN {} THEN 'z' END",
            scalar(random, scope, Kind::Bool, depth),
            scalar(random, scope, Kind::Bool, depth)
        ),
    }
}

fn boolean(random: &mut StdRng, scope: Scope<'_>, depth: u32) -> String {
    let bool = |random: &mut StdRng| scalar(random, scope, Kind::Bool, depth);
    match random.random_range(0..10) {
        0 => format!("({} AND {})", bool(random), bool(random)),
        1 => format!("({} OR {})", bool(random), bool(random)),
        2 => format!("(NOT {})", bool(random)),
        3 => match column_of(random, scope, |kind| kind != Kind::Window) {
            Some(column) => format!("({} IS NOT NULL)", column.name),
            None => bool(random),
        },
        4 => format!("({} IN (1, 2, -3))", scalar(random, scope, Kind::Int, depth)),
        5 => format!("({} LIKE 'a%')", scalar(random, scope, Kind::Text, depth)),
        6 => format!("({} BETWEEN -1 AND 4)", scalar(random, scope, Kind::Int, depth)),
        _ => comparison(random, scope, depth),
    }
}

fn comparison(random: &mut StdRng, scope: Scope<'_>, depth: u32) -> String {
    let kind = column_of(random, scope, Kind::is_ordered).map_or(Kind::Int, |column| column.kind);
    let operators = [
        "=",
        "<>",
        "<",
        "<=",
        ">",
        ">=",
        "IS DISTINCT FROM",
        "IS NOT DISTINCT FROM",
    ];
    format!(
        "({} {} {})",
        scalar(random, scope, kind, depth),
        pick(random, &operators),
        scalar(random, scope, kind, depth.min(1))
    )
}

/// An expression in the words of the stream and of the batch, and what it gives.
#[derive(Clone, Debug)]
pub struct Expression {
    pub stream: String,
    pub batch: String,
    pub kind: Kind,
}

impl Expression {
    pub fn same(text: String, kind: Kind) -> Expression {
        Expression {
            stream: text.clone(),
            batch: text,
            kind,
        }
    }

    /// As a key. The batch engine tells -0 from 0, Postgres and the stream do not.
    pub fn key(text: String, kind: Kind) -> Expression {
        Expression {
            batch: one_zero(&text, kind),
            stream: text,
            kind,
        }
    }
}

fn one_zero(text: &str, kind: Kind) -> String {
    match kind {
        Kind::WildFloat | Kind::Float => format!("(CASE WHEN abs({text}) = 0 THEN abs({text}) ELSE {text} END)"),
        _ => text.to_owned(),
    }
}

pub fn aggregate(random: &mut StdRng, scope: Scope<'_>) -> Expression {
    let plain = plain_aggregate(random, scope);
    let filter = match random.random_range(0..5) {
        0 => format!(" FILTER (WHERE {})", scalar(random, scope, Kind::Bool, 2)),
        _ => String::new(),
    };
    Expression {
        stream: format!("{}{filter}", plain.stream),
        batch: format!("{}{filter}", plain.batch),
        kind: plain.kind,
    }
}

fn plain_aggregate(random: &mut StdRng, scope: Scope<'_>) -> Expression {
    let same = |text: String, kind| Expression::same(text, kind);
    match random.random_range(0..14) {
        0 => same("count(*)".into(), Kind::Int),
        1 => {
            let counted = column_of(random, scope, |kind| kind != Kind::Window);
            same(
                format!("count({})", counted.map_or("1".into(), |column| column.name)),
                Kind::Int,
            )
        }
        2 => match column_of(random, scope, Kind::is_key) {
            Some(column) => Expression {
                stream: format!("count(DISTINCT {})", column.name),
                batch: format!("count(DISTINCT {})", one_zero(&column.name, column.kind)),
                kind: Kind::Int,
            },
            None => same("count(*)".into(), Kind::Int),
        },
        3 => same(format!("sum({})", scalar(random, scope, Kind::Int, 1)), Kind::Int),
        4 => same(format!("sum({})", scalar(random, scope, Kind::Float, 1)), Kind::Float),
        // Of constants the batch engine gives sums of another precision than it has planned.
        5 => match column_of(random, scope, |kind| kind == Kind::Numeric) {
            Some(column) => same(format!("sum({})", column.name), Kind::WideNumeric),
            None => same("count(*)".into(), Kind::Int),
        },
        6 => same(
            format!("sum(DISTINCT {})", scalar(random, scope, Kind::Int, 1)),
            Kind::Int,
        ),
        7 => same(format!("avg({})", scalar(random, scope, Kind::Int, 0)), Kind::Rough),
        8 => same(
            format!("bool_and({})", scalar(random, scope, Kind::Bool, 1)),
            Kind::Bool,
        ),
        9 => same(format!("bool_or({})", scalar(random, scope, Kind::Bool, 1)), Kind::Bool),
        10 => {
            let text = scalar(random, scope, Kind::Text, 0);
            same(format!("string_agg({text}, ',' ORDER BY {text})"), Kind::Text)
        }
        11 => same(
            format!("stddev({})", scalar(random, scope, Kind::Float, 0)),
            Kind::Rough,
        ),
        which => {
            let column = column_of(random, scope, Kind::is_ordered);
            let (name, kind) = column.map_or(("1".into(), Kind::Int), |column| (column.name, column.kind));
            let function = ["min", "max"][which % 2];
            same(format!("{function}({name})"), kind)
        }
    }
}
