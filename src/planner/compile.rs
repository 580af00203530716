//! The one way from a pipeline's body to its graph.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Ident, LimitClause, Query, Spanned, Value};

use crate::catalog::objects::{self, ColumnKind, Object, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::graph::EmitMode;
use crate::error::{ErrorReport, SqlState, nearest};
use crate::ids::Oid;
use crate::planner::assignment::{assignable, is_text_constant, mismatch};
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::Purpose;
use crate::planner::bind::tables::{self, qualified};
use crate::planner::bind::{Binder, names};
use crate::planner::body::{Body, InsertStatement, PipelineBody};
use crate::planner::compiled::{Compiled, InferredSink, Notice, Target};
use crate::planner::error::{Error, Result, Undefined};
use crate::planner::explain;
use crate::planner::functions;
use crate::planner::functions::lengths::length_check;
use crate::planner::physical::{Destination, Filling, Lowering, ScannedTables, SinkTarget, Stream, inferred_fields};
use crate::planner::rewrites;
use crate::planner::rewrites::switches::Rewrite;
use crate::planner::settings::Settings;
use crate::types::SqlType;

/// Plans `body` against the catalog as it is in `snapshot`. Depends on nothing else: the same arguments give the same
/// graph with the same operator ids.
pub fn compile(body: &Body, target: Target, snapshot: &CatalogSnapshot, settings: &Settings) -> Result<Compiled> {
    let purpose = match target {
        Target::Foreground => Purpose::Foreground,
        Target::Pipeline { .. } | Target::Validate => Purpose::Pipeline,
    };
    let functions = functions::register_all(&settings.session);
    let binder = Binder::new(snapshot, settings, &functions, &body.local_objects, purpose, None);
    let emit = body.emit.unwrap_or(EmitMode::OnWindowClose);
    let planned = match &body.statement {
        PipelineBody::Query(query) => vec![plan_query(&binder, query, emit, &body.text)?],
        PipelineBody::Inserts(inserts) => inserts
            .iter()
            .map(|insert| plan_query(&binder, &insert.query, emit, &body.text))
            .collect::<Result<Vec<_>>>()?,
    };
    let mut scans = ScannedTables::default();
    for plan in &planned {
        scans.add(&plan.rewritten)?;
    }
    let mut lowering = Lowering::new(settings.parallelism, settings.updating_ttl_ms, scans);
    lowering.allowed_lateness_micros = i64::try_from(settings.allowed_lateness_ms)
        .unwrap_or(i64::MAX)
        .saturating_mul(1000);
    lowering.disabled_rewrites = settings.disabled_rewrites.clone();
    if settings.disabled_rewrites.contains(&Rewrite::SharedSubplans) {
        lowering.builder.stop_sharing();
    }
    let finished = match &body.statement {
        PipelineBody::Query(query) => finish_query(&mut lowering, &planned[0], query, target)?,
        PipelineBody::Inserts(inserts) => finish_inserts(&mut lowering, &binder, &planned, inserts, &body.text)?,
    };
    lowering.notice_needless_lateness();
    let depends_on = binder.depends_on();
    let Lowering {
        builder,
        notices,
        unbounded,
        ..
    } = lowering;
    let graph = builder.finish()?;
    Ok(Compiled {
        logical: joined(planned.iter().map(|plan| plan.logical.clone())),
        rewritten: joined(planned.iter().map(|plan| explain::logical(&plan.rewritten))),
        physical: explain::physical(&graph),
        graph,
        output: finished.output,
        unique_key: finished.unique_key,
        append_only: finished.append_only,
        unbounded,
        notices: distinct(notices.into_iter().chain(finished.notices)),
        depends_on,
        inferred_sinks: finished.inferred_sinks,
        sinks: finished.sinks,
    })
}

/// A query on its way.
struct Planned {
    logical: String,
    rewritten: LogicalPlan,
}

#[derive(Default)]
struct Finished {
    output: Option<SchemaRef>,
    unique_key: Vec<String>,
    append_only: bool,
    inferred_sinks: Vec<InferredSink>,
    sinks: Vec<Oid>,
    notices: Vec<Notice>,
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join("\n\n")
}

fn distinct(notices: impl Iterator<Item = Notice>) -> Vec<Notice> {
    let mut kept: Vec<Notice> = Vec::new();
    for notice in notices {
        if !kept.contains(&notice) {
            kept.push(notice);
        }
    }
    kept
}

fn plan_query(binder: &Binder<'_>, query: &Query, emit: EmitMode, text: &str) -> Result<Planned> {
    let source = SourceText(text);
    let mut query = query.clone();
    crate::planner::bind::syntax::prepare(&mut query, binder.purpose, binder.functions, source)?;
    if binder.purpose == Purpose::Foreground {
        // The client's output counts rows; the plan below it has no limit.
        query.limit_clause = None;
    }
    let bound = binder.plan_prepared(query, source)?;
    let logical = explain::logical(&bound);
    let ranked = rewrites::top_n::first_rows_as_ranks(bound)?;
    let resolved = rewrites::grouping_sets::resolve_grouping(ranked, binder.config())?;
    let windowed = rewrites::window::rewrite(resolved, emit)?;
    let optimized = rewrites::optimize(windowed, binder.config()).map_err(|error| source.error(error))?;
    rewrites::join::refuse_leftover_subqueries(&optimized)?;
    let ranked = rewrites::top_n::rewrite(optimized)?;
    Ok(Planned {
        logical,
        rewritten: rewrites::window::lower_leftover(ranked)?,
    })
}

fn finish_query(lowering: &mut Lowering, planned: &Planned, query: &Query, target: Target) -> Result<Finished> {
    let stream = lowering.lower(&planned.rewritten)?;
    let destination = match target {
        Target::Foreground => Destination::Client {
            limit: limit_of(query)?,
        },
        Target::Pipeline { oid } => Destination::Kept(oid),
        Target::Validate => Destination::Kept(Oid(0)),
    };
    let shape = lowering.finish_query(stream, destination)?;
    let name = |&column: &usize| shape.schema.field(column).name().clone();
    Ok(Finished {
        unique_key: shape.unique_key.iter().flatten().map(name).collect(),
        append_only: shape.append_only,
        output: Some(shape.schema),
        ..Finished::default()
    })
}

fn limit_of(query: &Query) -> Result<Option<u64>> {
    let limit = match (&query.limit_clause, &query.fetch) {
        (Some(LimitClause::LimitOffset { limit, .. }), _) => limit.as_ref(),
        (None, Some(fetch)) => fetch.quantity.as_ref(),
        _ => None,
    };
    let Some(limit) = limit else {
        return Ok(None);
    };
    // A parameter comes as the cast of a literal.
    let limit = match limit {
        SqlExpr::Cast { expr, .. } => expr,
        plain => plain,
    };
    let number = match limit {
        SqlExpr::Value(value) => match &value.value {
            Value::Number(text, _) | Value::SingleQuotedString(text) => text.parse().ok(),
            Value::Null => return Ok(None),
            _ => None,
        },
        _ => None,
    };
    number.map(Some).ok_or_else(|| {
        Error::query(
            SqlState::INVALID_PARAMETER_VALUE,
            "LIMIT of a continuous query must be a whole number",
        )
    })
}

fn finish_inserts(
    lowering: &mut Lowering,
    binder: &Binder<'_>,
    planned: &[Planned],
    inserts: &[InsertStatement],
    text: &str,
) -> Result<Finished> {
    let mut finished = Finished::default();
    let mut targets: Vec<(SinkTarget, Vec<Stream>)> = Vec::new();
    for (plan, insert) in planned.iter().zip(inserts) {
        let position = SourceText(text).position(insert.target.span());
        let table = sink_table(binder, insert).map_err(|error| error.at(position))?;
        let stream = lowering.lower(&plan.rewritten)?;
        let name = qualified(table);
        let index = match targets.iter().position(|(target, _)| target.name == name) {
            Some(index) => index,
            None => {
                let target = sink_target(binder, table, &stream, &mut finished).map_err(|error| error.at(position))?;
                targets.push((target, Vec::new()));
                targets.len() - 1
            }
        };
        let (target, streams) = &mut targets[index];
        let fillings = fillings(
            binder,
            table,
            target,
            insert,
            &stream,
            &plan.rewritten,
            SourceText(text),
        )?;
        streams.push(lowering.fill_sink(stream, target, &fillings)?);
    }
    for (target, streams) in targets {
        let stream = lowering.union_of(streams, Arc::clone(&target.schema))?;
        lowering.finish_sink(stream, &target)?;
        finished.notices.extend(weak_guarantee(&target));
        if target.oid != Oid(0) {
            finished.sinks.push(target.oid);
        }
    }
    Ok(finished)
}

fn weak_guarantee(target: &SinkTarget) -> Option<Notice> {
    use crate::engine::connectors::DeliveryGuarantee;
    let guarantee = target.table.guarantee();
    (guarantee != DeliveryGuarantee::ExactlyOnce).then(|| Notice {
        code: SqlState::SUCCESSFUL_COMPLETION,
        message: format!("delivery to table \"{}\" is {}", target.name, guarantee.as_str()),
        hint: None,
    })
}

fn sink_table<'a>(binder: &Binder<'a>, insert: &InsertStatement) -> Result<&'a Table> {
    let name = names::qualified(&insert.target).ok_or_else(|| Error::Internal("an INSERT without a target".into()))?;
    match binder.find(&name) {
        Some(Object::Table(table)) => {
            binder.note_dependency(table.header.oid);
            Ok(table)
        }
        Some(other) => Err(Error::query(
            SqlState::WRONG_OBJECT_TYPE,
            format!(
                "\"{}\" is a {} and cannot be written to",
                name.name,
                other.kind().word()
            ),
        )),
        None => {
            let objects = binder.snapshot.objects().chain(binder.local);
            let tables: Vec<&str> = objects
                .filter(|object| matches!(object, Object::Table(_)))
                .map(|object| object.header().name.as_str())
                .collect();
            Err(Error::Undefined {
                kind: Undefined::Relation,
                hint: nearest(&name.name, tables).map(|near| format!("Perhaps you meant \"{near}\".")),
                name: name.to_string(),
                position: None,
            })
        }
    }
}

