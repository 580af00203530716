//! Scans: one source a table and pipeline, delivering what all scans of it need.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;

use crate::engine::connectors::keyed_schema;
use crate::engine::graph::{EventTimeExpr, EventTimeSpec, OperatorSpec, SourceSpec, StreamShape, UpsertNormaliseSpec};
use crate::planner::bind::lookup_tables::LookupTable;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::tables::{EventTime, StreamTable, TimeOf};
use crate::planner::error::{Error, Result};
use crate::planner::graph::NewNode;
use crate::planner::physical::access::{self, Access, Accesses};
use crate::planner::physical::lookup_join;
use crate::planner::physical::times::{Distance, TimeFacts};
use crate::planner::physical::{Lowering, Spread, Stream, physical_expression};

/// What a pipeline reads of the columns of which tables.
#[derive(Default)]
pub struct ScannedTables {
    columns: BTreeMap<String, Accesses>,
}

impl ScannedTables {
    /// Adds what `plan` reads.
    pub fn add(&mut self, plan: &LogicalPlan) -> Result<()> {
        let columns = &mut self.columns;
        access::of_plan(plan, &mut |scan, accesses| {
            if let Some(table) = scan.source.downcast_ref::<StreamTable>() {
                let known = columns.entry(identity(table)).or_default();
                for (column, access) in accesses {
                    access::add(known, column, access);
                }
                // Columns that nobody looks at are still on their way.
                for column in scanned(scan) {
                    access::add(known, column, Access::presence());
                }
            }
        })
        .map_err(|error| SourceText("").error(error))
    }
}

fn scanned(scan: &TableScan) -> Vec<usize> {
    match &scan.projection {
        Some(columns) => columns.clone(),
        None => (0..scan.source.schema().fields().len()).collect(),
    }
}

impl Lowering {
    pub(super) fn scan(&mut self, scan: &TableScan) -> Result<Stream> {
        if let Some(table) = scan.source.downcast_ref::<LookupTable>() {
            return Err(lookup_join::alone(table));
        }
        let Some(table) = scan.source.downcast_ref::<StreamTable>() else {
            return Err(Error::not_supported(
                format!("\"{}\" cannot be read by a continuous query", scan.table_name.table()),
                "A continuous query reads connected tables and views over them.",
            ));
        };
        let key = identity(table);
        let wanted = scanned(scan);
        let mut delivered = self.scans.columns.get(&key).cloned().unwrap_or_default();
        if delivered.is_empty() {
            // Rows without any column cannot be counted on their way.
            delivered.insert(cheapest(&table.schema), Access::presence());
        }
        for &column in table.upsert_key.iter().flatten() {
            delivered.insert(column, Access::Whole);
        }
        let source = match self.sources.get(&key) {
            Some(source) => source.clone(),
            None => {
                let source = self.source(table, &delivered)?;
                let source = self.normalised(table, &delivered, source)?;
                self.sources.insert(key, source.clone());
                source
            }
        };
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(wanted.len());
        for column in &wanted {
            let index = delivered
                .keys()
                .position(|candidate| candidate == column)
                .ok_or_else(|| Error::Internal(format!("column {column} of table \"{}\" is not read", table.name)))?;
            expressions.push(Arc::new(PhysicalColumn::new(table.schema.field(*column).name(), index)));
        }
        let fields: Vec<Field> = wanted
            .iter()
            .map(|&column| access::narrowed(table.schema.field(column), &delivered[&column]))
            .collect();
        let names = fields.iter().map(|field| field.name().clone()).collect();
        Ok(self.project(source, expressions, Arc::new(Schema::new(fields)), names))
    }

