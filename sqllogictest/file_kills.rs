//! Campaigns of [`delivery_kills`](crate::delivery_kills) into files: Parquet in a folder and in an object store. Afterwards the
//! visible files hold every row once, and nothing that is hidden is left.

use std::path::Path;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::delivery_kills::{Campaign, each_once, rate, wait_until_finished, write_events};
use crate::s3_server::s3_server;

const EVENTS: u64 = 20_000;

/// Between two files of a commit.
const PLACES: &[&str] = &["files.publish"];

pub async fn file_to_folder() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let target = folder.path().join("delivered");
    deliver(folder.path(), &target.display().to_string(), "").await?;
    let mut ids = Vec::new();
    for file in glob::glob(&format!("{}/**/*", target.display()))
        .map_err(|error| error.to_string())?
        .flatten()
    {
        let name = file.display().to_string();
        if file.is_file() && is_hidden(&name) {
            return Err(format!("left: {name}"));
        }
        if file.is_file() {
            let bytes = std::fs::read(&file).map_err(|error| format!("{name}: {error}"))?;
            ids.extend(ids_of(&name, bytes.into())?);
        }
    }
    each_once(EVENTS, ids.into_iter().map(Ok))
}

pub async fn file_to_object_store() -> Result<(), String> {
    let Some(server) = s3_server().await else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let options: String = server
        .options()
        .iter()
        .map(|(name, value)| format!(", {name} = '{value}'"))
        .collect();
    deliver(folder.path(), "s3://bucket/delivered", &options).await?;
    let store = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(server.endpoint())
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_region("us-east-1")
        .with_allow_http(true)
        .build()
        .map_err(|error| error.to_string())?;
    let listed: Vec<_> = store
        .list(None)
        .try_collect()
        .await
        .map_err(|error| error.to_string())?;
    let mut ids = Vec::new();
    for object in listed {
        let name = object.location.to_string();
        if is_hidden(&name) {
            return Err(format!("left: {name}"));
        }
        let found = store.get(&object.location).await.map_err(|error| error.to_string())?;
        ids.extend(ids_of(&name, found.bytes().await.map_err(|error| error.to_string())?)?);
    }
    each_once(EVENTS, ids.into_iter().map(Ok))
}

fn is_hidden(name: &str) -> bool {
    name.contains("/.laminar/")
}

/// Some files end at a checkpoint, some go on over several.
async fn deliver(folder: &Path, target: &str, options: &str) -> Result<(), String> {
    write_events(&folder.join("events.json"), EVENTS).map_err(|error| error.to_string())?;
    let campaign = Campaign {
        data_dir: &folder.join("data"),
        statements: vec![
            format!(
                "CREATE TABLE events (id BIGINT, payload TEXT)
                 WITH (connector = 'single_file', path = '{}/events.json', format = 'json', rate = {})",
                folder.display(),
                rate(EVENTS, PLACES.len())
            ),
            format!(
                "CREATE TABLE delivered (id BIGINT, third BIGINT)
                 WITH (connector = 'filesystem', path = '{target}', format = 'parquet', type = 'sink', partition_by = 'third',
                       rollover_interval = '200 milliseconds'{options})"
            ),
            "CREATE PIPELINE delivery WITH (checkpoint_interval = '50 milliseconds', parallelism = 2) AS
             INSERT INTO delivered SELECT id, id % 3 AS third FROM events"
                .to_owned(),
        ],
        places: PLACES,
    };
    let server = campaign.run().await?;
    wait_until_finished(&server, "delivery").await
}

fn ids_of(name: &str, file: bytes::Bytes) -> Result<Vec<u64>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&error))?;
    let mut ids = Vec::new();
    for batch in reader.build().map_err(|error| failed(&error))? {
        let batch: RecordBatch = batch.map_err(|error| failed(&error))?;
        let column = batch.column(0).as_primitive::<Int64Type>();
        ids.extend(column.values().iter().map(|id| id.unsigned_abs()));
    }
    Ok(ids)
}
