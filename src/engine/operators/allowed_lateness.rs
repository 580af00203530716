//! How long after its end a window still takes rows that come late.
//!
//! A window is emitted when the watermark reaches its end, and emitted again, at barriers, when rows change it after that. It
//! is over, and its state dropped, when the watermark is past its end by the allowed lateness. The watermark is passed on
//! as much later, so that no row that comes out is behind it: what follows sees rows that change, but none that are late.
//! Without allowed lateness a window is over when it ends, and the watermark is passed on as it is.

use crate::engine::message::Watermark;

#[derive(Clone, Copy, Debug)]
pub(crate) struct AllowedLateness {
    micros: i64,
}

impl AllowedLateness {
    pub fn new(micros: i64) -> AllowedLateness {
        AllowedLateness { micros: micros.max(0) }
    }

    pub fn is_any(self) -> bool {
        self.micros > 0
    }

    /// When a window that ends at `end` is over.
    pub fn over_at(self, end: i64) -> i64 {
        end.saturating_add(self.micros)
    }

    pub fn is_over(self, end: i64, watermark: Option<i64>) -> bool {
        watermark.is_some_and(|watermark| self.over_at(end) <= watermark)
    }

    /// Windows that end at or before this are over.
    pub fn over_upto(self, watermark: i64) -> i64 {
        // The end of input is the end of all windows.
        if watermark == i64::MAX {
            return watermark;
        }
        watermark.saturating_sub(self.micros)
    }

    /// The watermark for what follows.
    pub fn passed_on(self, watermark: Watermark) -> Watermark {
        match watermark {
            Watermark::At(time) => Watermark::At(self.over_upto(time)),
            other => other,
        }
    }
}
