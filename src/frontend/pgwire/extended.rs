//! The extended protocol: prepared statements, portals, and their execution in parts.
//!
//! A portal keeps its rows as a stream that is read only as far as the client asks, so a cursor over an endless result costs
//! what one batch costs. Named statements live until Close or the end of the session, portals until the end of the
//! transaction (outside of one: the next Sync).
//!
//! <https://www.postgresql.org/docs/16/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use arrow::datatypes::SchemaRef;
use pgwire::messages::data::ParameterDescription;

use super::connection::Connection;
use super::encode::{Format, RowEncoder};
use super::error::Error;
use super::limits::PREPARED_STATEMENTS_MAX;
use super::message::{Bind, Parse, Target};
use super::parameter::decode;
use super::rows::{RunningRows, Sent};
use super::simple::rows_tag;
use super::sql_session::SqlSession;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::parameter::Parameter;
use crate::frontend::response::{Response, RowsTag};
use crate::types::SqlType;

/// A statement that was parsed; `None` inside: an empty text.
pub struct Prepared<T> {
    statement: Option<T>,
    parameters: Vec<SqlType>,
    columns: Option<SchemaRef>,
}

/// A statement with its parameters.
pub struct Portal<T> {
    statement: Option<T>,
    parameters: Vec<Parameter>,
    /// What Describe says; `None`: no rows.
    columns: Option<SchemaRef>,
    formats: Vec<Format>,
    state: PortalState,
}

enum PortalState {
    Bound,
    Sending {
        rows: RunningRows<RowEncoder>,
        tag: RowsTag,
    },
    /// All rows were sent: executing again gives none.
    Drained {
        tag: RowsTag,
    },
    /// Ran, and had no rows, or failed: cannot run again.
    Done,
}

