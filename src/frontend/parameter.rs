//! Values for `$1`, `$2`, .. of a statement, whichever protocol they came by.

use datafusion::common::ScalarValue;

use crate::types::SqlType;

/// The value that a client bound to `$n`.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub sql_type: SqlType,
    pub value: ScalarValue,
}
