//! `$1`, `$2`, ..: where they are in a statement, and putting values in their place.
//!
//! A value goes in as a literal of its type, so that continuous queries, whose text is compiled, can have parameters too.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{self, VisitMut, visit_expressions, visit_expressions_mut};

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::parameter::Parameter;
use crate::frontend::sql::statement::{
    BodyStatement, BodyText, CopySource, DeclareSource, ExplainTarget, ParsedStatement, Statement, SubscribeTarget,
};
use crate::types::SqlType;

/// The greatest parameter number in the statement.
pub fn count(parsed: &ParsedStatement) -> usize {
    let mut statement = parsed.statement.clone();
    let mut numbers = BTreeSet::new();
    // Expressions are only looked at.
    let _ = visit(&mut statement, &mut |expression| {
        numbers.extend(number_of(expression));
        Ok(())
    });
    numbers.last().copied().unwrap_or(0)
}

/// The statement with values in place; `None` when there is nothing to put in. A plain query keeps its placeholders: the
/// one-shot planner takes values as they are.
pub fn bind(parsed: &ParsedStatement, parameters: &[Parameter]) -> Result<Option<ParsedStatement>> {
    if parameters.is_empty() || matches!(parsed.statement, Statement::Query(_) | Statement::Prepare(_)) {
        return Ok(None);
    }
    let mut bound = parsed.clone();
    visit(&mut bound.statement, &mut |expression| replace(expression, parameters))?;
    Ok(Some(bound))
}

/// A query with values in place.
pub fn bind_query(query: &mut ast::Query, parameters: &[Parameter]) -> Result<()> {
    visit_tree(query, &mut |expression| replace(expression, parameters))
}

/// The greatest parameter number of a query.
pub fn count_in_query(query: &ast::Query) -> usize {
    let mut greatest = 0;
    let _: ControlFlow<()> = visit_expressions(query, |expression| {
        greatest = greatest.max(number_of(expression).unwrap_or(0));
        ControlFlow::Continue(())
    });
    greatest
}

/// Types that the query itself says: `$1::bigint`, and whole numbers in LIMIT and OFFSET.
pub fn said_types(query: &ast::Query) -> Vec<Option<SqlType>> {
    let mut said = vec![None; count_in_query(query)];
    let mut note = |expression: &ast::Expr, sql_type: Option<SqlType>| {
        if let Some(place) = number_of(expression).and_then(|number| said.get_mut(number.checked_sub(1)?))
            && place.is_none()
        {
            *place = sql_type;
        }
    };
    let _: ControlFlow<()> = visit_expressions(query, |expression| {
        if let ast::Expr::Cast { expr, data_type, .. } = expression {
            note(expr, crate::types::parse(&data_type.to_string()).ok());
        }
        ControlFlow::Continue(())
    });
    if let Some(ast::LimitClause::LimitOffset { limit, offset, .. }) = &query.limit_clause {
        for counted in limit.iter().chain(offset.iter().map(|offset| &offset.value)) {
            note(counted, Some(SqlType::BigInt));
        }
    }
    said
}

/// Types of parameters that stand alone in VALUES or in the select list, by the columns that they fill.
pub fn filling_types(query: &ast::Query, columns: &[Option<SqlType>]) -> Vec<Option<SqlType>> {
    let mut types = vec![None; count_in_query(query)];
    let mut note = |expression: &ast::Expr, column: &Option<SqlType>| {
        if let Some(place) = number_of(expression).and_then(|number| types.get_mut(number.checked_sub(1)?))
            && place.is_none()
        {
            place.clone_from(column);
        }
    };
    match query.body.as_ref() {
        ast::SetExpr::Values(values) => {
            for row in &values.rows {
                row.iter().zip(columns).for_each(|(value, column)| note(value, column));
            }
        }
        ast::SetExpr::Select(select) => {
            for (item, column) in select.projection.iter().zip(columns) {
                if let ast::SelectItem::UnnamedExpr(value) | ast::SelectItem::ExprWithAlias { expr: value, .. } = item {
                    note(value, column);
                }
            }
        }
        _ => {}
    }
    types
}

