//! Plans and graphs for people: text, JSON, DOT.

use std::fmt::Write;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::unparser::Unparser;
use datafusion::sql::unparser::dialect::{CustomDialectBuilder, IntervalStyle};

use crate::engine::graph::{Exchange, GraphEdge, GraphNode, JobGraph, WindowSpec};
use crate::planner::bind::names;
use crate::planner::functions::checked_arithmetic;

/// An expression as SQL, without the table qualifiers and aliases that it got while planning.
pub fn expression(expr: &Expr) -> String {
    let plain = expr
        .clone()
        .unalias()
        .transform(|node| {
            Ok(match node {
                Expr::Column(column) => {
                    Transformed::yes(Expr::Column(Column::new_unqualified(column_name(&column.name))))
                }
                Expr::Alias(alias) => Transformed::yes(*alias.expr),
                Expr::ScalarFunction(call) => as_written(call),
                other => Transformed::no(other),
            })
        })
        .data();
    // Nothing above can fail; the expression as it is serves as well.
    let plain = plain.unwrap_or_else(|_| expr.clone());
    let dialect = CustomDialectBuilder::new()
        .with_interval_style(IntervalStyle::PostgresVerbose)
        .build();
    match Unparser::new(&dialect).with_pretty(true).expr_to_sql(&plain) {
        Ok(sql) => sql.to_string().replace("count(1)", "count(*)"),
        Err(_) => plain.human_display().to_string(),
    }
}

/// Checked arithmetic as the operators that the query has.
fn as_written(call: ScalarFunction) -> Transformed<Expr> {
    match checked_arithmetic::replaced(&call) {
        Some(expr) => Transformed::yes(expr),
        None => Transformed::no(Expr::ScalarFunction(call)),
    }
}

/// The name of a column, without the qualifiers and types that DataFusion writes into names of expressions.
pub fn column_name(name: &str) -> String {
    let name = names::shown(name).replace("count(Int64(1))", "count(*)");
    if !name.contains(['(', ' ']) {
        return name.rsplit_once('.').map_or(name.clone(), |(_, last)| last.to_owned());
    }
    without_literal_types(&without_qualifiers(&name))
}

/// `max(t.x)` as `max(x)`.
fn without_qualifiers(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut word = String::new();
    let mut characters = name.chars().peekable();
    while let Some(character) = characters.next() {
        let starts_field = characters
            .peek()
            .is_some_and(|next| next.is_alphabetic() || *next == '_');
        let is_name = word.starts_with(|first: char| first.is_alphabetic() || first == '_');
        match character {
            '.' if starts_field && is_name => word.clear(),
            character if character.is_alphanumeric() || character == '_' => word.push(character),
            other => {
                text.push_str(&word);
                word.clear();
                text.push(other);
            }
        }
    }
    text.push_str(&word);
    text
}

/// `Int64(5)` as `5`, `Utf8("a")` as `'a'`.
fn without_literal_types(name: &str) -> String {
    let mut text = name.to_owned();
    for of in ["Int64(", "Int32(", "Float64(", "Boolean(", "Utf8("] {
        while let Some(start) = text.find(of) {
            let inside = start + of.len();
            let Some(length) = text[inside..].find(')') else {
                break;
            };
            let value = text[inside..inside + length].replace('"', "'");
            text.replace_range(start..=inside + length, &value);
        }
    }
    text
}

/// A window as it is written in a query.
pub fn window(window: WindowSpec) -> String {
    match window {
        WindowSpec::Tumble { size_micros } => format!("tumble({})", duration(size_micros)),
        WindowSpec::Hop {
            slide_micros,
            size_micros,
        } => format!("hop({}, {})", duration(slide_micros), duration(size_micros)),
        WindowSpec::Session { gap_micros } => format!("session({})", duration(gap_micros)),
        WindowSpec::Given { .. } => "that of the rows".into(),
    }
}

/// `10 s`, `1 min`, `250 ms`: the largest unit that leaves a whole number.
pub fn duration(micros: i64) -> String {
    let units = [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "min"),
        (1_000_000, "s"),
        (1_000, "ms"),
    ];
    for (unit, name) in units {
        if micros % unit == 0 {
            return format!("{} {name}", micros / unit);
        }
    }
    format!("{micros} us")
}

/// A logical plan, one node a line.
pub fn logical(plan: &LogicalPlan) -> String {
    let readable = plan.clone().transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            expr.transform_up(|part| {
                Ok(match part {
                    Expr::ScalarFunction(call) => as_written(call),
                    other => Transformed::no(other),
                })
            })
        })
    });
    // Nothing above can fail; the plan as it is serves as well.
    let readable = readable.data().unwrap_or_else(|_| plan.clone());
    readable.display_indent().to_string().replace(names::REPEATED, ":")
}

/// The graph's operators as a tree from the end to the sources, without how many run.
pub fn physical(graph: &JobGraph) -> String {
    tree(graph, false)
}

/// The graph as a tree with parallelism and exchanges.
pub fn graph(graph: &JobGraph) -> String {
    tree(graph, true)
}