fn sink_target(binder: &Binder<'_>, table: &Table, stream: &Stream, finished: &mut Finished) -> Result<SinkTarget> {
    let fields = if table.columns.is_empty() {
        let fields = inferred_fields(&stream.shape.schema);
        finished.inferred_sinks.push(InferredSink {
            table: table.header.oid,
            name: qualified(table),
            columns: fields.iter().map(inferred_column).collect::<Result<_>>()?,
        });
        fields
    } else {
        let declared = tables::declared_fields(table)?;
        let stored = |column: &&objects::Column| matches!(column.kind, ColumnKind::Physical | ColumnKind::Metadata(_));
        let kept = table.columns.iter().zip(declared).filter(|(column, _)| stored(column));
        kept.map(|(_, field)| field).collect()
    };
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let length_checks = schema.fields().iter().map(|field| length_check_of(table, field.name()));
    let length_checks = length_checks.collect();
    let key: Vec<usize> = table
        .primary_key
        .iter()
        .filter_map(|name| schema.index_of(name).ok())
        .collect();
    Ok(SinkTarget {
        name: qualified(table),
        table: tables::sink(binder, table, Arc::clone(&schema))?,
        primary_key: (!key.is_empty()).then_some(key),
        schema,
        length_checks,
        oid: table.header.oid,
    })
}

