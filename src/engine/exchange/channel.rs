//! One channel: a bounded ring from one producer subtask to one consumer subtask.
//!
//! Bounded in bytes, so that wide rows do not fill memory and narrow ones do not starve the consumer, and in messages.
//! A message larger than the whole capacity is admitted into a channel that is below it. What the producer could not hand
//! over stays in [`Sender`], which the driver flushes before it takes new input.
//!
//! Wake-ups: the consumer is woken at every message (a no-op while it is scheduled); the producer only when it said that
//! it waits and half of the capacity is free again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crate::engine::connectors::Wake;
use crate::engine::message::Message;

/// Bytes of chunks that one channel holds before its producer yields.
pub const CHANNEL_BYTES_MAX: usize = 512 * 1024;

/// Messages that one channel holds, control messages included.
pub const CHANNEL_MESSAGES_MAX: usize = 256;

struct Envelope {
    message: Message,
    bytes: usize,
}

struct Shared {
    bytes: AtomicUsize,
    producer_waits: AtomicBool,
    producer: Arc<dyn Wake>,
    consumer: Arc<dyn Wake>,
}

pub struct Sender {
    ring: rtrb::Producer<Envelope>,
    pending: VecDeque<Envelope>,
    shared: Arc<Shared>,
}

pub struct Receiver {
    ring: rtrb::Consumer<Envelope>,
    shared: Arc<Shared>,
}

/// A channel between the drivers behind the two wakers.
pub fn channel(producer: Arc<dyn Wake>, consumer: Arc<dyn Wake>) -> (Sender, Receiver) {
    let (push, pop) = rtrb::RingBuffer::new(CHANNEL_MESSAGES_MAX);
    let shared = Arc::new(Shared {
        bytes: AtomicUsize::new(0),
        producer_waits: AtomicBool::new(false),
        producer,
        consumer,
    });
    let sender = Sender {
        ring: push,
        pending: VecDeque::new(),
        shared: Arc::clone(&shared),
    };
    (sender, Receiver { ring: pop, shared })
}

impl Sender {
    /// Hands `message` over, or keeps it until [`Sender::flush`] can. `bytes`: what it counts against the capacity.
    pub fn send(&mut self, message: Message, bytes: usize) {
        self.pending.push_back(Envelope { message, bytes });
        if self.pending.len() == 1 {
            self.push_pending();
        }
    }

    /// Hands over what was kept; true when nothing is left. When false, the producer's waker is called once there is room.
    pub fn flush(&mut self) -> bool {
        if self.push_pending() {
            return true;
        }
        self.shared.producer_waits.store(true, Ordering::SeqCst);
        // Pairs with the fence in `Receiver::pop`: either the consumer sees that we wait, or we see what it freed.
        fence(Ordering::SeqCst);
        if self.push_pending() {
            self.shared.producer_waits.store(false, Ordering::SeqCst);
            return true;
        }
        false
    }

    fn push_pending(&mut self) -> bool {
        let mut pushed = false;
        while let Some(front) = self.pending.front() {
            if self.ring.is_abandoned() {
                // The consumer is gone because the job is being torn down.
                self.pending.clear();
                break;
            }
            let full = front.bytes > 0 && self.shared.bytes.load(Ordering::SeqCst) >= CHANNEL_BYTES_MAX;
            if full || self.ring.is_full() {
                break;
            }
            let Some(envelope) = self.pending.pop_front() else {
                break;
            };
            self.shared.bytes.fetch_add(envelope.bytes, Ordering::SeqCst);
            if let Err(rtrb::PushError::Full(envelope)) = self.ring.push(envelope) {
                self.shared.bytes.fetch_sub(envelope.bytes, Ordering::SeqCst);
                self.pending.push_front(envelope);
                break;
            }
            pushed = true;
        }
        if pushed {
            self.shared.consumer.wake();
        }
        self.pending.is_empty()
    }
}

