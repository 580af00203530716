//! The end of a pipeline: kept results, sinks, clients.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, Literal, cast};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::scalar::ScalarValue;

use crate::engine::connectors::{ConnectorTable, SinkChangelogSupport};
use crate::engine::graph::{Exchange, GraphEdge, MaterializeSpec, OperatorSpec, SinkChangelog, SinkSpec, StreamShape};
use crate::error::{ErrorReport, SqlState};
use crate::ids::Oid;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::{names, result_type};
use crate::planner::error::{Error, Result};
use crate::planner::graph::NewNode;
use crate::planner::physical::{Lowering, Stream};

/// Where the rows of a query go that has no sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Kept as the result of this pipeline.
    Kept(Oid),
    Client {
        limit: Option<u64>,
    },
}

/// What a column of a sink is filled with.
#[derive(Clone, Debug)]
pub enum Filling {
    /// A column of the query.
    Column(usize),
    /// Nothing was said: the column's default, already evaluated, or NULL.
    Constant(ScalarValue),
}

/// A sink and the columns it takes.
pub struct SinkTarget {
    pub name: String,
    pub table: Arc<dyn ConnectorTable>,
    pub schema: SchemaRef,
    /// What checks the values of each column, where their length is limited.
    pub length_checks: Vec<Option<Arc<ScalarUDF>>>,
    pub primary_key: Option<Vec<usize>>,
    pub oid: Oid,
}

impl Lowering {
    /// Ends the graph at `destination`; gives the schema and key of what comes out.
    pub fn finish_query(&mut self, stream: Stream, destination: Destination) -> Result<StreamShape> {
        let shown: Vec<String> = match destination {
            Destination::Kept(_) => {
                names::unique(stream.shape.schema.fields().iter().map(|field| field.name().as_str()))
            }
            Destination::Client { .. } => {
                let fields = stream.shape.schema.fields().iter();
                fields.map(|field| names::shown(field.name()).to_owned()).collect()
            }
        };
        let stream = self.typed_output(stream, &shown)?;
        let parallelism = self.builder.node(stream.node).parallelism;
        let shape = stream.shape.clone();
        match destination {
            Destination::Kept(pipeline) => {
                // A key of no columns is the one row of a global aggregate, which its columns tell as well.
                let key = shape.unique_key.clone().filter(|key| !key.is_empty());
                let names = key
                    .iter()
                    .flatten()
                    .map(|&column| shape.schema.field(column).name().as_str());
                let names: Vec<&str> = names.collect();
                let description = match names.as_slice() {
                    [] => String::new(),
                    names => format!("key=[{}]", names.join(", ")),
                };
                let edge = self.kept_edge(&stream, key.as_deref(), parallelism);
                self.builder.add(NewNode {
                    operator: OperatorSpec::Materialize(MaterializeSpec {
                        pipeline,
                        key: key.clone(),
                        append_only: shape.append_only,
                    }),
                    description,
                    fingerprint: format!("{key:?}"),
                    inputs: vec![edge],
                    identified_by: None,
                    output: shape.clone(),
                    parallelism,
                    shared: false,
                });
            }
            Destination::Client { limit } => {
                let edge = self.builder.forward(stream.node, 1);
                self.builder.add(NewNode {
                    operator: OperatorSpec::ClientOutput { limit },
                    description: limit.map(|limit| format!("limit={limit}")).unwrap_or_default(),
                    fingerprint: format!("{limit:?}"),
                    inputs: vec![edge],
                    identified_by: None,
                    output: shape.clone(),
                    parallelism: 1,
                    shared: false,
                });
            }
        }
        Ok(shape)
    }

