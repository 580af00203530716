//! The logical node of an ASOF join: each left row with the version of its key that held at its time.
//!
//! It is no `Join`, since what holds for joins does not for it: a condition on the right side alone is asked of the version that was
//! found, and must not choose among the versions.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, DataFusionError, JoinType, Result};
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, Operator, UserDefinedLogicalNodeCore, build_join_schema,
};

use crate::engine::asof_spec::AsofForm;
use crate::planner::rewrites::join::equality;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsofJoinNode {
    pub left: LogicalPlan,
    pub right: LogicalPlan,
    pub form: AsofForm,
    pub outer: bool,
    /// Equalities between the sides, either way round.
    pub keys: Vec<Expr>,
    /// The comparison of times, either way round; of a temporal join the time of the left row.
    pub times: Expr,
    /// What a row and its version must satisfy besides.
    pub residual: Option<Expr>,
    /// Where it is in the statement.
    pub position: Option<usize>,
    /// Left columns, then right columns.
    pub schema: DFSchemaRef,
}

impl AsofJoinNode {
    /// The node with its schema.
    pub fn with_schema(self) -> Result<AsofJoinNode> {
        let schema = build_join_schema(self.left.schema(), self.right.schema(), &self.join_type())?;
        Ok(AsofJoinNode {
            schema: Arc::new(schema),
            ..self
        })
    }

    pub fn join_type(&self) -> JoinType {
        if self.outer { JoinType::Left } else { JoinType::Inner }
    }

    /// The comparison of times as `left <op> right`; `None` when it is not one of the two sides.
    pub fn comparison(&self) -> Option<(Expr, Operator, Expr)> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = self.times.clone().unalias() else {
            return None;
        };
        let is_order = matches!(op, Operator::GtEq | Operator::Gt | Operator::LtEq | Operator::Lt);
        let is_over = |expr: &Expr, plan: &LogicalPlan| {
            let columns = expr.column_refs();
            !columns.is_empty() && columns.iter().all(|column| plan.schema().has_column(column))
        };
        if is_order && is_over(&left, &self.left) && is_over(&right, &self.right) {
            return Some((*left, op, *right));
        }
        let other_way = is_over(&left, &self.right) && is_over(&right, &self.left);
        let op = op.swap().filter(|_| is_order && other_way)?;
        Some((*right, op, *left))
    }

    /// How many columns of the output are of the left side.
    pub fn left_width(&self) -> usize {
        self.left.schema().fields().len()
    }
}

impl Hash for AsofJoinNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.left.hash(state);
        self.right.hash(state);
        (self.outer, &self.keys, &self.times, &self.residual, self.position).hash(state);
    }
}

impl PartialOrd for AsofJoinNode {
    fn partial_cmp(&self, other: &AsofJoinNode) -> Option<Ordering> {
        match self.left.partial_cmp(&other.left) {
            Some(Ordering::Equal) => self.right.partial_cmp(&other.right),
            unequal => unequal,
        }
    }
}

impl UserDefinedLogicalNodeCore for AsofJoinNode {
    fn name(&self) -> &str {
        "AsofJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let mut expressions = self.keys.clone();
        expressions.push(self.times.clone());
        expressions.extend(self.residual.clone());
        expressions
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let split = self.left_width();
        let (left, right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|&&column| column < split);
        Some(vec![left, right.into_iter().map(|column| column - split).collect()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |key: &Expr| match equality(key, &self.left, &self.right) {
            Some((left, right, false)) => format!("{left} = {right}"),
            Some((left, right, true)) => format!("{left} IS NOT DISTINCT FROM {right}"),
            None => key.to_string(),
        };
        let keys: Vec<String> = self.keys.iter().map(key).collect();
        let (kind, word) = match self.form {
            AsofForm::Temporal => ("Temporal", "asOf"),
            AsofForm::Asof => ("Asof", "match"),
        };
        let times = match self.comparison() {
            Some((left, op, right)) => format!("{left} {op} {right}"),
            None => self.times.to_string(),
        };
        let join = self.join_type();
        write!(f, "{kind}Join: {join}, on=[{}], {word}=[{times}]", keys.join(", "))?;
        match &self.residual {
            Some(residual) => write!(f, ", where=[{residual}]"),
            None => Ok(()),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<AsofJoinNode> {
        let wrong = || DataFusionError::Internal("an ASOF join has two inputs and its expressions".into());
        let [left, right] = <[LogicalPlan; 2]>::try_from(inputs).map_err(|_| wrong())?;
        // Rules give what they rewrite its former name.
        let mut exprs = exprs.into_iter().map(Expr::unalias);
        let keys = exprs.by_ref().take(self.keys.len()).collect();
        let times = exprs.next().ok_or_else(wrong)?;
        AsofJoinNode {
            left,
            right,
            keys,
            times,
            residual: exprs.next(),
            ..self.clone()
        }
        .with_schema()
    }
}
