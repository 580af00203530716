//! How messages travel between drivers, inside one process: rings between pairs of subtasks, routing by key, alignment.
//!
//!     producer driver: ExchangeOutput --partition--> Sender ==ring==> Receiver :consumer driver: InputMerge (align, watermark)
//!
//! Guarantees: order inside a channel is kept, control messages included; a full channel makes the producer yield, never
//! spin or block its thread; what a producer could not hand over yet is bounded by the output of one input message.
//! Not guaranteed: any order between channels.

pub mod align;
pub mod channel;
pub mod coalesce;
pub mod input;
pub mod output;
pub mod partition;
pub mod watermark;
