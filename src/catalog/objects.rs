//! The objects of the catalog, as plain data.
//!
//! Texts of queries and expressions are SQL as written by the user (already checked once); the planner reads them again
//! at each use. `search_path` of the creating session is kept beside them, so that names keep their meaning.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Oid};
use crate::options::RawOptions;

/// What every object has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectHeader {
    #[serde(with = "oid_number")]
    pub oid: Oid,
    /// `pipe_..`, shown by REST.
    pub public_id: String,
    /// `None` for a schema itself; the schema's name for everything else.
    pub schema: Option<String>,
    pub name: String,
    pub owner: String,
    pub created_at_micros: i64,
    pub updated_at_micros: i64,
    pub comment: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    pub header: ObjectHeader,
}

/// A value nobody can read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    pub header: ObjectHeader,
    pub source: SecretSource,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum SecretSource {
    /// Encrypted at rest, base64 of nonce and ciphertext.
    Sealed(String),
    Environment(String),
    File(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    pub header: ObjectHeader,
    pub connector: String,
    pub options: RawOptions,
    pub description: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub header: ObjectHeader,
    /// Name (schema-qualified OID) of the connection, when the table names one.
    pub connection: Option<u32>,
    pub columns: Vec<Column>,
    /// The statement gave no columns: those above were inferred, or come with the first query that feeds the table.
    pub columns_inferred: bool,
    /// Names of the key columns; empty when there is none.
    pub primary_key: Vec<String>,
    /// What an internal table enforces, in the order of the statement; empty for connected tables.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    pub watermark: Option<WatermarkDefinition>,
    pub options: RawOptions,
    pub search_path: Vec<String>,
}

impl Table {
    /// Laminar keeps its rows: it is connected to nothing.
    pub fn is_internal(&self) -> bool {
        self.connection.is_none() && self.options.get("connector").is_none()
    }
}

/// A named rule that every row of an internal table keeps. NOT NULL is said by the columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    pub name: String,
    pub kind: ConstraintKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ConstraintKind {
    /// Over [`Table::primary_key`].
    PrimaryKey,
    Unique {
        columns: Vec<String>,
    },
    /// The expression's text.
    Check {
        expression: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// As SQL, such as `NUMERIC(10,2)` or `STRUCT<id BIGINT, name TEXT>`; `types::parse` reads it.
    pub sql_type: String,
    pub not_null: bool,
    pub default: Option<String>,
    pub kind: ColumnKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ColumnKind {
    Physical,
    /// `METADATA FROM 'key'`.
    Metadata(String),
    /// `GENERATED ALWAYS AS (expr)`; the expression's text.
    Generated {
        expression: String,
        stored: bool,
    },
}

/// `WATERMARK FOR column AS (expression)`; no expression: the column itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatermarkDefinition {
    pub column: String,
    pub expression: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub header: ObjectHeader,
    /// The query's text.
    pub query: String,
    /// Names given in `CREATE VIEW v (a, b)`; empty: those of the query.
    pub column_names: Vec<String>,
    /// Result columns when it was created, for catalog views: name and SQL type.
    pub columns: Vec<(String, String)>,
    pub search_path: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub header: ObjectHeader,
    /// What follows AS: a SELECT, an INSERT, a BEGIN .. END of INSERTs, or a whole file of CREATE TABLE, CREATE VIEW and
    /// INSERT statements.
    pub query: String,
    /// `WITH (parallelism = 4, ..)`.
    pub options: RawOptions,
    /// Result columns when it keeps its result: name and SQL type. Empty when it only feeds sinks.
    pub columns: Vec<(String, String)>,
    /// Names of the columns that identify a result row.
    pub unique_key: Vec<String>,
    /// Rows of the result never change once they are there.
    #[serde(default)]
    pub append_only: bool,
    /// All that it reads ends by itself.
    #[serde(default)]
    pub bounded: bool,
    /// Created by CREATE MATERIALIZED VIEW, and shown as one.
    pub materialized_view: bool,
    /// The user wants it to run; survives restarts.
    pub desired_running: bool,
    /// Key groups, fixed at creation.
    pub key_groups: u16,
    pub search_path: Vec<String>,
    /// The newest run of the definition before this one: checkpoints up to that are not of this.
    #[serde(default, with = "generation_number")]
    pub counts_after: Generation,
}

/// Any object; what dependencies, DROP and COMMENT work on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Object {
    Schema(Schema),
    Secret(Secret),
    Connection(Connection),
    Table(Table),
    View(View),
    Pipeline(Pipeline),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ObjectKind {
    Schema,
    Secret,
    Connection,
    Table,
    View,
    Pipeline,
}

impl ObjectKind {
    /// As in messages: `table "t" does not exist`.
    pub fn word(self) -> &'static str {
        match self {
            ObjectKind::Schema => "schema",
            ObjectKind::Secret => "secret",
            ObjectKind::Connection => "connection",
            ObjectKind::Table => "table",
            ObjectKind::View => "view",
            ObjectKind::Pipeline => "pipeline",
        }
    }

    /// Tables, views and pipelines share one namespace, as relations do in Postgres; the others have one each.
    pub fn is_relation(self) -> bool {
        matches!(self, ObjectKind::Table | ObjectKind::View | ObjectKind::Pipeline)
    }
}

impl Object {
    pub fn header(&self) -> &ObjectHeader {
        match self {
            Object::Schema(object) => &object.header,
            Object::Secret(object) => &object.header,
            Object::Connection(object) => &object.header,
            Object::Table(object) => &object.header,
            Object::View(object) => &object.header,
            Object::Pipeline(object) => &object.header,
        }
    }

    pub fn header_mut(&mut self) -> &mut ObjectHeader {
        match self {
            Object::Schema(object) => &mut object.header,
            Object::Secret(object) => &mut object.header,
            Object::Connection(object) => &mut object.header,
            Object::Table(object) => &mut object.header,
            Object::View(object) => &mut object.header,
            Object::Pipeline(object) => &mut object.header,
        }
    }

    pub fn kind(&self) -> ObjectKind {
        match self {
            Object::Schema(_) => ObjectKind::Schema,
            Object::Secret(_) => ObjectKind::Secret,
            Object::Connection(_) => ObjectKind::Connection,
            Object::Table(_) => ObjectKind::Table,
            Object::View(_) => ObjectKind::View,
            Object::Pipeline(_) => ObjectKind::Pipeline,
        }
    }

    pub fn oid(&self) -> Oid {
        self.header().oid
    }
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SecretSource::Sealed(_) => f.write_str("Sealed(***)"),
            SecretSource::Environment(variable) => write!(f, "Environment({variable:?})"),
            SecretSource::File(path) => write!(f, "File({path:?})"),
        }
    }
}

mod generation_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::Generation;

    pub fn serialize<S: Serializer>(generation: &Generation, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(generation.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
        u64::deserialize(deserializer).map(Generation)
    }
}

mod oid_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::Oid;

    pub fn serialize<S: Serializer>(oid: &Oid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(oid.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Oid, D::Error> {
        u32::deserialize(deserializer).map(Oid)
    }
}