impl<S: SqlSession> Connection<S> {
    pub(super) async fn parse(&mut self, parse: Parse) -> Result<(), Error> {
        let Parse {
            name,
            text,
            parameter_oids,
        } = parse;
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Error::DuplicateStatement { name });
        }
        if self.statements.len() >= PREPARED_STATEMENTS_MAX {
            return Err(Error::Limit {
                message: format!("a session can have at most {PREPARED_STATEMENTS_MAX} prepared statements"),
                hint: "Close those that are no longer needed, or use DEALLOCATE ALL.",
            });
        }
        let mut statements = self.statements_of(&text)?;
        if statements.len() > 1 {
            return Err(Error::Statement(ErrorReport::new(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )));
        }
        let declared = parameter_oids
            .into_iter()
            .map(declared_type)
            .collect::<Result<Vec<_>, _>>()?;
        let prepared = match statements.pop() {
            None => Prepared {
                statement: None,
                parameters: Vec::new(),
                columns: None,
            },
            Some(statement) => {
                let running = self.backend.begin_statement();
                let own = self.interrupts.clone();
                let interrupts = own.statement(running.token(), self.session.statement_timeout());
                let description = tokio::select! {
                    biased;
                    error = interrupts.raised() => return Err(error),
                    description = self.session.describe(&statement, &declared) => description?,
                };
                Prepared {
                    statement: Some(statement),
                    parameters: description.parameters,
                    columns: description.columns,
                }
            }
        };
        self.statements.insert(name, prepared);
        self.replies.put_empty(b'1');
        Ok(())
    }

    pub(super) fn bind(&mut self, bind: Bind) -> Result<(), Error> {
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(Error::DuplicatePortal { name: bind.portal });
        }
        let prepared = self
            .statements
            .get(&bind.statement)
            .ok_or_else(|| Error::UnknownStatement {
                name: bind.statement.clone(),
            })?;
        let parameters = bound_parameters(prepared, &bind, &self.session.output_style().time_zone)?;
        let column_count = prepared.columns.as_ref().map_or(0, |columns| columns.fields().len());
        let portal = Portal {
            statement: prepared.statement.clone(),
            parameters,
            columns: prepared.columns.clone(),
            formats: result_formats(&bind.result_formats, column_count)?,
            state: PortalState::Bound,
        };
        self.portals.insert(bind.portal, portal);
        self.replies.put_empty(b'2');
        Ok(())
    }

    pub(super) fn describe(&mut self, target: &Target) -> Result<(), Error> {
        let (columns, formats) = match target {
            Target::Statement(name) => {
                let prepared = self
                    .statements
                    .get(name)
                    .ok_or_else(|| Error::UnknownStatement { name: name.clone() })?;
                let oids = prepared.parameters.iter().map(SqlType::oid).collect();
                self.replies.put(&ParameterDescription::new(oids))?;
                let count = prepared.columns.as_ref().map_or(0, |columns| columns.fields().len());
                (prepared.columns.clone(), vec![Format::Text; count])
            }
            Target::Portal(name) => {
                let portal = self
                    .portals
                    .get(name)
                    .ok_or_else(|| Error::UnknownPortal { name: name.clone() })?;
                (portal.columns.clone(), portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => self.replies.columns(&columns, &formats),
            None => {
                self.replies.put_empty(b'n');
                Ok(())
            }
        }
    }

    /// Closing what does not exist is no error.
    pub(super) fn close(&mut self, target: &Target) {
        match target {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        self.replies.put_empty(b'3');
    }

    /// Runs a portal, or goes on with it. It leaves the map meanwhile, and comes back unless it failed.
    pub(super) async fn execute(&mut self, name: String, rows_max: i32) -> Result<(), Error> {
        let Some(mut portal) = self.portals.remove(&name) else {
            return Err(Error::UnknownPortal { name });
        };
        let result = self.execute_portal(&mut portal, &name, rows_max).await;
        if result.is_err() {
            portal.state = PortalState::Done;
        }
        self.portals.insert(name, portal);
        result
    }

    async fn execute_portal(
        &mut self,
        portal: &mut Portal<S::Statement>,
        name: &str,
        rows_max: i32,
    ) -> Result<(), Error> {
        let running = self.backend.begin_statement();
        let own = self.interrupts.clone();
        let interrupts = own.statement(running.token(), self.session.statement_timeout());
        if matches!(portal.state, PortalState::Bound) {
            let Some(statement) = &portal.statement else {
                self.replies.put_empty(b'I');
                return Ok(());
            };
            metrics::counter!("laminar_pgwire_statements_total", "protocol" => "extended").increment(1);
            portal.state = PortalState::Done;
            let response = tokio::select! {
                biased;
                error = interrupts.raised() => return Err(error),
                response = self.session.run(statement, &portal.parameters) => response?,
            };
            self.send_notices()?;
            match response {
                Response::Empty => {
                    self.replies.put_empty(b'I');
                    return Ok(());
                }
                Response::Complete { tag } => return self.replies.complete(&tag),
                Response::CopyOut { format, schema, rows } => {
                    return self.copy_out(&format, schema, rows, &interrupts).await;
                }
                Response::CopyIn(copy) => return self.copy_in(*copy, &interrupts).await,
                Response::Rows { schema, rows, tag } => {
                    check_columns(portal.columns.as_ref(), &schema)?;
                    check_formats(&portal.formats, &schema)?;
                    let encoder = RowEncoder::new(schema, portal.formats.clone(), self.session.output_style());
                    let rows = RunningRows::new(encoder, rows);
                    portal.state = PortalState::Sending { rows, tag };
                }
            }
        }
        match std::mem::replace(&mut portal.state, PortalState::Done) {
            PortalState::Sending { mut rows, tag } => {
                // Zero and, as in Postgres, negative numbers mean all.
                let limit = u64::try_from(rows_max).ok().filter(|limit| *limit > 0);
                match rows.send(&mut self.replies, limit, &interrupts).await? {
                    Sent::Limit => {
                        self.replies.put_empty(b's');
                        portal.state = PortalState::Sending { rows, tag };
                    }
                    sent @ Sent::All(_) => {
                        self.send_notices()?;
                        self.replies.complete(&rows_tag(tag.clone(), sent))?;
                        portal.state = PortalState::Drained { tag };
                    }
                }
                Ok(())
            }
            PortalState::Drained { tag } => {
                self.replies.complete(&rows_tag(tag.clone(), Sent::All(0)))?;
                portal.state = PortalState::Drained { tag };
                Ok(())
            }
            PortalState::Bound | PortalState::Done => Err(Error::Statement(ErrorReport::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("portal \"{name}\" cannot be run"),
            ))),
        }
    }
}

fn declared_type(oid: u32) -> Result<Option<SqlType>, Error> {
    if oid == 0 || oid == crate::types::oid::UNKNOWN {
        return Ok(None);
    }
    match SqlType::from_oid(oid) {
        Some(of) => Ok(Some(of)),
        None => Err(Error::Unsupported {
            what: format!("a parameter of the type with OID {oid}"),
            hint: "Leave the type of the parameter to the server (OID 0), or pass it as text.".into(),
        }),
    }
}

fn format_of(code: i16) -> Result<Format, Error> {
    match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        other => Err(Error::BadValue {
            code: SqlState::INVALID_PARAMETER_VALUE,
            message: format!("unsupported format code: {other}"),
        }),
    }
}

