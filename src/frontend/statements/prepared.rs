//! PREPARE, EXECUTE, DEALLOCATE.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::parameter::Parameter;
use crate::frontend::response::Response;
use crate::frontend::session::{PreparedStatement, Session};
use crate::frontend::sql::placeholders;
use crate::frontend::sql::statement::Prepare;
use crate::frontend::statements::{describe, execute as execute_statement, query};
use crate::types;

pub fn prepare(session: &mut Session, prepare: &Prepare) -> Result<Response> {
    if session.prepared.contains_key(&prepare.name) {
        return Err(Error::user(
            SqlState::DUPLICATE_PREPARED_STATEMENT,
            format!("prepared statement \"{}\" already exists", prepare.name),
        ));
    }
    let declared = prepare
        .types
        .iter()
        .map(|text| types::parse(text).map(Some))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let description = describe::description(session, &prepare.statement, &declared)?;
    let prepared = PreparedStatement {
        statement: prepare.statement.clone(),
        parameter_types: description.parameters,
    };
    session.prepared.insert(prepare.name.clone(), Arc::new(prepared));
    Ok(Response::complete("PREPARE"))
}

pub async fn execute(session: &mut Session, name: &str, arguments: &[ast::Expr]) -> Result<Response> {
    let Some(prepared) = session.prepared.get(name).map(Arc::clone) else {
        return Err(undefined(name));
    };
    let wanted = prepared.parameter_types.len();
    if arguments.len() != wanted {
        return Err(Error::user(
            SqlState::SYNTAX_ERROR,
            format!(
                "wrong number of parameters for prepared statement \"{name}\": expected {wanted}, got {}",
                arguments.len()
            ),
        ));
    }
    let mut parameters = Vec::with_capacity(arguments.len());
    for (argument, sql_type) in arguments.iter().zip(&prepared.parameter_types) {
        let value = query::evaluate(session, argument, sql_type).await?;
        parameters.push(Parameter {
            sql_type: sql_type.clone(),
            value,
        });
    }
    debug_assert!(placeholders::count(&prepared.statement) <= parameters.len());
    Box::pin(execute_statement(session, &prepared.statement, &parameters)).await
}

pub fn deallocate(session: &mut Session, name: Option<&str>) -> Result<Response> {
    match name {
        None => {
            session.prepared.clear();
            Ok(Response::complete("DEALLOCATE ALL"))
        }
        Some(name) => match session.prepared.remove(name) {
            Some(_) => Ok(Response::complete("DEALLOCATE")),
            None => Err(undefined(name)),
        },
    }
}

fn undefined(name: &str) -> Error {
    Error::user(
        SqlState::INVALID_SQL_STATEMENT_NAME,
        format!("prepared statement \"{name}\" does not exist"),
    )
}