    fn source(&mut self, table: &StreamTable, delivered: &Accesses) -> Result<Stream> {
        let physical = physical_columns(table, delivered)?;
        let physical_schema: SchemaRef = Arc::new(Schema::new(
            physical
                .iter()
                .map(|(&index, access)| access::narrowed(table.connector_schema.field(index), access))
                .collect::<Vec<_>>(),
        ));
        let over = DFSchema::try_from(physical_schema.as_ref().clone()).map_err(|error| SourceText("").error(error))?;
        let event_time = table.event_time.as_ref().map(|spec| event_time(spec, &over));
        let event_time = event_time.transpose()?;
        let projection = delivered
            .keys()
            .map(|&column| physical_expression(&table.columns[column], &over))
            .collect::<Result<Vec<_>>>()?;
        let as_delivered = projection.len() == physical_schema.fields().len()
            && projection
                .iter()
                .enumerate()
                .all(|(index, expr)| super::column_index(expr) == Some(index));
        let fields: Vec<Field> = delivered
            .iter()
            .map(|(&column, access)| access::narrowed(table.schema.field(column), access))
            .collect();
        let planned: SchemaRef = Arc::new(Schema::new(fields));
        let key = upsert_key(table, &physical)?;
        // Of a row that goes there may be nothing but its key.
        let told = keyed_schema(&physical_schema, key.as_deref());
        let schema = super::typed(&projection, &told, &planned);
        let shape = StreamShape {
            schema,
            append_only: table.table.append_only(),
            unique_key: unique_key(table, delivered).filter(|_| key.is_none()),
            event_time: event_time.is_some(),
        };
        let names: Vec<String> = delivered
            .iter()
            .map(|(&column, access)| access::shown(table.schema.field(column), access))
            .collect();
        let description = format!("{} columns=[{}]{}", table.name, names.join(", "), time_text(table));
        let parallelism = self.builder.parallelism();
        let node = self.builder.add(NewNode {
            operator: OperatorSpec::Source(SourceSpec {
                table_name: table.name.clone(),
                table: Arc::clone(&table.table),
                physical_schema,
                key,
                event_time,
                projection: (!as_delivered).then_some(projection),
            }),
            description,
            // Offsets outlive a change of the columns that are read.
            fingerprint: identity(table),
            inputs: Vec::new(),
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        let times = known_times(table, delivered, &shape.schema);
        let bounded = table.table.bounded();
        self.unbounded |= !bounded;
        Ok(Stream {
            node,
            shape,
            bounded,
            spread: None,
            times,
        })
    }

    /// Behind a source whose rows replace each other: what makes rows that come and go of them.
    fn normalised(&mut self, table: &StreamTable, delivered: &Accesses, source: Stream) -> Result<Stream> {
        let Some(key) = table.upsert_key.as_ref().and_then(|_| unique_key(table, delivered)) else {
            return Ok(source);
        };
        // Rows that are kept have come whole.
        let fields = source.shape.schema.fields().iter().zip(delivered.keys());
        let field = |(field, &column): (&Arc<Field>, &usize)| {
            let nullable = field.is_nullable() && table.schema.field(column).is_nullable() && !key_has(table, column);
            field.as_ref().clone().with_nullable(nullable)
        };
        let schema: SchemaRef = Arc::new(Schema::new(fields.map(field).collect::<Vec<_>>()));
        let shape = StreamShape {
            schema,
            unique_key: Some(key.clone()),
            ..source.shape.clone()
        };
        let names: Vec<&str> = key.iter().map(|&at| shape.schema.field(at).name().as_str()).collect();
        let types: Vec<String> = shape
            .schema
            .fields()
            .iter()
            .map(|f| f.data_type().to_string())
            .collect();
        let (edge, parallelism) = self.builder.keyed(source.node, key.clone());
        let node = self.builder.add(NewNode {
            description: format!("key=[{}]", names.join(", ")),
            // Whole rows are kept, so the columns that are read are part of what it does.
            fingerprint: format!("{key:?} {:?} [{}]", delivered.keys(), types.join("; ")),
            operator: OperatorSpec::UpsertNormalise(UpsertNormaliseSpec { key: key.clone() }),
            inputs: vec![edge],
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        Ok(Stream {
            node,
            shape,
            spread: Spread::by(&key),
            ..source
        })
    }
}

fn key_has(table: &StreamTable, column: usize) -> bool {
    table.upsert_key.as_ref().is_some_and(|key| key.contains(&column))
}

/// Where the columns of the key are in what the connector delivers.
fn upsert_key(table: &StreamTable, physical: &Accesses) -> Result<Option<Vec<usize>>> {
    let Some(key) = &table.upsert_key else { return Ok(None) };
    let place = |&column: &usize| {
        let name = table.schema.field(column).name();
        let of_connector = table.connector_schema.index_of(name).ok();
        let place = of_connector.and_then(|of| physical.keys().position(|&physical| physical == of));
        place.ok_or_else(|| Error::Internal(format!("key column \"{name}\" of table \"{}\" is not read", table.name)))
    };
    key.iter().map(place).collect::<Result<Vec<_>>>().map(Some)
}

/// When all its columns are read.
fn unique_key(table: &StreamTable, delivered: &Accesses) -> Option<Vec<usize>> {
    let place = |column: &usize| delivered.keys().position(|delivered| delivered == column);
    table.unique_key.as_ref()?.iter().map(place).collect()
}

fn known_times(table: &StreamTable, delivered: &Accesses, schema: &Schema) -> TimeFacts {
    let mut times = TimeFacts::default();
    let time = table
        .event_time_column
        .and_then(|time| delivered.keys().position(|&column| column == time));
    if let Some(column) = time.filter(|&column| is_time(schema.field(column).data_type())) {
        times.note(column, Distance::ZERO);
    }
    times
}

/// The type in which event time is counted.
fn is_time(of: &DataType) -> bool {
    matches!(of, DataType::Timestamp(TimeUnit::Microsecond, _))
}

/// What makes two scans scans of one table: its OID, so that a table can be renamed; local ones have only a name.
fn identity(table: &StreamTable) -> String {
    match table.oid.0 {
        0 => format!("local {}", table.name),
        oid => format!("oid {oid}"),
    }
}

/// A column that costs little to decode.
fn cheapest(schema: &Schema) -> usize {
    let narrow = |field: &Arc<Field>| field.data_type().is_primitive();
    schema.fields().iter().position(narrow).unwrap_or(0)
}

/// What the delivered columns and the event time need of the connector's columns.
fn physical_columns(table: &StreamTable, delivered: &Accesses) -> Result<Accesses> {
    let over = DFSchema::try_from(table.connector_schema.as_ref().clone());
    let over = over.map_err(|error| SourceText("").error(error))?;
    let mut used = Accesses::new();
    let mut note = |expr: &Expr, access: Access| {
        access::of_expression(expr, access, &over, &mut used).map_err(|error| SourceText("").error(error))
    };
    for (&column, access) in delivered {
        note(&table.columns[column], access.clone())?;
    }
    if let Some(event_time) = &table.event_time {
        for time in [&event_time.time, &event_time.watermark] {
            if let TimeOf::Expression(expr) = time {
                note(expr, Access::Whole)?;
            }
        }
    }
    if used.is_empty() && !table.connector_schema.fields().is_empty() {
        used.insert(cheapest(&table.connector_schema), Access::presence());
    }
    Ok(used)
}

fn event_time(spec: &EventTime, over: &DFSchema) -> Result<EventTimeSpec> {
    let time = |of: &TimeOf| {
        Ok::<_, Error>(match of {
            TimeOf::Expression(expr) => EventTimeExpr::Expression(physical_expression(expr, over)?),
            TimeOf::Processing => EventTimeExpr::ProcessingTime,
        })
    };
    Ok(EventTimeSpec {
        time: time(&spec.time)?,
        watermark: time(&spec.watermark)?,
        idle_timeout_ms: spec.idle_timeout_ms,
        max_future_skew_ms: spec.max_future_skew_ms,
    })
}

fn time_text(table: &StreamTable) -> String {
    match &table.event_time {
        None => String::new(),
        Some(EventTime {
            watermark: TimeOf::Expression(watermark),
            ..
        }) => format!(" watermark={}", crate::planner::explain::expression(watermark)),
        Some(_) => " time=processing".into(),
    }
}
