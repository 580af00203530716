//! The rows of a kept result as a checkpoint has them, without the pipeline.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::engine::graph::MaterializeSpec;
use crate::engine::operator::Result;
use crate::engine::results::row_state::{ROWS_TABLE, RowState};
use crate::engine::results::store::{Ownership, RowIdentity, Store};
use crate::state::key_group::KeyGroups;
use crate::state::table::StateReader;

/// All rows that `reader` has, which covers all key groups. Blocks while they are read.
pub fn saved_rows(
    reader: &dyn StateReader,
    spec: &MaterializeSpec,
    schema: &SchemaRef,
    key_groups: KeyGroups,
) -> Result<Vec<RecordBatch>> {
    let identity = RowIdentity::of(spec);
    let owned = key_groups.all();
    let state = RowState::new(schema, &identity);
    let mut store = Store::new(schema, identity, Ownership { key_groups, owned })?;
    reader.read(ROWS_TABLE, &mut |rows| Ok(state.read(&mut store, &rows)?))?;
    store.settle_restored();
    let rows = store.views().into_iter().map(|segment| segment.rows());
    rows.filter(|rows| !matches!(rows, Ok(rows) if rows.num_rows() == 0))
        .collect()
}
