//! Shards: pinned threads that run drivers to completion, a little of each in turn.
//!
//! Jobs take turns, and inside a job its drivers, so that a job with many drivers does not crowd out one with few. A turn
//! ends when the driver has used its budget, has nothing to do, or cannot go on; then it waits for a wake-up or a time.
//! Messages to the shard (start, barrier, cancel) come first. A shard without work parks.
//!
//! Guarantees: a wake-up during a turn leads to another turn; a task runs on one thread from its start to its drop; once
//! [`ShardPool::cancel`] has returned no task of the job runs anywhere.
//! Not guaranteed: that a task which does not return gives way; operators are expected to take milliseconds a chunk.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::debug;

use crate::engine::connectors::Wake;
use crate::engine::message::Barrier;
use crate::ids::Epoch;

/// What a shard runs.
pub trait ShardTask {
    /// Works for about one budget.
    fn run(&mut self) -> Turn;
    /// Told from outside; `run` follows.
    fn control(&mut self, control: Control);
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// More to do.
    Again,
    /// Nothing to do until woken, or until the given time.
    Wait(Option<Instant>),
    /// Never again: the task is dropped.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// All tasks of the job are in place: inputs may start.
    Activate,
    /// To inputs only: put this into the stream.
    Barrier(Barrier),
    /// To inputs only: the checkpoint of this epoch is decided.
    Durable(Epoch),
}

/// Names a job on this worker's shards; not persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey(pub u64);

/// Names a task over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct TaskKey(u64);

pub type BuildTask = Box<dyn FnOnce() -> Option<Box<dyn ShardTask>> + Send>;

enum Letter {
    Start { task: Arc<TaskWaker>, build: BuildTask },
    Control { task: TaskKey, control: Control },
    Cancel { job: JobKey, done: oneshot::Sender<()> },
    Shutdown,
}

#[derive(Default)]
struct Inbox {
    letters: VecDeque<Letter>,
    woken: Vec<TaskKey>,
}

/// What other threads see of a shard.
struct Mailbox {
    inbox: Mutex<Inbox>,
    filled: AtomicBool,
    thread: Mutex<Option<std::thread::Thread>>,
}

impl Mailbox {
    fn post(&self, fill: impl FnOnce(&mut Inbox)) {
        fill(&mut lock(&self.inbox));
        if !self.filled.swap(true, Ordering::SeqCst)
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }

    fn take(&self) -> Inbox {
        if !self.filled.swap(false, Ordering::SeqCst) {
            return Inbox::default();
        }
        std::mem::take(&mut *lock(&self.inbox))
    }
}

/// A panic while holding one of these locks cannot leave half an update behind: each holds plain queues.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts one task into its shard's run queue; given to channels, sources and sinks.
pub struct TaskWaker {
    mailbox: Arc<Mailbox>,
    task: TaskKey,
    job: JobKey,
    scheduled: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(&self) {
        if !self.scheduled.swap(true, Ordering::SeqCst) {
            self.mailbox.post(|inbox| inbox.woken.push(self.task));
        }
    }
}

impl TaskWaker {
    /// Starts the task on its shard. `build` runs on the shard's thread; `None`: it could not, and has said so itself.
    pub fn start(self: &Arc<Self>, build: BuildTask) {
        let task = Arc::clone(self);
        self.mailbox
            .post(|inbox| inbox.letters.push_back(Letter::Start { task, build }));
    }

    pub fn control(&self, control: Control) {
        let task = self.task;
        self.mailbox
            .post(|inbox| inbox.letters.push_back(Letter::Control { task, control }));
    }
}

/// The shards of a worker.
pub struct ShardPool {
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    next_task: AtomicU64,
}

