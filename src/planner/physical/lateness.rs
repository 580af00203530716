//! Which windows get the allowed lateness of their pipeline: those that late rows can come to.
//!
//! A window with allowed lateness passes the watermark on as much later, so what follows sees no late rows, and needs none.

use crate::engine::graph::OperatorSpec;
use crate::error::SqlState;
use crate::planner::compiled::Notice;
use crate::planner::physical::Lowering;

impl Lowering {
    /// The allowed lateness of a window over the rows of `node`.
    pub(super) fn lateness_over(&self, node: usize) -> i64 {
        match self.has_late_rows(node) {
            true => self.allowed_lateness_micros,
            false => 0,
        }
    }

    fn has_late_rows(&self, node: usize) -> bool {
        let node = self.builder.node(node);
        match &node.operator {
            OperatorSpec::Source(_) => true,
            OperatorSpec::WindowAggregate(window) if window.allowed_lateness_micros > 0 => false,
            _ => node.inputs.iter().any(|edge| self.has_late_rows(edge.from)),
        }
    }

    /// Says so when lateness is allowed and nothing has to do with it.
    pub fn notice_needless_lateness(&mut self) {
        let is_used = self.builder.nodes().iter().any(|node| {
            matches!(&node.operator, OperatorSpec::WindowAggregate(window) if window.allowed_lateness_micros > 0)
        });
        if self.allowed_lateness_micros > 0 && !is_used {
            self.notices.push(Notice {
                code: SqlState::SUCCESSFUL_COMPLETION,
                message: "allowed_lateness changes nothing: the query groups by no window".to_owned(),
                hint: None,
            });
        }
    }
}
