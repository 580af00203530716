//! min and max of floats in one-shot queries: NaN is the greatest, as in Postgres, and an infinity is a value like others.
//!
//! DataFusion has two ways to compute them. The one over many groups at once starts at the greatest or least finite value, which an
//! infinity does not pass, and compares so that NaN counts or not by its place among the rows. Floats go the other way,
//! group by group, in the total order of floats; all other types are left as they are.

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::min_max::{Max, Min};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs,
};

use crate::planner::functions::Functions;

/// DataFusion's min or max but for floats.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme<Inner> {
    inner: Inner,
}

pub fn register(functions: &mut Functions) {
    let min = Extreme { inner: Min::new() };
    let max = Extreme { inner: Max::new() };
    functions.add_aggregate(AggregateUDF::new_from_impl(min).into());
    functions.add_aggregate(AggregateUDF::new_from_impl(max).into());
}

impl<Inner: AggregateUDFImpl + Eq + std::hash::Hash> AggregateUDFImpl for Extreme<Inner> {
    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        let is_float = matches!(
            args.return_field.data_type(),
            DataType::Float16 | DataType::Float32 | DataType::Float64
        );
        !is_float && self.inner.groups_accumulator_supported(args)
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(args)
    }

    fn set_monotonicity(&self, of: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(of)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
