//! Whatever happens between checkpoints, commits and restarts, at whatever parallelism: visible files hold each row once.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::engine::connectors::filesystem::Filesystem;
use crate::engine::connectors::filesystem::location::Location;
use crate::engine::connectors::filesystem::sink::committer::FileCommitter;
use crate::engine::connectors::filesystem::sink::target::{HIDDEN, RemoteTarget};
use crate::engine::connectors::options::OptionReader;
use crate::engine::connectors::testing::{Bench, given};
use crate::engine::connectors::{Committer, Connector};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Weights;
use crate::ids::{Generation, SubtaskIndex};
use crate::testing::azure_server::azure_server;
use crate::testing::faulty_objects::FaultyObjects;
use crate::testing::s3_server::{S3Server, s3_server};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

fn rows(numbers: impl Iterator<Item = i64>) -> Chunk {
    let numbers: Vec<i64> = numbers.collect();
    let names = StringArray::from_iter_values(numbers.iter().map(|n| format!("group {}", n % 3)));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers)), Arc::new(names)];
    Chunk::insert(RecordBatch::try_new(schema(), columns).unwrap())
}

fn shaky(fails_every: u32) -> (Arc<FaultyObjects>, Target) {
    let store = FaultyObjects::failing_every(fails_every);
    let target = RemoteTarget {
        objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
        uploads: Arc::clone(&store) as Arc<dyn MultipartStore>,
        prefix: ObjectPath::from("out"),
        root: "shaky://bucket/".into(),
    };
    (store, Target::Remote(target))
}

/// A pipeline around a sink: numbers go in, lives of it end at any time.
struct World {
    bench: Bench,
    target: Target,
    options: SinkOptions,
    format: FormatOptions,
    sinks: Vec<Box<dyn Sink>>,
    generation: u64,
    is_last: bool,
    epoch: u64,
    next_row: i64,
    /// Of the last epoch that was decided.
    saved_row: i64,
    positions: Vec<String>,
    to_commit: Vec<Bytes>,
    /// Of epochs that were not decided.
    carried: Vec<Bytes>,
}

impl World {
    fn new(target: Target, options: &[(&str, &str)]) -> World {
        let given = given(&[&[("path", "out")], options].concat());
        let description = Filesystem.describe();
        let reader = OptionReader::for_table(&description, &given).unwrap();
        let format = FormatOptions::read(&reader).unwrap();
        let mut options = SinkOptions::read(&reader, &format).unwrap();
        options.part_bytes = 1000;
        World {
            bench: Bench::new(),
            target,
            options,
            format,
            sinks: Vec::new(),
            generation: 0,
            is_last: false,
            epoch: 0,
            next_row: 0,
            saved_row: 0,
            positions: Vec::new(),
            to_commit: Vec::new(),
            carried: Vec::new(),
        }
    }

    fn try_start(&mut self, parallelism: u32) -> Result<()> {
        self.sinks.clear();
        self.carried.clear();
        // As the coordinator does: what was decided is committed before anything starts.
        self.commit();
        self.generation += 1;
        self.is_last = false;
        self.next_row = self.saved_row;
        for subtask in 0..parallelism {
            let context = SinkContext {
                subtask: SubtaskIndex(subtask),
                parallelism,
                generation: Generation(self.generation),
                ..self
                    .bench
                    .sink_context(&schema(), SinkChangelog::Append, &self.positions)
            };
            self.sinks
                .push(open(self.target.clone(), &self.options, &self.format, context)?);
        }
        Ok(())
    }

    fn start(&mut self, parallelism: u32) {
        self.try_start(parallelism).unwrap();
    }

    fn write(&mut self, count: i64) {
        let next = self.next_row;
        self.next_row += count;
        let subtasks = self.sinks.len() as i64;
        for (subtask, sink) in self.sinks.iter_mut().enumerate() {
            while !sink.ready() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let mine = (next..next + count).filter(|n| n % subtasks == subtask as i64);
            sink.write(&rows(mine)).unwrap();
        }
    }

