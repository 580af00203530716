//! Predicts the next field name of an object from the objects before it.
//!
//! Producers write the fields of a record in one order, so the name at a position is compared, eight bytes at a time, with
//! what stood there last time; only a surprise is looked up by name. A record that leaves optional fields out is found a
//! few positions further on.
//!
//! Names match columns exactly; a name without an exact match finds the column that differs only in upper and lower case,
//! because SQL folds names that are not quoted (`dateTime` in the data, `datetime` in the statement).

use crate::engine::formats::columns::ColumnBuilder;

/// No column wants the field.
pub const SKIP: usize = usize::MAX;

/// Positions looked at after the expected one.
const LOOK_AHEAD: usize = 4;

/// Positions remembered; objects with more fields (maps in disguise) look the rest up.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub struct Shape {
    predicted: Vec<Predicted>,
}

/// A field name as it stood in the text: `"name":`.
#[derive(Debug)]
struct Predicted {
    text: Box<[u8]>,
    /// The first 16 bytes of `text` as two words, and which of their bits count.
    words: [u64; 2],
    masks: [u64; 2],
    column: usize,
}

impl Predicted {
    fn new(name: &[u8], column: usize) -> Predicted {
        let mut text = Vec::with_capacity(name.len() + 3);
        text.push(b'"');
        text.extend_from_slice(name);
        text.extend_from_slice(b"\":");
        let mut bytes = [0u8; 16];
        let mut mask = [0u8; 16];
        for (index, byte) in text.iter().take(16).enumerate() {
            bytes[index] = *byte;
            mask[index] = 0xff;
        }
        Predicted {
            text: text.into(),
            words: words(&bytes),
            masks: words(&mask),
            column,
        }
    }

    #[inline(always)]
    fn matches(&self, bytes: &[u8], at: usize) -> bool {
        let Some(window) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) else {
            return bytes[at..].starts_with(&self.text);
        };
        let found = words(window);
        let differs = ((found[0] ^ self.words[0]) & self.masks[0]) | ((found[1] ^ self.words[1]) & self.masks[1]);
        differs == 0 && (self.text.len() <= 16 || bytes[at + 16..].starts_with(&self.text[16..]))
    }
}

#[inline(always)]
fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    [
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes([i, j, k, l, m, n, o, p]),
    ]
}

impl Shape {
    /// If `"name":` at `at` is what stood at `position` (or shortly after it) before: its column, its length, and the next
    /// position.
    #[inline(always)]
    pub fn predict(&self, bytes: &[u8], at: usize, position: usize) -> Option<(usize, usize, usize)> {
        let expected = self.predicted.get(position)?;
        if expected.matches(bytes, at) {
            return Some((expected.column, expected.text.len(), position + 1));
        }
        self.look_ahead(bytes, at, position)
    }

    #[cold]
    fn look_ahead(&self, bytes: &[u8], at: usize, position: usize) -> Option<(usize, usize, usize)> {
        let candidates = self.predicted.iter().enumerate().skip(position + 1).take(LOOK_AHEAD);
        candidates
            .filter(|(_, candidate)| candidate.matches(bytes, at))
            .map(|(index, candidate)| (candidate.column, candidate.text.len(), index + 1))
            .next()
    }

    /// Looks `name` up among `columns` and expects it at `position` from now on when it was `written` without escapes.
    #[cold]
    pub fn learn(&mut self, name: &[u8], written_plainly: bool, position: usize, columns: &[ColumnBuilder]) -> usize {
        let column = find(name, columns);
        if written_plainly && position < REMEMBERED {
            let predicted = Predicted::new(name, column);
            if position < self.predicted.len() {
                self.predicted[position] = predicted;
            } else if position == self.predicted.len() {
                self.predicted.push(predicted);
            }
        }
        column
    }
}

fn find(name: &[u8], columns: &[ColumnBuilder]) -> usize {
    let by = |same: &dyn Fn(&[u8]) -> bool| columns.iter().position(|column| same(column.field.name().as_bytes()));
    by(&|candidate| candidate == name)
        .or_else(|| by(&|candidate| candidate.eq_ignore_ascii_case(name)))
        .unwrap_or(SKIP)
}