fn length_check_of(table: &Table, name: &str) -> Option<Arc<ScalarUDF>> {
    let column = table.columns.iter().find(|column| column.name == name)?;
    length_check(&crate::types::parse(&column.sql_type).ok()?)
}

fn inferred_column(field: &arrow::datatypes::Field) -> Result<objects::Column> {
    let of = SqlType::from_arrow_field(field).ok_or_else(|| {
        Error::not_supported(
            format!("column \"{}\" has a type that a table cannot have", field.name()),
            "Cast it: column::TEXT.",
        )
    })?;
    Ok(objects::Column {
        name: field.name().clone(),
        sql_type: of.to_sql(),
        not_null: false,
        default: None,
        kind: ColumnKind::Physical,
    })
}

/// Which column of the query fills which of the sink, checked as Postgres checks assignments.
fn fillings(
    binder: &Binder<'_>,
    table: &Table,
    target: &SinkTarget,
    insert: &InsertStatement,
    stream: &Stream,
    plan: &LogicalPlan,
    source: SourceText<'_>,
) -> Result<Vec<Filling>> {
    let named = named_columns(table, target, insert, source)?;
    let position = source.position(insert.query.span());
    let given = plan.schema().fields().len();
    if given > named.len() {
        let message = "INSERT has more expressions than target columns";
        return Err(Error::query(SqlState::SYNTAX_ERROR, message).at(position));
    }
    if given < named.len() && !insert.columns.is_empty() {
        let message = "INSERT has more target columns than expressions";
        return Err(Error::query(SqlState::SYNTAX_ERROR, message).at(position));
    }
    let mut fillings = Vec::with_capacity(target.schema.fields().len());
    for (index, field) in target.schema.fields().iter().enumerate() {
        let from = named.iter().take(given).position(|&column| column == index);
        match from {
            Some(from) => {
                let of = stream.shape.schema.field(from);
                if !assignable(of.data_type(), field.data_type()) && !is_text_constant(plan, from) {
                    return Err(mismatch(field, of).at(position));
                }
                fillings.push(Filling::Column(from));
            }
            None => fillings.push(Filling::Constant(default_value(binder, table, field)?)),
        }
    }
    Ok(fillings)
}