impl ShardPool {
    /// Starts `count` threads; pins them to cores when `pin` and there is a core for each.
    pub fn start(count: usize, pin: bool) -> std::io::Result<ShardPool> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let mut mailboxes = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for index in 0..count.max(1) {
            let mailbox = Arc::new(Mailbox {
                inbox: Mutex::default(),
                filled: AtomicBool::new(false),
                thread: Mutex::new(None),
            });
            mailboxes.push(Arc::clone(&mailbox));
            let core = cores.get(index).copied().filter(|_| pin && cores.len() >= count);
            let thread = crate::spawn::thread(format!("shard-{index}"), move || {
                if let Some(core) = core
                    && !core_affinity::set_for_current(core)
                {
                    debug!(index, "could not pin the shard to a core");
                }
                Shard::new(mailbox).run();
            })?;
            threads.push(thread);
        }
        Ok(ShardPool {
            mailboxes,
            threads: Mutex::new(threads),
            next_task: AtomicU64::new(0),
        })
    }

    pub fn count(&self) -> usize {
        self.mailboxes.len()
    }

    /// A place for a task of `job` on shard `shard` (modulo the number of shards).
    pub fn place(&self, shard: usize, job: JobKey) -> Arc<TaskWaker> {
        Arc::new(TaskWaker {
            mailbox: Arc::clone(&self.mailboxes[shard % self.mailboxes.len()]),
            task: TaskKey(self.next_task.fetch_add(1, Ordering::Relaxed)),
            job,
            scheduled: AtomicBool::new(false),
        })
    }

    /// Drops every task of `job`; returns when none is left.
    pub async fn cancel(&self, job: JobKey) {
        let mut pending = Vec::with_capacity(self.mailboxes.len());
        for mailbox in &self.mailboxes {
            let (done, dropped) = oneshot::channel();
            mailbox.post(|inbox| inbox.letters.push_back(Letter::Cancel { job, done }));
            pending.push(dropped);
        }
        for dropped in pending {
            // An error means that the shard has shut down, and its tasks with it.
            let _ = dropped.await;
        }
    }

    /// Ends the threads and drops all tasks.
    pub fn shutdown(&self) {
        for mailbox in &self.mailboxes {
            mailbox.post(|inbox| inbox.letters.push_back(Letter::Shutdown));
        }
        for thread in lock(&self.threads).drain(..) {
            // A shard never panics: tasks are run under catch_unwind.
            let _ = thread.join();
        }
    }
}

impl Drop for ShardPool {
    fn drop(&mut self) {
        for mailbox in &self.mailboxes {
            mailbox.post(|inbox| inbox.letters.push_back(Letter::Shutdown));
        }
    }
}

struct Slot {
    waker: Arc<TaskWaker>,
    task: Box<dyn ShardTask>,
    /// The one entry of the shard's timers that counts; others of this task are stale.
    timer: Option<Instant>,
}

struct Shard {
    mailbox: Arc<Mailbox>,
    slots: HashMap<TaskKey, Slot>,
    queue: RunQueue,
    timers: BinaryHeap<Reverse<(Instant, TaskKey)>>,
    running: bool,
}

/// Jobs in turn, and the tasks of a job in turn.
#[derive(Default)]
struct RunQueue {
    jobs: VecDeque<JobKey>,
    tasks: HashMap<JobKey, VecDeque<TaskKey>>,
}

impl RunQueue {
    fn push(&mut self, job: JobKey, task: TaskKey) {
        let tasks = self.tasks.entry(job).or_default();
        if tasks.is_empty() {
            self.jobs.push_back(job);
        }
        tasks.push_back(task);
    }

    fn pop(&mut self) -> Option<TaskKey> {
        let job = self.jobs.pop_front()?;
        let tasks = self.tasks.get_mut(&job)?;
        let task = tasks.pop_front();
        if tasks.is_empty() {
            self.tasks.remove(&job);
        } else {
            self.jobs.push_back(job);
        }
        task
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

impl Shard {
    fn new(mailbox: Arc<Mailbox>) -> Shard {
        *lock(&mailbox.thread) = Some(std::thread::current());
        Shard {
            mailbox,
            slots: HashMap::new(),
            queue: RunQueue::default(),
            timers: BinaryHeap::new(),
            running: true,
        }
    }

    fn run(mut self) {
        loop {
            let inbox = self.mailbox.take();
            for letter in inbox.letters {
                self.letter(letter);
            }
            if !self.running {
                return;
            }
            for task in inbox.woken {
                self.enqueue(task);
            }
            self.fire_timers();
            match self.queue.pop() {
                Some(task) => self.turn(task),
                None => self.park(),
            }
        }
    }

    fn letter(&mut self, letter: Letter) {
        match letter {
            Letter::Start { task: waker, build } => {
                if let Some(task) = build() {
                    let key = waker.task;
                    // Wake-ups before now found no slot; the first turn makes up for them.
                    waker.scheduled.store(false, Ordering::SeqCst);
                    let timer = None;
                    self.slots.insert(key, Slot { waker, task, timer });
                    self.schedule(key);
                }
            }
            Letter::Control { task, control } => {
                if let Some(slot) = self.slots.get_mut(&task) {
                    slot.task.control(control);
                    self.schedule(task);
                }
            }
            Letter::Cancel { job, done } => {
                self.slots.retain(|_, slot| slot.waker.job != job);
                // The caller may have stopped waiting.
                let _ = done.send(());
            }
            Letter::Shutdown => {
                self.slots.clear();
                self.running = false;
            }
        }
    }

    /// Into the run queue unless it is there already.
    fn schedule(&mut self, task: TaskKey) {
        if let Some(slot) = self.slots.get(&task)
            && !slot.waker.scheduled.swap(true, Ordering::SeqCst)
        {
            self.queue.push(slot.waker.job, task);
        }
    }

    /// `task` was marked as scheduled by its waker.
    fn enqueue(&mut self, task: TaskKey) {
        if let Some(slot) = self.slots.get(&task) {
            self.queue.push(slot.waker.job, task);
        }
    }

    fn fire_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((due, task))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            if let Some(slot) = self.slots.get_mut(&task)
                && slot.timer == Some(due)
            {
                slot.timer = None;
                self.schedule(task);
            }
        }
    }