fn tree(graph: &JobGraph, how_many: bool) -> String {
    let mut text = String::new();
    let mut printed = vec![false; graph.nodes.len()];
    for (index, _) in graph.nodes.iter().enumerate().rev() {
        let consumed = graph
            .nodes
            .iter()
            .any(|node| node.inputs.iter().any(|edge| edge.from == index));
        if !consumed {
            branch(graph, index, None, 0, how_many, &mut printed, &mut text);
        }
    }
    text
}

fn branch(
    graph: &JobGraph,
    index: usize,
    edge: Option<(&GraphEdge, &GraphNode)>,
    depth: usize,
    how_many: bool,
    printed: &mut [bool],
    text: &mut String,
) {
    let node = &graph.nodes[index];
    let mut depth = depth;
    if how_many
        && let Some((edge, _)) = edge
        && edge.exchange != Exchange::Forward
    {
        let _ = writeln!(
            text,
            "{:indent$}exchange {}",
            "",
            exchange(edge, node),
            indent = depth * 2
        );
        depth += 1;
    }
    let _ = write!(text, "{:indent$}{}", "", line(node), indent = depth * 2);
    if how_many {
        let _ = write!(text, " x{}", node.parallelism);
    }
    if std::mem::replace(&mut printed[index], true) && !node.inputs.is_empty() {
        text.push_str(" (shared, above)\n");
        return;
    }
    text.push('\n');
    for edge in &node.inputs {
        branch(graph, edge.from, Some((edge, node)), depth + 1, how_many, printed, text);
    }
}

fn line(node: &GraphNode) -> String {
    match node.description.as_str() {
        "" => node.operator.name().to_owned(),
        description => format!("{} {description}", node.operator.name()),
    }
}

fn exchange(edge: &GraphEdge, from: &GraphNode) -> String {
    match &edge.exchange {
        Exchange::Forward => "forward".into(),
        Exchange::Single => "single".into(),
        Exchange::Hash { columns } => {
            let names: Vec<String> = columns
                .iter()
                .map(|&column| column_name(from.output.schema.field(column).name()))
                .collect();
            format!("hash({})", names.join(", "))
        }
    }
}

/// The graph as JSON: `{"parallelism", "nodes": [..]}`.
pub fn graph_json(graph: &JobGraph) -> serde_json::Value {
    let nodes: Vec<serde_json::Value> = graph.nodes.iter().map(|node| node_json(graph, node)).collect();
    serde_json::json!({ "parallelism": graph.parallelism, "nodes": nodes })
}

fn node_json(graph: &JobGraph, node: &GraphNode) -> serde_json::Value {
    let inputs: Vec<serde_json::Value> = node
        .inputs
        .iter()
        .map(|edge| {
            let from = &graph.nodes[edge.from];
            serde_json::json!({ "from": from.id.0, "exchange": exchange(edge, from) })
        })
        .collect();
    let columns: Vec<serde_json::Value> = node
        .output
        .schema
        .fields()
        .iter()
        .map(|field| {
            let of = crate::types::SqlType::from_arrow_field(field).map(|of| of.to_sql());
            serde_json::json!({ "name": names::shown(field.name()), "type": of })
        })
        .collect();
    serde_json::json!({
        "id": node.id.0,
        "operator": node.operator.name(),
        "description": node.description,
        "parallelism": node.parallelism,
        "append_only": node.output.append_only,
        "unique_key": node.output.unique_key,
        "columns": columns,
        "inputs": inputs,
    })
}

/// The graph in Graphviz's language.
pub fn graph_dot(graph: &JobGraph) -> String {
    let mut text = String::from("digraph pipeline {\n  rankdir = LR;\n  node [shape = box];\n");
    for node in &graph.nodes {
        let label = format!(
            "{}\\n{}\\nx{}",
            node.operator.name(),
            escaped(&node.description),
            node.parallelism
        );
        let _ = writeln!(text, "  {} [label = \"{label}\"];", node.id.0);
    }
    for node in &graph.nodes {
        for edge in &node.inputs {
            let from = &graph.nodes[edge.from];
            let label = escaped(&exchange(edge, from));
            let _ = writeln!(text, "  {} -> {} [label = \"{label}\"];", from.id.0, node.id.0);
        }
    }
    text.push_str("}\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_expressions_are_plain() {
        assert_eq!(column_name("max(per_auction.bids)"), "max(bids)");
        assert_eq!(column_name("t.price + Float64(1.5)"), "price + 1.5");
        assert_eq!(column_name("bids.bidder"), "bidder");
        assert_eq!(column_name("t.a = Utf8(\"x\")"), "a = 'x'");
    }

    #[test]
    fn durations_use_the_largest_whole_unit() {
        assert_eq!(duration(10_000_000), "10 s");
        assert_eq!(duration(90_000_000), "90 s");
        assert_eq!(duration(60_000_000), "1 min");
        assert_eq!(duration(86_400_000_000), "1 d");
        assert_eq!(duration(1_500), "1500 us");
    }
}
