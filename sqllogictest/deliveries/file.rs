//! A file of lines of JSON, read and written: what every machine has.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use crate::deliveries::{EVENTS, Ids, Input, Made, Result, Target, id_in};

fn new_folder() -> Result<TempDir> {
    tempfile::tempdir().map_err(|error| error.to_string())
}

/// Events that are all there.
pub struct FileInput {
    folder: TempDir,
}

impl FileInput {
    pub fn make() -> Made<FileInput> {
        let folder = new_folder()?;
        write_events(&folder.path().join("events.json"), EVENTS).map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(FileInput { folder })))
    }
}

#[async_trait::async_trait]
impl Input for FileInput {
    fn statement(&self, rate: u64) -> String {
        events_in(self.folder.path(), rate)
    }

    fn is_bounded(&self) -> bool {
        true
    }

    async fn write(&self, _stop: Arc<AtomicBool>) -> Result<u64> {
        Ok(EVENTS)
    }
}

/// Makes the table of events that [`write_events`] wrote to `events.json` in `folder`.
pub fn events_in(folder: &Path, rate: u64) -> String {
    format!(
        "CREATE TABLE events (id BIGINT, payload TEXT)
         WITH (connector = 'single_file', path = '{}/events.json', format = 'json', rate = {rate})",
        folder.display()
    )
}

pub fn write_events(path: &Path, events: u64) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for id in 0..events {
        writeln!(file, "{{\"id\":{id},\"payload\":\"event {id}\"}}")?;
    }
    file.flush()
}

pub struct FileTarget {
    folder: TempDir,
}

impl FileTarget {
    pub fn make() -> Made<FileTarget> {
        let folder = new_folder()?;
        Ok(Some(Arc::new(FileTarget { folder })))
    }
}

#[async_trait::async_trait]
impl Target for FileTarget {
    fn statement(&self, _keyed: bool) -> String {
        format!(
            "CREATE TABLE delivered WITH (connector = 'single_file', path = '{}/delivered.json', format = 'json', type = 'sink')",
            self.folder.path().display()
        )
    }

    fn parallelism(&self) -> u32 {
        1
    }

    async fn ids(&self) -> Result<Ids> {
        let path = self.folder.path().join("delivered.json");
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Ok(text.lines().map(|line| id_in(line.as_bytes())).collect())
    }
}
