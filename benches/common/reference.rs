//! What a query costs in DataFusion's batch engine: the events, and the time of a process.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::common::Outcome;

pub fn one_partition() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(8192);
    SessionContext::new_with_config(config)
}

/// The columns and fields of `schema` that `paths` name.
pub fn part_of(schema: &SchemaRef, paths: &[&str]) -> SchemaRef {
    let column = |field: &Arc<Field>| {
        if paths.contains(&field.name().as_str()) {
            return Some(Arc::clone(field));
        }
        let DataType::Struct(fields) = field.data_type() else {
            return None;
        };
        let wanted = |inner: &&Arc<Field>| paths.contains(&format!("{}.{}", field.name(), inner.name()).as_str());
        let kept: Fields = fields.iter().filter(wanted).cloned().collect();
        let whole = field.as_ref().clone();
        (!kept.is_empty()).then(|| Arc::new(whole.with_data_type(DataType::Struct(kept))))
    };
    Arc::new(Schema::new(
        schema.fields().iter().filter_map(column).collect::<Vec<_>>(),
    ))
}

/// User plus system time of all threads of a process, in seconds.
pub fn cpu_seconds(process: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("unreadable stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // The kernel's USER_HZ, which is 100 on every Linux that Rust runs on.
    Ok(ticks / 100.0)
}