/// The query inside a statement that is not a query.
pub fn query_in(statement: &Statement) -> Option<&ast::Query> {
    fn of_target(target: &SubscribeTarget) -> Option<&ast::Query> {
        match target {
            SubscribeTarget::Query(query) => Some(&query.query),
            SubscribeTarget::Relation(_) => None,
        }
    }
    match statement {
        Statement::Insert(insert) => insert.insert.source.as_deref(),
        Statement::Subscribe(subscribe) => of_target(&subscribe.target),
        Statement::Copy(copy) => match &copy.source {
            CopySource::Query(query) => Some(&query.query),
            CopySource::Subscribe(subscribe) => of_target(&subscribe.target),
            CopySource::Relation { .. } => None,
        },
        Statement::Declare(declare) => match &declare.source {
            DeclareSource::Query(query) => Some(&query.query),
            DeclareSource::Subscribe(subscribe) => of_target(&subscribe.target),
        },
        _ => None,
    }
}

/// `$n`: n.
pub fn number_of(expression: &ast::Expr) -> Option<usize> {
    match expression {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Placeholder(text) => text.strip_prefix('$')?.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

fn replace(expression: &mut ast::Expr, parameters: &[Parameter]) -> Result<()> {
    let Some(number) = number_of(expression) else {
        return Ok(());
    };
    let parameter = number
        .checked_sub(1)
        .and_then(|index| parameters.get(index))
        .ok_or_else(|| {
            Error::user(
                SqlState::UNDEFINED_PARAMETER,
                format!("there is no parameter ${number}"),
            )
        })?;
    *expression = literal(parameter)?;
    Ok(())
}

type Change<'a> = dyn FnMut(&mut ast::Expr) -> Result<()> + 'a;

fn visit_tree<T: VisitMut>(tree: &mut T, change: &mut Change<'_>) -> Result<()> {
    let outcome = visit_expressions_mut(tree, |expression| match change(expression) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match outcome {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Every tree of expressions in a statement of ours.
fn visit(statement: &mut Statement, change: &mut Change<'_>) -> Result<()> {
    match statement {
        Statement::Query(query) => visit_tree(query.query.as_mut(), change),
        Statement::Insert(insert) => visit_tree(insert.insert.as_mut(), change),
        Statement::Subscribe(subscribe) => visit_target(&mut subscribe.target, change),
        Statement::Copy(copy) => match &mut copy.source {
            CopySource::Query(query) => visit_tree(query.query.as_mut(), change),
            CopySource::Subscribe(subscribe) => visit_target(&mut subscribe.target, change),
            CopySource::Relation { .. } => Ok(()),
        },
        Statement::Declare(declare) => match &mut declare.source {
            DeclareSource::Query(query) => visit_tree(query.query.as_mut(), change),
            DeclareSource::Subscribe(subscribe) => visit_target(&mut subscribe.target, change),
        },
        Statement::Explain(explain) => match &mut explain.target {
            ExplainTarget::Body(body) | ExplainTarget::NewPipeline(body, _) => visit_body(body, change),
            ExplainTarget::Pipeline(_) => Ok(()),
        },
        Statement::Sql(statement) => visit_tree(statement.as_mut(), change),
        // Definitions keep their text: a parameter in them would be meaningless later.
        _ => Ok(()),
    }
}

fn visit_target(target: &mut SubscribeTarget, change: &mut Change<'_>) -> Result<()> {
    match target {
        SubscribeTarget::Query(query) => visit_tree(query.query.as_mut(), change),
        SubscribeTarget::Relation(_) => Ok(()),
    }
}

fn visit_body(body: &mut BodyText, change: &mut Change<'_>) -> Result<()> {
    for statement in &mut body.statements {
        match statement {
            BodyStatement::Query(query) => visit_tree(query.query.as_mut(), change)?,
            BodyStatement::Insert(insert) => visit_tree(insert.insert.as_mut(), change)?,
            BodyStatement::CreateTable(_) | BodyStatement::CreateView(_) | BodyStatement::Set(_) => {}
        }
    }
    Ok(())
}

/// A value as SQL.
fn literal(parameter: &Parameter) -> Result<ast::Expr> {
    let value = |value: ast::Value| ast::Expr::Value(value.into());
    if parameter.value.is_null() {
        return cast(value(ast::Value::Null), &parameter.sql_type);
    }
    let text = match &parameter.value {
        ScalarValue::Boolean(Some(flag)) => return Ok(value(ast::Value::Boolean(*flag))),
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            text.clone()
        }
        ScalarValue::Binary(Some(bytes)) | ScalarValue::LargeBinary(Some(bytes)) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(value(ast::Value::HexStringLiteral(hex)));
        }
        ScalarValue::List(_) | ScalarValue::Struct(_) | ScalarValue::Map(_) => {
            return Err(Error::not_supported(
                "an array or structure as a parameter of a continuous query",
                "Write it into the statement.",
            ));
        }
        ScalarValue::FixedSizeBinary(16, Some(bytes)) => match uuid::Uuid::from_slice(bytes) {
            Ok(uuid) => uuid.to_string(),
            Err(error) => return Err(Error::Internal(error.to_string())),
        },
        other => {
            let array = other.to_array().map_err(|error| Error::Internal(error.to_string()))?;
            array_value_to_string(&array, 0).map_err(|error| Error::Internal(error.to_string()))?
        }
    };
    cast(value(ast::Value::SingleQuotedString(text)), &parameter.sql_type)
}

fn cast(expression: ast::Expr, sql_type: &SqlType) -> Result<ast::Expr> {
    let text = format!("CAST(NULL AS {})", sql_type.to_sql());
    let template = crate::planner::dialect::parse_expression(&text)?;
    let ast::Expr::Cast {
        kind,
        data_type,
        array,
        format,
        ..
    } = template
    else {
        return Err(Error::Internal("a cast that is none".into()));
    };
    let expr = Box::new(expression);
    Ok(ast::Expr::Cast {
        kind,
        expr,
        data_type,
        array,
        format,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Report;
    use crate::frontend::sql::parse;

    fn one(text: &str) -> ParsedStatement {
        parse(text).unwrap().remove(0)
    }

    #[test]
    fn parameters_are_counted_everywhere() {
        for (text, expected) in [
            ("SELECT $1, $3 FROM t WHERE a = $2", 3),
            ("INSERT INTO t SELECT a FROM s WHERE b > $1", 1),
            ("SUBSCRIBE (SELECT * FROM p WHERE a = $2)", 2),
            ("COPY (SELECT $1::int) TO STDOUT", 1),
            ("SELECT '$1', \"$2\"", 0),
            ("SHOW PIPELINES", 0),
        ] {
            assert_eq!(count(&one(text)), expected, "{text}");
        }
    }

    #[test]
    fn types_are_taken_from_casts_and_limits() {
        let Statement::Query(query) = one("SELECT $2::int4, $1 FROM t LIMIT $3").statement else {
            panic!()
        };
        assert_eq!(
            said_types(&query.query),
            [None, Some(SqlType::Int), Some(SqlType::BigInt)]
        );
    }

    #[test]
    fn values_become_literals_of_their_type() {
        let parameters = [
            Parameter {
                sql_type: SqlType::Text,
                value: ScalarValue::Utf8(Some("it's".into())),
            },
            Parameter {
                sql_type: SqlType::Int,
                value: ScalarValue::Int32(Some(-7)),
            },
            Parameter {
                sql_type: SqlType::BigInt,
                value: ScalarValue::Int64(None),
            },
        ];
        let bound = bind(&one("SUBSCRIBE (SELECT $1, $2, $3)"), &parameters)
            .unwrap()
            .unwrap();
        let Statement::Subscribe(subscribe) = bound.statement else {
            panic!()
        };
        let SubscribeTarget::Query(query) = subscribe.target else {
            panic!()
        };
        assert_eq!(
            query.query.to_string(),
            "SELECT CAST('it''s' AS TEXT), CAST('-7' AS INT), CAST(NULL AS BIGINT)"
        );
        let error = bind(&one("SUBSCRIBE (SELECT $4)"), &parameters).unwrap_err();
        assert_eq!(error.code().as_str(), "42P02");
    }
}