fn bound_parameters<T>(
    prepared: &Prepared<T>,
    bind: &Bind,
    zone: &super::encode::Zone,
) -> Result<Vec<Parameter>, Error> {
    let (given, needed) = (bind.parameters.len(), prepared.parameters.len());
    if bind.parameter_formats.len() > 1 && bind.parameter_formats.len() != given {
        return Err(Error::protocol(format!(
            "bind message has {} parameter formats but {given} parameters",
            bind.parameter_formats.len()
        )));
    }
    if given != needed {
        return Err(Error::protocol(format!(
            "bind message supplies {given} parameters, but prepared statement \"{}\" requires {needed}",
            bind.statement
        )));
    }
    let mut parameters = Vec::with_capacity(given);
    for (at, (value, of)) in bind.parameters.iter().zip(&prepared.parameters).enumerate() {
        let code = match bind.parameter_formats.as_slice() {
            [] => 0,
            [all] => *all,
            each => each[at],
        };
        parameters.push(decode(of, format_of(code)?, value.as_deref(), zone)?);
    }
    Ok(parameters)
}

fn result_formats(codes: &[i16], columns: usize) -> Result<Vec<Format>, Error> {
    match codes {
        [] => Ok(vec![Format::Text; columns]),
        [all] => Ok(vec![format_of(*all)?; columns]),
        each if each.len() == columns => each.iter().map(|code| format_of(*code)).collect(),
        each => Err(Error::protocol(format!(
            "bind message has {} result formats but query has {columns} columns",
            each.len()
        ))),
    }
}

fn check_formats(formats: &[Format], actual: &SchemaRef) -> Result<(), Error> {
    if formats.len() == actual.fields().len() {
        return Ok(());
    }
    Err(Error::internal("a statement without described columns gave rows"))
}

/// The objects may have changed since Parse; drivers know this error and parse again.
fn check_columns(described: Option<&SchemaRef>, actual: &SchemaRef) -> Result<(), Error> {
    let Some(described) = described else {
        return Ok(());
    };
    let type_of =
        |field: &arrow::datatypes::FieldRef| SqlType::from_arrow_field(field).map(|of| (of.oid(), of.typmod()));
    let same = described.fields().len() == actual.fields().len()
        && described
            .fields()
            .iter()
            .zip(actual.fields())
            .all(|(a, b)| a.name() == b.name() && type_of(a) == type_of(b));
    if same {
        Ok(())
    } else {
        Err(Error::Statement(
            ErrorReport::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cached plan must not change result type",
            )
            .with_hint("Prepare the statement again."),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_codes_are_none_one_or_each() {
        use Format::{Binary, Text};
        assert_eq!(result_formats(&[], 2).expect("none"), [Text, Text]);
        assert_eq!(result_formats(&[1], 2).expect("one"), [Binary, Binary]);
        assert_eq!(result_formats(&[0, 1], 2).expect("each"), [Text, Binary]);
        assert!(result_formats(&[0, 1], 3).is_err());
        assert!(result_formats(&[2], 1).is_err());
    }

    #[test]
    fn unknown_parameter_types_are_refused() {
        assert_eq!(declared_type(0).expect("inferred"), None);
        assert_eq!(declared_type(23).expect("known"), Some(SqlType::Int));
        assert!(declared_type(600).is_err());
    }
}