impl Receiver {
    pub fn pop(&mut self) -> Option<Message> {
        let envelope = self.ring.pop().ok()?;
        let before = self.shared.bytes.fetch_sub(envelope.bytes, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.shared.producer_waits.load(Ordering::SeqCst) {
            let bytes = before - envelope.bytes;
            let room = bytes <= CHANNEL_BYTES_MAX / 2 && self.ring.slots() <= CHANNEL_MESSAGES_MAX / 2;
            if room && self.shared.producer_waits.swap(false, Ordering::SeqCst) {
                self.shared.producer.wake();
            }
        }
        Some(envelope.message)
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // A producer that waits for room would wait for ever.
        self.shared.producer.wake();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::engine::message::Watermark;

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pair() -> (Sender, Receiver, Arc<Counter>, Arc<Counter>) {
        let producer = Arc::new(Counter::default());
        let consumer = Arc::new(Counter::default());
        let (sender, receiver) = channel(
            Arc::clone(&producer) as Arc<dyn Wake>,
            Arc::clone(&consumer) as Arc<dyn Wake>,
        );
        (sender, receiver, producer, consumer)
    }

    fn number(message: Message) -> i64 {
        match message {
            Message::Watermark(Watermark::At(at)) => at,
            other => panic!("unexpected {other:?}"),
        }
    }

    fn mark(at: i64) -> Message {
        Message::Watermark(Watermark::At(at))
    }

    #[test]
    fn full_in_bytes_keeps_the_rest_and_order() {
        let (mut sender, mut receiver, producer, consumer) = pair();
        for n in 0..10 {
            sender.send(mark(n), CHANNEL_BYTES_MAX / 2);
        }
        assert!(!sender.flush());
        assert_eq!(consumer.0.load(Ordering::SeqCst), 2);
        assert_eq!(number(receiver.pop().unwrap()), 0);
        assert_eq!(
            producer.0.load(Ordering::SeqCst),
            1,
            "half is free: the producer is woken"
        );
        let mut expected = 1;
        while expected < 10 {
            sender.flush();
            while let Some(message) = receiver.pop() {
                assert_eq!(number(message), expected);
                expected += 1;
            }
        }
        assert!(sender.flush());
    }

    #[test]
    fn a_message_larger_than_the_channel_passes_alone() {
        let (mut sender, mut receiver, ..) = pair();
        sender.send(mark(1), CHANNEL_BYTES_MAX * 3);
        sender.send(mark(2), CHANNEL_BYTES_MAX * 3);
        assert!(!sender.flush());
        assert_eq!(number(receiver.pop().unwrap()), 1);
        assert!(receiver.pop().is_none());
        assert!(sender.flush());
        assert_eq!(number(receiver.pop().unwrap()), 2);
    }

    #[test]
    fn full_in_messages() {
        let (mut sender, mut receiver, ..) = pair();
        for n in 0..(CHANNEL_MESSAGES_MAX as i64 + 5) {
            sender.send(mark(n), 0);
        }
        assert!(!sender.flush());
        receiver.pop().unwrap();
        assert!(!sender.flush());
        while receiver.pop().is_some() {}
        assert!(sender.flush());
    }

    #[test]
    fn a_dropped_consumer_never_blocks_the_producer() {
        let (mut sender, receiver, producer, _) = pair();
        for n in 0..10 {
            sender.send(mark(n), CHANNEL_BYTES_MAX);
        }
        assert!(!sender.flush());
        drop(receiver);
        assert_eq!(producer.0.load(Ordering::SeqCst), 1);
        assert!(sender.flush());
    }

    /// Two threads that only sleep until woken: a lost wake-up hangs this test.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        struct Unpark(std::sync::Mutex<Option<std::thread::Thread>>, AtomicBool);
        impl Wake for Unpark {
            fn wake(&self) {
                self.1.store(true, Ordering::SeqCst);
                if let Some(thread) = &*self.0.lock().unwrap() {
                    thread.unpark();
                }
            }
        }
        impl Unpark {
            fn wait(&self) {
                while !self.1.swap(false, Ordering::SeqCst) {
                    std::thread::park();
                }
            }
        }
        let producer = Arc::new(Unpark(std::sync::Mutex::new(None), AtomicBool::new(false)));
        let consumer = Arc::new(Unpark(std::sync::Mutex::new(None), AtomicBool::new(false)));
        let (mut sender, mut receiver) = channel(
            Arc::clone(&producer) as Arc<dyn Wake>,
            Arc::clone(&consumer) as Arc<dyn Wake>,
        );
        const COUNT: i64 = 20_000;
        let feeding = std::thread::spawn(move || {
            *producer.0.lock().unwrap() = Some(std::thread::current());
            for n in 0..COUNT {
                sender.send(mark(n), CHANNEL_BYTES_MAX / 3);
                while !sender.flush() {
                    producer.wait();
                }
            }
        });
        *consumer.0.lock().unwrap() = Some(std::thread::current());
        let mut expected = 0;
        while expected < COUNT {
            match receiver.pop() {
                Some(message) => {
                    assert_eq!(number(message), expected);
                    expected += 1;
                }
                None => consumer.wait(),
            }
        }
        feeding.join().unwrap();
    }
}
