//! SHOW of a list: SELECT from the view of schema `laminar` that has it.

use crate::frontend::error::{Error, Result};
use crate::frontend::response::{Response, RowsTag};
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::{quote, quote_literal};
use crate::frontend::sql::parse;
use crate::frontend::sql::statement::{QueryText, Show, Statement};
use crate::frontend::statements::query;
use crate::frontend::system_views;

/// Columns that a short list shows; the views have more.
const SHOWN: &[(&str, &[&str])] = &[
    (
        "pipelines",
        &[
            "name",
            "schema_name",
            "state",
            "job",
            "parallelism",
            "checkpoint_epoch",
            "started_at",
            "last_error",
        ],
    ),
    (
        "materialized_views",
        &[
            "name",
            "schema_name",
            "state",
            "job",
            "parallelism",
            "checkpoint_epoch",
            "started_at",
            "last_error",
        ],
    ),
    (
        "jobs",
        &[
            "job",
            "pipeline",
            "state",
            "generation",
            "parallelism",
            "started_at",
            "finished_at",
            "error",
        ],
    ),
    (
        "checkpoints",
        &[
            "pipeline",
            "epoch",
            "kind",
            "committed",
            "kept_label",
            "state_rows",
            "bytes",
            "started_at",
            "finished_at",
        ],
    ),
    (
        "connectors",
        &["name", "direction", "formats", "required_options", "summary"],
    ),
    (
        "connections",
        &["name", "schema_name", "connector", "options", "comment"],
    ),
    (
        "tables",
        &[
            "name",
            "schema_name",
            "connector",
            "connection",
            "columns",
            "primary_key",
            "watermark",
            "comment",
        ],
    ),
    ("secrets", &["name", "schema_name", "source", "created_at", "comment"]),
    ("views", &["name", "schema_name", "query", "comment"]),
    ("schemas", &["name", "owner", "comment"]),
    (
        "events",
        &["at", "pipeline", "job", "event", "severity", "code", "message"],
    ),
];

pub async fn show(session: &mut Session, show: &Show) -> Result<Response> {
    let (query, source) = query_of(show)?;
    let (schema, rows) = query::one_shot(session, &query, &source, &[]).await?;
    Ok(Response::Rows {
        schema,
        rows,
        tag: RowsTag::Fixed("SHOW".to_owned()),
    })
}

/// The SELECT behind a SHOW, and its text.
pub(crate) fn query_of(show: &Show) -> Result<(QueryText, String)> {
    let text = select_text(show)?;
    let parsed = parse(&text)?.pop().map(|parsed| parsed.statement);
    match parsed {
        Some(Statement::Query(query)) => Ok((*query, text)),
        _ => Err(Error::Internal("SHOW is not a query".to_owned())),
    }
}

fn select_text(show: &Show) -> Result<String> {
    let Show::Objects {
        view,
        schema,
        like,
        filter,
    } = show
    else {
        return Err(Error::Internal("SHOW without a view".to_owned()));
    };
    let columns = match SHOWN.iter().find(|(name, _)| name == view) {
        Some((_, columns)) => columns.join(", "),
        None => "*".to_owned(),
    };
    let view_columns = system_views::schema_of("laminar", view)
        .ok_or_else(|| Error::Internal(format!("there is no system view laminar.{view}")))?;
    let has = |column: &str| view_columns.index_of(column).is_ok();
    let name = ["name", "pipeline", "job", "user_name", "table_name"]
        .into_iter()
        .find(|column| has(column))
        .unwrap_or("name");
    let mut conditions = Vec::new();
    if let Some(schema) = schema {
        let column = ["schema_name", "pipeline_schema"]
            .into_iter()
            .find(|column| has(column))
            .ok_or_else(|| {
                Error::not_supported(
                    format!("SHOW {} FROM a schema", view.to_uppercase()),
                    "They are not in schemas; leave FROM out.",
                )
            })?;
        conditions.push(format!("{} = {}", quote(column), quote_literal(schema)));
    }
    if let Some(pattern) = like {
        conditions.push(format!("{} LIKE {}", quote(name), quote_literal(pattern)));
    }
    if let Some(filter) = filter {
        conditions.push(format!("({filter})"));
    }
    let condition = match conditions.as_slice() {
        [] => String::new(),
        given => format!(" WHERE {}", given.join(" AND ")),
    };
    let order = if has("schema_name") && name == "name" {
        "schema_name, name".to_owned()
    } else if has("at") {
        // A story is told in its order.
        "at".to_owned()
    } else {
        quote(name)
    };
    Ok(format!(
        "SELECT {columns} FROM laminar.{view}{condition} ORDER BY {order}"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::frontend::sql::reading::LISTS;
    use crate::frontend::testing::TestServer;

    fn text(statement: &str) -> String {
        match parse(statement).unwrap().remove(0).statement {
            Statement::Show(show) => select_text(&show).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_are_queries() {
        assert_eq!(
            text("SHOW SCHEMAS LIKE 'a%' WHERE owner = 'x' OR true"),
            "SELECT name, owner, comment FROM laminar.schemas WHERE name LIKE 'a%' AND (owner = 'x' OR true) ORDER BY name"
        );
        assert!(text("SHOW CHECKPOINTS FOR PIPELINE p").contains("WHERE (pipeline = 'p') ORDER BY pipeline"));
        assert!(text("SHOW TABLES FROM s").contains("WHERE schema_name = 's'"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_list_can_be_shown() {
        let server = TestServer::start().await;
        let mut client = server.client();
        for (words, _) in LISTS {
            let words = words.join(" ");
            client.rows(&format!("SHOW {words}")).await;
            client.rows(&format!("SHOW {words} LIKE 'a%'")).await;
        }
        server.stop().await;
    }

    #[test]
    fn every_shown_column_exists() {
        for (view, columns) in SHOWN {
            let schema = system_views::schema_of("laminar", view).unwrap();
            for column in *columns {
                assert!(schema.index_of(column).is_ok(), "{view}.{column}");
            }
        }
    }
}
