//! The table on the server: what it is, and whether a sink can write to it.

use tokio_postgres::Client;

use crate::engine::connectors::Result;
use crate::engine::connectors::postgres::{failed, quote_always};
use crate::engine::error::Error;
use crate::error::{ErrorReport, SqlState};

/// The table in which the server keeps which epochs it has, one row a sink; in the schema of the sink's table.
pub const COMMITS: &str = "laminar_commits";

/// Where rows go.
#[derive(Clone, Debug)]
pub struct Target {
    pub oid: u32,
    pub schema: String,
    pub table: String,
    kind: String,
    may_write: bool,
    may_create: bool,
    commits_exists: bool,
    columns: Vec<TargetColumn>,
    /// The columns of each unique index that can decide conflicts, ordered by name.
    unique: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
struct TargetColumn {
    name: String,
    must_be_given: bool,
    generated: bool,
}

const ABOUT_TABLE: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
     pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') \
         AND (NOT $2::boolean OR pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE')), \
     pg_catalog.has_schema_privilege(n.oid, 'CREATE'), \
     EXISTS (SELECT FROM pg_catalog.pg_class k WHERE k.relnamespace = n.oid AND k.relname = 'laminar_commits') \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid = $1::text::pg_catalog.regclass";

const ABOUT_COLUMNS: &str = "SELECT attname::text, attnotnull AND NOT atthasdef AND attidentity = '', \
     attgenerated <> '' OR attidentity = 'a' \
     FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

const ABOUT_UNIQUE: &str = "SELECT (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attname::text) \
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid \
         AND a.attnum = ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1])) \
     FROM pg_catalog.pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid \
     AND i.indpred IS NULL AND i.indexprs IS NULL";

impl Target {
    /// `relation`: as it stands in FROM. `keyed`: rows also go.
    pub async fn look(client: &Client, relation: &str, keyed: bool) -> Result<Target> {
        let what = "could not look at the target table of the Postgres server";
        let wrap = |error: tokio_postgres::Error| failed(what, &error);
        let about = client
            .query_one(ABOUT_TABLE, &[&relation, &keyed])
            .await
            .map_err(wrap)?;
        let oid: u32 = about.try_get(0).map_err(wrap)?;
        let columns = client.query(ABOUT_COLUMNS, &[&oid]).await.map_err(wrap)?;
        let column = |row: &tokio_postgres::Row| {
            Ok(TargetColumn {
                name: row.try_get(0)?,
                must_be_given: row.try_get(1)?,
                generated: row.try_get(2)?,
            })
        };
        let columns = columns.iter().map(column).collect::<std::result::Result<_, _>>();
        let unique = client.query(ABOUT_UNIQUE, &[&oid]).await.map_err(wrap)?;
        let unique = unique
            .iter()
            .map(|row| row.try_get(0))
            .collect::<std::result::Result<_, _>>();
        Ok(Target {
            oid,
            schema: about.try_get(1).map_err(wrap)?,
            table: about.try_get(2).map_err(wrap)?,
            kind: about.try_get(3).map_err(wrap)?,
            may_write: about.try_get(4).map_err(wrap)?,
            may_create: about.try_get(5).map_err(wrap)?,
            commits_exists: about.try_get(6).map_err(wrap)?,
            columns: columns.map_err(wrap)?,
            unique: unique.map_err(wrap)?,
        })
    }

    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_always(&self.schema), quote_always(&self.table))
    }

    /// The name of the publication that is made for it, for all its readers.
    pub fn publication(&self) -> String {
        format!("laminar_of_{}", self.oid)
    }

    pub fn is_ordinary(&self) -> bool {
        self.kind == "r"
    }

    pub fn commits_quoted(&self) -> String {
        format!("{}.{}", quote_always(&self.schema), quote_always(COMMITS))
    }

    /// Everything but the types: see [`columns::check_sink`](super::columns::check_sink).
    pub fn check(&self, declared: &[String], key: &[String], named: &str) -> Result<()> {
        if !matches!(self.kind.as_str(), "r" | "p") {
            return Err(refused(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{named} is not a table and cannot be a target"),
                "Write into the table behind it.",
            ));
        }
        if !self.may_write {
            return Err(refused(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("permission denied for {named}"),
                "The user of the connection needs SELECT and INSERT, and with a PRIMARY KEY also UPDATE and DELETE.",
            ));
        }
        if !self.may_create && !self.commits_exists {
            return Err(refused(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("permission denied for schema {} of the Postgres server", self.schema),
                "Laminar keeps the table laminar_commits there: GRANT CREATE ON SCHEMA, or create it yourself; the manual says how.",
            ));
        }
        self.check_columns(declared, named)?;
        self.check_key(key, named)
    }

    fn check_columns(&self, declared: &[String], named: &str) -> Result<()> {
        for column in &self.columns {
            let is_declared = declared.contains(&column.name);
            if column.generated && is_declared {
                return Err(refused(
                    SqlState::GENERATED_ALWAYS,
                    format!("column \"{}\" of {named} is generated always", column.name),
                    "Leave it out of the declared columns.",
                ));
            }
            if column.must_be_given && !is_declared && !column.generated {
                return Err(refused(
                    SqlState::NOT_NULL_VIOLATION,
                    format!(
                        "column \"{}\" of {named} is NOT NULL, has no default and is not declared",
                        column.name
                    ),
                    "Declare it, or give it a default on the server.",
                ));
            }
        }
        Ok(())
    }

    fn check_key(&self, key: &[String], named: &str) -> Result<()> {
        let mut wanted = key.to_vec();
        wanted.sort();
        if key.is_empty() || self.unique.contains(&wanted) {
            return Ok(());
        }
        let columns = key.iter().map(|name| quote_always(name)).collect::<Vec<_>>().join(", ");
        Err(refused(
            SqlState::INVALID_COLUMN_REFERENCE,
            format!("{named} has no unique index on ({columns}), the PRIMARY KEY that is declared"),
            &format!(
                "On the server: ALTER TABLE {} ADD PRIMARY KEY ({columns}).",
                self.quoted()
            ),
        ))
    }
}

pub fn refused(code: SqlState, message: String, hint: &str) -> Error {
    Error::Reported(ErrorReport::new(code, message).with_hint(hint))
}