    fn checkpoint(&mut self, is_decided: bool) {
        self.epoch += 1;
        let (mut positions, mut committables) = (Vec::new(), std::mem::take(&mut self.carried));
        let mut works = Vec::new();
        for sink in &mut self.sinks {
            while !sink.can_prepare() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let prepared = sink.prepare(Epoch(self.epoch)).unwrap();
            works.extend(prepared.work);
            positions.extend(prepared.position);
            committables.extend(prepared.committable);
        }
        if self.is_last {
            // Nobody waits for the work with a sink that is no longer needed.
            self.sinks.clear();
        }
        for work in works {
            work().unwrap();
        }
        if is_decided {
            (self.positions, self.to_commit, self.saved_row) = (positions, committables, self.next_row);
        } else {
            self.carried = committables;
        }
    }

    fn try_commit(&self) -> Result<()> {
        let mut committer = FileCommitter {
            target: self.target.clone(),
        };
        let commit = committer.commit(Epoch(self.epoch), self.to_commit.clone());
        self.bench.runtime.block_on(commit)
    }

    fn commit(&self) {
        for _ in 0..100 {
            if self.try_commit().is_ok() {
                return;
            }
        }
        self.try_commit().unwrap();
    }

    /// The last checkpoint.
    fn finish(&mut self) {
        for sink in &mut self.sinks {
            sink.stopping();
        }
        self.is_last = true;
        self.checkpoint(true);
        self.commit();
    }

    /// What is in files that readers see.
    fn visible(&self) -> Vec<i64> {
        let copy = tempfile::tempdir().unwrap();
        let folder = match &self.target {
            Target::Local(folder) => folder.clone(),
            Target::Remote(target) => {
                self.bench.runtime.block_on(copy_visible(target, copy.path()));
                copy.path().to_owned()
            }
        };
        if !folder.is_dir() {
            return Vec::new();
        }
        let options = [
            ("path", folder.to_str().unwrap()),
            ("format", self.format.format.name()),
        ];
        let table = Filesystem.resolve(&given(&options), Some(schema())).unwrap();
        let number = |text: String| {
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["n"]
                .as_i64()
                .unwrap()
        };
        let mut numbers: Vec<i64> = self
            .bench
            .rows(table.as_ref(), &schema())
            .into_iter()
            .map(number)
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn names(&self) -> Vec<String> {
        match &self.target {
            Target::Remote(target) => self.bench.runtime.block_on(async {
                let listed: Vec<ObjectMeta> = target.objects.list(Some(&target.prefix)).try_collect().await.unwrap();
                listed.into_iter().map(|object| object.location.to_string()).collect()
            }),
            Target::Local(folder) => {
                let all = glob::glob(&format!("{}/**/*", folder.display())).unwrap();
                let files = all.flatten().filter(|path| path.is_file());
                files
                    .map(|path| path.strip_prefix(folder).unwrap().display().to_string())
                    .collect()
            }
        }
    }

    fn hidden(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.contains(HIDDEN)).collect()
    }

