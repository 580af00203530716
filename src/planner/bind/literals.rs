//! Number literals as Postgres types them.
//!
//! `1.5` is NUMERIC and so are `1e3` and what is too long for BIGINT; an integer that a select list shows alone is INT when
//! it fits. Inside expressions integers stay BIGINT: a sum of two of them then has room where INT would overflow.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Query, SelectItem, SetExpr, UnaryOperator, Value,
};

use crate::types::NUMERIC_MAX_PRECISION;

/// A literal with an exponent, or an integer beyond BIGINT, says its type; others the SQL planner reads by itself.
pub fn settle(expr: &mut Expr) {
    let Expr::Value(value) = expr else { return };
    let Value::Number(text, _) = &value.value else { return };
    let plain = text.replace('_', "");
    let has_exponent = plain.contains(['e', 'E']);
    let is_whole = !has_exponent && !plain.contains('.');
    if is_whole && plain.parse::<i64>().is_ok() || !is_whole && !has_exponent && plain.len() <= 30 {
        return;
    }
    let is_finite = plain.parse::<f64>().is_ok_and(f64::is_finite);
    let Some((digits, scale)) = written_out(&plain).filter(|_| is_finite) else {
        return;
    };
    let text = with_point(&digits, scale);
    let precision = digits.trim_start_matches('0').len().max(scale).max(1);
    let data_type = match u64::try_from(precision) {
        Ok(precision) if precision <= u64::from(NUMERIC_MAX_PRECISION) => {
            let scale = i64::try_from(scale).unwrap_or(0);
            DataType::Numeric(ExactNumberInfo::PrecisionAndScale(precision, scale))
        }
        // More digits than a NUMERIC has here: as near as a float comes.
        _ => DataType::DoublePrecision,
    };
    *expr = cast(Value::SingleQuotedString(text), data_type);
}

/// All digits without point and exponent, and how many of them stand behind the point. `None` for what would not fit on a
/// line.
fn written_out(text: &str) -> Option<(String, usize)> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    let scale = i64::try_from(fraction.len()).ok()? - exponent;
    if scale.abs() > 400 {
        return None;
    }
    match usize::try_from(scale) {
        Ok(scale) => Some((digits, scale)),
        Err(_) => {
            digits.extend(std::iter::repeat_n('0', usize::try_from(-scale).ok()?));
            Some((digits, 0))
        }
    }
}

fn with_point(digits: &str, scale: usize) -> String {
    if scale == 0 {
        return digits.to_owned();
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{whole}.{fraction}")
}

fn cast(value: Value, data_type: DataType) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(value.with_empty_span())),
        data_type,
        array: false,
        format: None,
    }
}

/// Integers that stand alone in the select lists of a whole query are INT.
pub fn show_integers(query: &mut Query) {
    in_select_lists(&mut query.body);
}

fn in_select_lists(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
                    && is_small_integer(expr)
                {
                    *expr = Expr::Cast {
                        kind: CastKind::Cast,
                        expr: Box::new(expr.clone()),
                        data_type: DataType::Int(None),
                        array: false,
                        format: None,
                    };
                }
            }
        }
        SetExpr::Query(query) => in_select_lists(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            in_select_lists(left);
            in_select_lists(right);
        }
        _ => {}
    }
}

fn is_small_integer(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => is_small_integer(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Minus | UnaryOperator::Plus,
            expr,
        } => is_small_integer(expr),
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => text.replace('_', "").parse::<i32>().is_ok(),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::planner::dialect::parse_expression;

    fn settled(text: &str) -> String {
        let mut expr = parse_expression(text).unwrap();
        settle(&mut expr);
        expr.to_string()
    }

    #[test]
    fn exponents_are_written_out() {
        for (text, expected) in [
            ("1", "1"),
            ("1.50", "1.50"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "CAST('9223372036854775808' AS NUMERIC(19,0))"),
            ("1e3", "CAST('1000' AS NUMERIC(4,0))"),
            ("1.25e1", "CAST('12.5' AS NUMERIC(3,1))"),
            ("25e-4", "CAST('0.0025' AS NUMERIC(4,4))"),
            (".5", ".5"),
            ("1e400", "1e400"),
        ] {
            assert_eq!(settled(text), expected, "{text}");
        }
        assert!(settled("1e100").ends_with("AS DOUBLE PRECISION)"));
    }
}
