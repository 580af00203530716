//! What a change record says, whatever it is written in: its operation, what that calls for, and the words when it is not there.

use crate::engine::message::Weights;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A row that comes, also one that was there before (`r`).
    Create,
    Update,
    Delete,
}

pub const NO_AFTER: &str = "the change record has no \"after\"";
pub const NO_BEFORE_KEYED: &str = "the change record has no \"before\": which row goes is not known";
pub const NO_BEFORE: &str = "the change record has no \"before\"; declare a PRIMARY KEY, or have the database log whole rows \
                             (REPLICA IDENTITY FULL)";
pub const NOT_IN_BEFORE: &str =
    "is not in \"before\"; declare a PRIMARY KEY, or have the database log whole rows (REPLICA IDENTITY FULL)";

impl Operation {
    /// `op` with the quotes that JSON puts around it.
    pub fn read(op: Option<&[u8]>) -> Result<Operation, String> {
        match op {
            Some(b"\"c\"" | b"\"r\"") => Ok(Operation::Create),
            Some(b"\"u\"") => Ok(Operation::Update),
            Some(b"\"d\"") => Ok(Operation::Delete),
            None => Err("the record has no \"op\": it is no change record".into()),
            Some(b"\"t\"") => Err("TRUNCATE (\"op\": \"t\") does not say which rows go".into()),
            Some(op) => Err(format!(
                "unknown \"op\" {} in a change record",
                String::from_utf8_lossy(op)
            )),
        }
    }
}

/// The weights of rows; all that come is the same as none.
pub fn weights(weights: Vec<i64>) -> Weights {
    match weights.iter().all(|&weight| weight == 1) {
        true => Weights::AllInsert,
        false => Weights::Signed(weights.into()),
    }
}