    /// Until a run has removed what those before it left; each tries it once.
    fn wait_until_tidy(&mut self) {
        for wait in 0..2000 {
            if self.hidden().is_empty() {
                return;
            }
            if wait % 100 == 99 {
                self.start(1);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("left: {:?}", self.hidden());
    }
}

async fn copy_visible(target: &RemoteTarget, folder: &Path) {
    let listed: Vec<ObjectMeta> = target.objects.list(Some(&target.prefix)).try_collect().await.unwrap();
    for object in listed
        .iter()
        .filter(|object| !object.location.as_ref().contains(HIDDEN))
    {
        let bytes = loop {
            // The store may be a shaky one.
            if let Ok(found) = target.objects.get(&object.location).await {
                break found.bytes().await.unwrap();
            }
        };
        let path = folder.join(object.location.as_ref());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Lives of random length and parallelism; some end between a decision and its commit, or in it.
fn survives_anything(mut world: World, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..random.random_range(2..6) {
        world.start(random.random_range(1..4));
        for _ in 0..random.random_range(1..8) {
            world.write(random.random_range(0..40));
            world.bench.clock.advance_micros(random.random_range(0..2_000_000));
            let is_decided = random.random_bool(0.8);
            world.checkpoint(is_decided);
            if is_decided && random.random_bool(0.2) {
                // It dies before the commit.
                break;
            }
            if is_decided {
                world.commit();
                let visible = world.visible();
                let saved: Vec<i64> = (0..world.saved_row).collect();
                let is_part =
                    visible.windows(2).all(|two| two[0] < two[1]) && visible.iter().all(|n| saved.contains(n));
                assert!(is_part, "seed {seed}: {visible:?}");
                // It may not be known that it was done.
                if random.random_bool(0.3) {
                    world.commit();
                }
            }
        }
        world.write(random.random_range(0..20));
    }
    world.start(random.random_range(1..4));
    world.write(10);
    world.finish();
    let expected: Vec<i64> = (0..world.saved_row).collect();
    assert_eq!(world.visible(), expected, "seed {seed}");
    world.positions.clear();
    world.start(1);
    world.wait_until_tidy();
}

const SHAPES: &[&[(&str, &str)]] = &[
    &[("format", "json")],
    &[("format", "json"), ("compression", "zstd"), ("rollover_rows", "25")],
    &[
        ("format", "csv"),
        ("rollover_interval", "3 s"),
        ("partition_by", "name"),
    ],
    &[("format", "parquet"), ("rollover_size", "4 kB")],
    &[
        ("format", "parquet"),
        ("rollover_interval", "3 s"),
        ("partition_by", "name"),
    ],
];

#[test]
fn local_files_hold_each_row_once() {
    for seed in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        let shape = SHAPES[seed as usize % SHAPES.len()];
        survives_anything(World::new(Target::Local(folder.path().join("out")), shape), seed);
    }
}

#[test]
fn objects_hold_each_row_once() {
    for seed in 0..30 {
        let (store, target) = shaky(0);
        let shape = SHAPES[seed as usize % SHAPES.len()];
        survives_anything(World::new(target, shape), seed);
        assert!(store.uploads.lock().unwrap().is_empty(), "seed {seed}");
    }
}

#[test]
fn f_25_f_26_a_shaky_store_is_waited_for() {
    for seed in 0..6 {
        let (_, target) = shaky(if seed % 2 == 0 { 7 } else { 3 });
        let shape = SHAPES[seed as usize % SHAPES.len()];
        survives_anything(World::new(target, shape), seed);
    }
}

#[test]
fn large_files_are_uploaded_in_parts_and_go_on_after_a_crash() {
    let (store, target) = shaky(0);
    let mut world = World::new(target, &[("format", "json"), ("rollover_interval", "1 hour")]);
    world.start(1);
    world.write(500);
    world.checkpoint(true);
    world.commit();
    assert_eq!(store.uploads.lock().unwrap().len(), 1);
    assert!(world.visible().is_empty());
    world.write(500);
    // Parts of rows that no checkpoint knows are overwritten.
    world.start(2);
    world.write(300);
    world.finish();
    assert_eq!(world.visible(), (0..800).collect::<Vec<_>>());
    assert!(store.uploads.lock().unwrap().is_empty());
    assert!(world.hidden().is_empty(), "{:?}", world.hidden());
}

#[test]
fn uploads_that_no_checkpoint_knows_are_aborted() {
    let (store, target) = shaky(0);
    let mut world = World::new(target, &[("format", "json"), ("rollover_interval", "1 hour")]);
    world.start(1);
    world.write(500);
    world.checkpoint(false);
    assert_eq!(store.uploads.lock().unwrap().len(), 1);
    world.start(1);
    world.wait_until_tidy();
    assert!(store.uploads.lock().unwrap().is_empty());
}

#[test]
fn a_sink_whose_pipeline_is_dropped_leaves_what_it_published() {
    let folder = tempfile::tempdir().unwrap();
    let (store, remote) = shaky(0);
    for target in [Target::Local(folder.path().into()), remote] {
        let mut world = World::new(target.clone(), &[("format", "json"), ("rollover_interval", "1 hour")]);
        world.start(1);
        world.write(500);
        world.finish();
        let published = world.visible();
        world.positions.clear();
        world.start(1);
        world.write(500);
        world.checkpoint(true);
        world.sinks.clear();
        assert!(!world.hidden().is_empty());
        let forget = |sink: &str| {
            let names = SinkNames::after_all(&world.options.prefix, sink);
            let forgotten = leftovers::forget(target.clone(), names);
            world.bench.runtime.block_on(forgotten).unwrap();
        };
        forget("pipe_2/public.t");
        assert!(!world.hidden().is_empty(), "those of another");
        forget("pipe_1/public.t");
        forget("pipe_1/public.t");
        assert!(world.hidden().is_empty(), "{:?}", world.hidden());
        assert_eq!(world.visible(), published);
    }
    assert!(store.uploads.lock().unwrap().is_empty());
    assert!(!folder.path().join(HIDDEN).exists());
}

#[test]
fn nothing_new_writes_nothing() {
    let (store, target) = shaky(0);
    let mut world = World::new(target, &[("format", "json"), ("rollover_interval", "1 hour")]);
    world.start(1);
    world.write(5);
    world.checkpoint(true);
    world.commit();
    let (requests, position) = (store.requests.load(Ordering::SeqCst), world.positions.clone());
    world.checkpoint(true);
    world.commit();
    assert_eq!(
        (store.requests.load(Ordering::SeqCst), &world.positions),
        (requests, &position)
    );
    assert!(world.to_commit.is_empty());
}

#[test]
fn rolling_by_rows_and_names_by_partition() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(
        Target::Local(folder.path().to_owned()),
        &[("format", "json"), ("rollover_rows", "10"), ("partition_by", "name")],
    );
    world.start(1);
    world.write(75);
    world.finish();
    let names = world.names();
    // 25 rows of each of three groups.
    assert_eq!(names.len(), 9, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("name=group ")), "{names:?}");
    assert_eq!(world.visible(), (0..75).collect::<Vec<_>>());
}

#[test]
fn a_row_that_counts_twice_is_there_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(Target::Local(folder.path().to_owned()), &[("format", "parquet")]);
    world.start(1);
    let twice = |weight: i64| Chunk {
        weights: Weights::Signed(vec![1, weight].into()),
        ..rows(5..7)
    };
    world.sinks[0].write(&twice(2)).unwrap();
    assert!(world.sinks[0].write(&twice(-1)).is_err());
    world.finish();
    assert_eq!(world.visible(), [5, 6, 6]);
}