    fn turn(&mut self, key: TaskKey) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        // Cleared before the turn, so that a wake-up during it is not lost.
        slot.waker.scheduled.store(false, Ordering::SeqCst);
        match slot.task.run() {
            Turn::Again => self.schedule(key),
            Turn::Wait(None) => {}
            Turn::Wait(Some(until)) => {
                if slot.timer.is_none_or(|timer| until < timer) {
                    slot.timer = Some(until);
                    self.timers.push(Reverse((until, key)));
                }
            }
            Turn::Done => {
                self.slots.remove(&key);
            }
        }
    }

    fn park(&mut self) {
        debug_assert!(self.queue.is_empty());
        if self.mailbox.filled.load(Ordering::SeqCst) {
            return;
        }
        match self.timers.peek() {
            Some(Reverse((due, _))) => {
                let wait = due.saturating_duration_since(Instant::now());
                std::thread::park_timeout(wait.max(Duration::from_micros(1)));
            }
            None => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc;

    use super::*;

    struct Script {
        turns: Vec<Turn>,
        log: mpsc::Sender<String>,
        name: &'static str,
    }

    impl ShardTask for Script {
        fn run(&mut self) -> Turn {
            self.log.send(self.name.to_owned()).unwrap();
            if self.turns.is_empty() {
                Turn::Done
            } else {
                self.turns.remove(0)
            }
        }
        fn control(&mut self, control: Control) {
            self.log.send(format!("{}:{control:?}", self.name)).unwrap();
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            let _ = self.log.send(format!("{} dropped", self.name));
        }
    }

    fn start(
        pool: &ShardPool,
        job: u64,
        name: &'static str,
        turns: Vec<Turn>,
        log: &mpsc::Sender<String>,
    ) -> Arc<TaskWaker> {
        let waker = pool.place(0, JobKey(job));
        let log = log.clone();
        waker.start(Box::new(move || Some(Box::new(Script { turns, log, name }))));
        waker
    }

    fn next(log: &mpsc::Receiver<String>) -> String {
        log.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn wakes_times_and_controls_lead_to_turns() {
        let pool = ShardPool::start(1, true).unwrap();
        let (log, seen) = mpsc::channel();
        let soon = Instant::now() + Duration::from_millis(5);
        let turns = vec![Turn::Wait(Some(soon)), Turn::Wait(None), Turn::Wait(None), Turn::Done];
        let waker = start(&pool, 1, "a", turns, &log);
        assert_eq!(next(&seen), "a");
        assert_eq!(next(&seen), "a", "the time came");
        assert!(Instant::now() >= soon);
        waker.wake();
        assert_eq!(next(&seen), "a");
        waker.control(Control::Activate);
        assert_eq!(next(&seen), "a:Activate");
        assert_eq!(next(&seen), "a");
        assert_eq!(next(&seen), "a dropped");
        pool.shutdown();
    }

    #[test]
    fn jobs_take_turns_whatever_their_number_of_tasks() {
        let mut queue = RunQueue::default();
        for task in 0..3 {
            queue.push(JobKey(1), TaskKey(task));
        }
        queue.push(JobKey(2), TaskKey(10));
        queue.push(JobKey(2), TaskKey(11));
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|task| task.0).collect();
        assert_eq!(order, [0, 10, 1, 11, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn cancel_returns_after_the_drop() {
        let pool = ShardPool::start(2, false).unwrap();
        let (log, seen) = mpsc::channel();
        start(&pool, 1, "a", vec![Turn::Again; 1_000_000], &log);
        start(&pool, 2, "b", vec![Turn::Wait(None)], &log);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(pool.cancel(JobKey(1)));
        let so_far: Vec<String> = seen.try_iter().collect();
        assert!(so_far.iter().any(|line| line == "a dropped"), "{}", so_far.len());
        assert!(!so_far.iter().any(|line| line == "b dropped"));
        pool.shutdown();
        assert_eq!(seen.iter().next(), Some("b dropped".to_owned()));
    }
}
