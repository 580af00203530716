//! Folders of Parquet files, on a disk and behind the API of S3. Whatever files are there hold every event once, at any time; half
//! written ones and those that nobody will finish are never among them.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore as _, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use crate::deliveries::{Ids, Made, Result, Target};
use crate::s3_server::{S3Server, s3_server};

/// Between two files of a commit.
const PLACES: &[&str] = &["files.publish"];
const COLUMNS: &str = "id, id % 3 AS third";

/// Some files end at a checkpoint, some go on over several.
fn table(path: &str, options: &str) -> String {
    format!(
        "CREATE TABLE delivered (id BIGINT, third BIGINT)
         WITH (connector = 'filesystem', path = '{path}', format = 'parquet', type = 'sink', partition_by = 'third',
               rollover_interval = '200 milliseconds'{options})"
    )
}

pub struct Folder {
    folder: TempDir,
}

impl Folder {
    pub fn make() -> Made<Folder> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(Folder { folder })))
    }

    fn files(&self) -> Result<Vec<String>> {
        let pattern = format!("{}/**/*", self.folder.path().display());
        let found = glob::glob(&pattern).map_err(|error| error.to_string())?;
        let files = found.flatten().filter(|path| path.is_file());
        Ok(files.map(|path| path.display().to_string()).collect())
    }
}

#[async_trait::async_trait]
impl Target for Folder {
    fn statement(&self, _keyed: bool) -> String {
        table(&self.folder.path().display().to_string(), "")
    }

    fn columns(&self) -> &'static str {
        COLUMNS
    }

    fn places(&self) -> &'static [&'static str] {
        PLACES
    }

    async fn ids(&self) -> Result<Ids> {
        let mut ids = Ids::new();
        for name in self.files()?.into_iter().filter(|name| !is_hidden(name)) {
            let bytes = std::fs::read(&name).map_err(|error| format!("{name}: {error}"))?;
            ids.extend(ids_of(&name, bytes.into())?);
        }
        Ok(ids)
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        Ok(self.files()?.into_iter().filter(|name| is_hidden(name)).collect())
    }
}

/// A bucket.
pub struct ObjectStore {
    server: S3Server,
    store: AmazonS3,
}

impl ObjectStore {
    pub async fn make() -> Made<ObjectStore> {
        let Some(server) = s3_server().await else {
            return Ok(None);
        };
        let store = AmazonS3Builder::new()
            .with_bucket_name("bucket")
            .with_endpoint(server.endpoint())
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .with_region("us-east-1")
            .with_allow_http(true)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(ObjectStore { server, store })))
    }

    async fn objects(&self) -> Result<Vec<object_store::path::Path>> {
        let listed = self.store.list(None).map_ok(|object| object.location);
        listed.try_collect().await.map_err(|error| error.to_string())
    }
}

#[async_trait::async_trait]
impl Target for ObjectStore {
    fn statement(&self, _keyed: bool) -> String {
        let options = self.server.options();
        let options = options.iter().map(|(name, value)| format!(", {name} = '{value}'"));
        table("s3://bucket/delivered", &options.collect::<String>())
    }

    fn columns(&self) -> &'static str {
        COLUMNS
    }

    fn places(&self) -> &'static [&'static str] {
        PLACES
    }

    async fn ids(&self) -> Result<Ids> {
        let mut ids = Ids::new();
        for object in self.objects().await? {
            if is_hidden(object.as_ref()) {
                continue;
            }
            let found = self.store.get(&object).await.map_err(|error| error.to_string())?;
            let bytes = found.bytes().await.map_err(|error| error.to_string())?;
            ids.extend(ids_of(object.as_ref(), bytes)?);
        }
        Ok(ids)
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        let objects = self.objects().await?.into_iter().map(|object| object.to_string());
        Ok(objects.filter(|name| is_hidden(name)).collect())
    }
}

fn is_hidden(name: &str) -> bool {
    name.contains("/.laminar/")
}

fn ids_of(name: &str, file: bytes::Bytes) -> Result<Ids> {
    let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&error))?;
    let mut ids = Ids::new();
    for batch in reader.build().map_err(|error| failed(&error))? {
        let batch: RecordBatch = batch.map_err(|error| failed(&error))?;
        let column = batch.column(0).as_primitive::<Int64Type>();
        ids.extend(column.values().iter().map(|id| Ok(id.unsigned_abs())));
    }
    Ok(ids)
}