#[test]
fn an_old_checkpoint_whose_files_were_published_is_refused() {
    for target in [
        Target::Local(tempfile::tempdir().unwrap().path().join("out")),
        shaky(0).1,
    ] {
        let mut world = World::new(target, &[("format", "json"), ("rollover_rows", "10")]);
        world.start(1);
        world.write(5);
        world.checkpoint(true);
        let old = world.positions.clone();
        world.write(5);
        world.checkpoint(true);
        world.commit();
        (world.positions, world.to_commit) = (old, Vec::new());
        let error = match world.try_start(1) {
            Err(error) => error,
            Ok(()) => {
                while !world.sinks[0].can_prepare() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                world.sinks[0].prepare(Epoch(9)).err().unwrap()
            }
        };
        assert!(error.to_string().contains("not published yet is gone"), "{error}");
    }
}

/// Against a server that speaks the protocol: parts of the size that S3 wants, a crash in the middle of a file, an upload that
/// nobody goes on with.
#[test]
fn s3_takes_uploads_that_are_resumed_and_aborted() {
    let bench = Bench::new();
    let Some(server) = bench.runtime.block_on(s3_server()) else {
        return;
    };
    let location = Location::open("s3://bucket/some/where", server.options().to_vec()).unwrap();
    for format in ["json", "parquet"] {
        let mut options = vec![("format", format), ("rollover_interval", "1 hour")];
        if format == "parquet" {
            options.push(("parquet.compression", "none"));
        }
        let Target::Remote(mut target) = location.target().unwrap() else {
            panic!("an object store")
        };
        target.prefix = ObjectPath::from(format!("some/{format}"));
        let mut world = World::new(Target::Remote(target), &options);
        world.options.part_bytes = 5 << 20;
        world.start(1);
        // About 7 MB of JSON: a part and a rest.
        world.write(200_000);
        world.checkpoint(true);
        assert!(world.visible().is_empty());
        assert_eq!(unfinished_uploads(&bench, &server), usize::from(format == "json"));
        world.write(300_000);
        // Not decided: the second part is uploaded again, with other rows.
        world.checkpoint(false);
        world.start(2);
        world.write(100_000);
        world.finish();
        // As if nobody had noted that it was done.
        world.commit();
        assert_eq!(world.visible(), (0..300_000).collect::<Vec<_>>(), "{format}");
        assert!(world.hidden().is_empty(), "{:?}", world.hidden());
        world.positions.clear();
        world.start(1);
        world.write(400_000);
        world.checkpoint(false);
        world.start(1);
        world.wait_until_tidy();
        assert_eq!(unfinished_uploads(&bench, &server), 0);
    }
}

