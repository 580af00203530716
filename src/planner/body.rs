//! A pipeline's body as the frontend hands it over: parsed, with the text that positions refer to.
//!
//! The frontend owns Laminar's statements (CREATE TABLE, EMIT, BEGIN .. END); what is left here is standard SQL queries.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query};

use crate::catalog::objects::Object;
use crate::engine::graph::EmitMode;

/// What a pipeline computes and where it goes.
#[derive(Clone, Debug)]
pub struct Body {
    pub statement: PipelineBody,
    /// `EMIT ON UPDATE` or `EMIT ON WINDOW CLOSE`; `None` when the query says neither.
    pub emit: Option<EmitMode>,
    /// Tables and views that only this pipeline sees; they hide relations of the catalog with the same name.
    pub local_objects: Vec<Object>,
    /// The text that the spans of `statement` count lines and columns in.
    pub text: String,
}

#[derive(Clone, Debug)]
pub enum PipelineBody {
    /// The result is kept (or goes to the client that asked).
    Query(Box<Query>),
    /// One or several sinks are fed.
    Inserts(Vec<InsertStatement>),
}

/// `INSERT INTO target [(columns)] query`.
#[derive(Clone, Debug)]
pub struct InsertStatement {
    pub target: ObjectName,
    /// Empty: all columns of the target in order.
    pub columns: Vec<Ident>,
    pub query: Box<Query>,
}

impl Body {
    /// A query without anything local; `text` is its source.
    pub fn query(query: Box<Query>, text: impl Into<String>) -> Body {
        Body {
            statement: PipelineBody::Query(query),
            emit: None,
            local_objects: Vec::new(),
            text: text.into(),
        }
    }

    /// INSERT statements without anything local; `text` is their source.
    pub fn inserts(inserts: Vec<InsertStatement>, text: impl Into<String>) -> Body {
        Body {
            statement: PipelineBody::Inserts(inserts),
            emit: None,
            local_objects: Vec::new(),
            text: text.into(),
        }
    }
}
