//! Internal tables: the graph of the job that keeps one, and what statements that change one compute.
//!
//! [`statements`] turns INSERT, UPDATE, DELETE and their clauses into queries for the batch engine; [`rules`] completes rows
//! (generated columns, lengths) and checks them (NOT NULL, CHECK). What is unique is checked where the rows are known.

pub mod rules;
pub mod statements;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use crate::catalog::objects::Table;
use crate::engine::graph::{
    Exchange, GraphEdge, GraphNode, JobGraph, MaterializeSpec, OperatorSpec, SourceSpec, StreamShape,
};
use crate::engine::internal_tables::{InternalTableSource, InternalTables};
use crate::ids::OperatorId;
use crate::planner::bind::tables::{declared_fields, qualified};
use crate::planner::error::Result;

/// All columns of an internal table, in order.
pub fn schema_of(table: &Table) -> Result<SchemaRef> {
    Ok(Arc::new(Schema::new(declared_fields(table)?)))
}

/// The job of an internal table: its mailbox, and what keeps the rows.
pub fn job_graph(table: &Table, tables: &InternalTables) -> Result<JobGraph> {
    let schema = schema_of(table)?;
    let key: Vec<usize> = table
        .primary_key
        .iter()
        .filter_map(|name| schema.index_of(name).ok())
        .collect();
    let key = (!key.is_empty()).then_some(key);
    let shape = StreamShape {
        schema: Arc::clone(&schema),
        append_only: false,
        unique_key: key.clone(),
        event_time: false,
    };
    let mailbox = tables.get(table.header.oid);
    let source = GraphNode {
        // Nothing else is in the graph, so the names need not say what the operators do.
        id: OperatorId("table_changes".to_owned()),
        lineage: String::new(),
        description: qualified(table),
        operator: OperatorSpec::Source(SourceSpec {
            table_name: qualified(table),
            table: Arc::new(InternalTableSource::new(mailbox, Arc::clone(&schema))),
            physical_schema: schema,
            key: None,
            event_time: None,
            projection: None,
        }),
        parallelism: 1,
        inputs: Vec::new(),
        output: shape.clone(),
    };
    let kept = GraphNode {
        id: OperatorId("table_rows".to_owned()),
        lineage: String::new(),
        description: format!("key=[{}]", table.primary_key.join(", ")),
        operator: OperatorSpec::Materialize(MaterializeSpec {
            pipeline: table.header.oid,
            key,
            append_only: false,
        }),
        parallelism: 1,
        inputs: vec![GraphEdge {
            from: 0,
            exchange: Exchange::Forward,
        }],
        output: shape,
    };
    Ok(JobGraph {
        nodes: vec![source, kept],
        parallelism: 1,
    })
}