/// The same against a server that speaks Azure's protocol, which cannot be told that an upload is given up, and by way of a table.
#[test]
fn azure_takes_uploads_that_are_resumed() {
    let bench = Bench::new();
    let Some(server) = bench.runtime.block_on(azure_server()) else {
        return;
    };
    let location = Location::open("az://container/some/where", server.options().to_vec()).unwrap();
    for format in ["json", "parquet"] {
        let Target::Remote(mut target) = location.target().unwrap() else {
            panic!("an object store")
        };
        target.prefix = ObjectPath::from(format!("some/{format}"));
        let mut world = World::new(
            Target::Remote(target),
            &[("format", format), ("rollover_interval", "1 hour")],
        );
        world.options.part_bytes = 100 << 10;
        world.start(1);
        // Some parts and a rest.
        world.write(20_000);
        world.checkpoint(true);
        assert!(world.visible().is_empty());
        world.write(30_000);
        // Not decided: the next parts are uploaded again, with other rows.
        world.checkpoint(false);
        world.start(2);
        world.write(10_000);
        world.finish();
        // As if nobody had noted that it was done.
        world.commit();
        assert_eq!(world.visible(), (0..30_000).collect::<Vec<_>>(), "{format}");
        assert!(world.hidden().is_empty(), "{:?}", world.hidden());
        let path = format!("az://container/some/{format}");
        let mut options = vec![("path", path.as_str()), ("format", format)];
        let of_server = server.options();
        options.extend(of_server.iter().map(|(name, value)| (*name, value.as_str())));
        let table = Filesystem.resolve(&given(&options), Some(schema())).unwrap();
        assert_eq!(bench.rows(table.as_ref(), &schema()).len(), 30_000, "{format}");
    }
}

fn unfinished_uploads(bench: &Bench, server: &S3Server) -> usize {
    let listed = async {
        let answer = reqwest::get(format!("{}/bucket?uploads", server.endpoint()))
            .await
            .unwrap();
        answer.text().await.unwrap()
    };
    bench.runtime.block_on(listed).matches("<UploadId>").count()
}