    /// Output names, and text where an expression has no type.
    fn typed_output(&mut self, stream: Stream, shown: &[String]) -> Result<Stream> {
        let input = Arc::clone(&stream.shape.schema);
        let mut fields = Vec::with_capacity(shown.len());
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(shown.len());
        for (index, (field, name)) in input.fields().iter().zip(shown).enumerate() {
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(field.name(), index));
            let of = result_type(field.data_type());
            expressions.push(casted(column, &input, &of)?);
            fields.push(field.as_ref().clone().with_name(name).with_data_type(of));
        }
        Ok(self.project(stream, expressions, Arc::new(Schema::new(fields)), shown.to_vec()))
    }

    /// The edge into a kept result: by exactly its key, since readers look a row up where the key's hash says; by all
    /// columns where rows change and only those tell them apart.
    fn kept_edge(&self, stream: &Stream, key: Option<&[usize]>, parallelism: u32) -> GraphEdge {
        let all: Vec<usize> = (0..stream.shape.schema.fields().len()).collect();
        let columns = match key {
            Some(key) => key.to_vec(),
            None => all,
        };
        if parallelism == 1 || stream.spread.as_ref().is_some_and(|spread| spread.is_by(&columns)) {
            return self.builder.forward(stream.node, parallelism);
        }
        GraphEdge {
            from: stream.node,
            exchange: Exchange::Hash { columns },
        }
    }

    /// The edge into a sink that needs all rows of a key in one subtask, whichever.
    fn together_edge(&self, stream: &Stream, key: &[usize], parallelism: u32) -> GraphEdge {
        // Rows that agree in the key agree in a part of it.
        let together = stream
            .spread
            .as_ref()
            .is_some_and(|spread| spread.places_in(key).is_some());
        if together || parallelism == 1 {
            return self.builder.forward(stream.node, parallelism);
        }
        GraphEdge {
            from: stream.node,
            exchange: Exchange::Hash { columns: key.to_vec() },
        }
    }

    /// The query's columns as the sink's.
    pub fn fill_sink(&mut self, stream: Stream, target: &SinkTarget, fillings: &[Filling]) -> Result<Stream> {
        let input = Arc::clone(&stream.shape.schema);
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(fillings.len());
        for (index, (filling, field)) in fillings.iter().zip(target.schema.fields()).enumerate() {
            let value: Arc<dyn PhysicalExpr> = match filling {
                Filling::Column(index) => Arc::new(PhysicalColumn::new(input.field(*index).name(), *index)),
                Filling::Constant(value) => Arc::new(Literal::new(value.clone())),
            };
            let value = casted(value, &input, field.data_type())?;
            expressions.push(match target.length_checks.get(index).cloned().flatten() {
                Some(check) => checked(value, check, field),
                None => value,
            });
        }
        let texts = target
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        Ok(self.project(stream, expressions, Arc::clone(&target.schema), texts))
    }

    /// Delivers to a sink.
    pub fn finish_sink(&mut self, stream: Stream, target: &SinkTarget) -> Result<()> {
        let changelog = changelog(&stream, target)?;
        let wide = self.builder.node(stream.node).parallelism;
        let parallelism = match target.table.sink_parallelism_max() {
            Some(most) if most < wide => 1,
            _ => wide,
        };
        let edge = match &changelog {
            _ if parallelism != wide => self.builder.forward(stream.node, parallelism),
            SinkChangelog::Upsert { key } => self.together_edge(&stream, key, parallelism),
            _ => self.builder.forward(stream.node, parallelism),
        };
        let columns: Vec<&str> = target
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let how = match &changelog {
            SinkChangelog::Append => "",
            SinkChangelog::Debezium { .. } => " changelog=debezium",
            SinkChangelog::Upsert { .. } => " changelog=upsert",
        };
        let identity = match target.oid.0 {
            0 => format!("local {}", target.name),
            oid => format!("oid {oid}"),
        };
        self.builder.add(NewNode {
            operator: OperatorSpec::Sink(SinkSpec {
                table_name: target.name.clone(),
                table: Arc::clone(&target.table),
                changelog,
            }),
            description: format!("{} columns=[{}]{how}", target.name, columns.join(", ")),
            fingerprint: identity,
            inputs: vec![edge],
            // What was delivered is delivered, whatever fed it.
            identified_by: Some(Vec::new()),
            // Under the sink's own names: a projection that changes nothing else is left out.
            output: StreamShape {
                schema: Arc::clone(&target.schema),
                ..stream.shape.clone()
            },
            parallelism,
            shared: false,
        });
        Ok(())
    }
}

fn casted(value: Arc<dyn PhysicalExpr>, schema: &Schema, to: &DataType) -> Result<Arc<dyn PhysicalExpr>> {
    let from = value.data_type(schema).map_err(|error| SourceText("").error(error))?;
    if from == *to {
        return Ok(value);
    }
    cast(value, schema, to.clone()).map_err(|error| SourceText("").error(error))
}