/// The sink's columns in the order of the INSERT's list.
fn named_columns(
    table: &Table,
    target: &SinkTarget,
    insert: &InsertStatement,
    source: SourceText<'_>,
) -> Result<Vec<usize>> {
    if insert.columns.is_empty() {
        return Ok((0..target.schema.fields().len()).collect());
    }
    let mut columns = Vec::with_capacity(insert.columns.len());
    for ident in &insert.columns {
        let column = named_column(table, target, ident).map_err(|error| error.at(source.position(ident.span)))?;
        if columns.contains(&column) {
            let message = format!("column \"{}\" specified more than once", names::folded(ident));
            return Err(Error::query(SqlState::DUPLICATE_COLUMN, message).at(source.position(ident.span)));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn named_column(table: &Table, target: &SinkTarget, ident: &Ident) -> Result<usize> {
    let name = names::folded(ident);
    target.schema.index_of(&name).map_err(|_| {
        let near = nearest(&name, target.schema.fields().iter().map(|field| field.name().as_str()));
        let report = ErrorReport::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" of relation \"{}\" does not exist", table.header.name),
        );
        Error::Query(match near {
            Some(near) => report.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => report,
        })
    })
}

fn default_value(binder: &Binder<'_>, table: &Table, field: &arrow::datatypes::Field) -> Result<ScalarValue> {
    let column = table.columns.iter().find(|column| column.name == *field.name());
    let Some(text) = column.and_then(|column| column.default.as_deref()) else {
        if !field.is_nullable() {
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                field.name(),
                table.header.name
            );
            return Err(Error::query(SqlState::NOT_NULL_VIOLATION, message));
        }
        return ScalarValue::try_from(field.data_type()).map_err(|error| SourceText("").error(error));
    };
    let default = tables::expression_over(binder, text, &Schema::empty())?;
    let schema = datafusion::common::DFSchema::empty();
    let physical = crate::planner::physical::physical_expression(&default, &schema)?;
    let row = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let value = physical.evaluate(&row).map_err(|error| SourceText("").error(error))?;
    match value {
        datafusion::logical_expr::ColumnarValue::Scalar(value) => Ok(value),
        datafusion::logical_expr::ColumnarValue::Array(_) => Err(Error::not_supported(
            format!("the default of column \"{}\" is not a constant", field.name()),
            "Name the column in INSERT and give its value in the query.",
        )),
    }
}