fn checked(value: Arc<dyn PhysicalExpr>, check: Arc<ScalarUDF>, field: &FieldRef) -> Arc<dyn PhysicalExpr> {
    let name = check.name().to_owned();
    let options = Arc::new(ConfigOptions::new());
    Arc::new(ScalarFunctionExpr::new(
        &name,
        check,
        vec![value],
        Arc::clone(field),
        options,
    ))
}

/// How the rows reach the sink: as they are, unless they change.
fn changelog(stream: &Stream, target: &SinkTarget) -> Result<SinkChangelog> {
    let support = target.table.sink_changelog(target.primary_key.as_deref());
    match support {
        // A format for changes writes inserts as changes too.
        SinkChangelogSupport::Any(SinkChangelog::Debezium { .. }) => Ok(SinkChangelog::Debezium {
            key: stream.shape.unique_key.clone(),
        }),
        SinkChangelogSupport::Any(SinkChangelog::Upsert { key }) => {
            one_row_a_key(stream, target, &key)?;
            Ok(SinkChangelog::Upsert { key })
        }
        SinkChangelogSupport::Any(SinkChangelog::Append) => Ok(SinkChangelog::Append),
        SinkChangelogSupport::NeedsKey => Err(Error::Table(
            ErrorReport::new(
                SqlState::INVALID_TABLE_DEFINITION,
                format!("table \"{}\" takes upserts and has no PRIMARY KEY", target.name),
            )
            .with_hint("Declare the columns by which rows replace each other: PRIMARY KEY (column, ..)."),
        )),
        SinkChangelogSupport::AppendOnly | SinkChangelogSupport::AppendUnlessKeyed if stream.shape.append_only => {
            Ok(SinkChangelog::Append)
        }
        SinkChangelogSupport::AppendUnlessKeyed => Err(Error::not_supported(
            format!(
                "table \"{}\" has no PRIMARY KEY and cannot take updates, which this query produces",
                target.name
            ),
            "Declare the columns by which rows replace each other: PRIMARY KEY (column, ..).",
        )),
        SinkChangelogSupport::AppendOnly => Err(Error::not_supported(
            format!(
                "table \"{}\" cannot take updates, which this query produces",
                target.name
            ),
            "Use format = 'debezium_json', or envelope = 'upsert' and a PRIMARY KEY; group by a TUMBLE window; or keep the \
             result: CREATE PIPELINE .. AS SELECT ..",
        )),
    }
}

/// Rows replace each other by `key`, so the query may have one row a key only.
fn one_row_a_key(stream: &Stream, target: &SinkTarget, key: &[usize]) -> Result<()> {
    let unique = stream.shape.unique_key.as_deref();
    if unique.is_some_and(|unique| unique.iter().all(|column| key.contains(column))) {
        return Ok(());
    }
    let names = |columns: &[usize]| {
        let names = columns
            .iter()
            .map(|&column| target.schema.field(column).name().as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let message = format!(
        "rows of this query are not known to be unique by ({}), the PRIMARY KEY of table \"{}\"",
        names(key),
        target.name
    );
    let hint = match unique {
        Some(unique) => format!(
            "They are by ({}): declare that PRIMARY KEY, or keep one row of each by DISTINCT ON ({}).",
            names(unique),
            names(key)
        ),
        None => format!(
            "GROUP BY ({0}), or keep one row of each by DISTINCT ON ({0}) .. ORDER BY.",
            names(key)
        ),
    };
    Err(Error::Table(
        ErrorReport::new(SqlState::INVALID_COLUMN_REFERENCE, message).with_hint(hint),
    ))
}

/// The columns of a query as columns of a sink without any.
pub fn inferred_fields(schema: &Schema) -> Vec<Field> {
    let unique = names::unique(schema.fields().iter().map(|field| field.name().as_str()));
    schema
        .fields()
        .iter()
        .zip(unique)
        .map(|(field, name)| {
            let of = result_type(field.data_type());
            field
                .as_ref()
                .clone()
                .with_name(name)
                .with_data_type(of)
                .with_nullable(true)
        })
        .collect()
}
