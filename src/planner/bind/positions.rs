//! Where in the statement an error is: line and column of a parsed node to characters, and DataFusion's errors to ours.
//!
//! DataFusion's planner reports most errors as text. What Postgres users know by code is told apart by the error's variant
//! where there is one, else by the stable beginning of the text.

use datafusion::common::{Column, DataFusionError, Diagnostic, SchemaError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use crate::error::{ErrorReport, SqlState, nearest};
use crate::planner::error::{Error, Undefined};

/// The text that spans refer to.
#[derive(Clone, Copy, Debug)]
pub struct SourceText<'a>(pub &'a str);

impl SourceText<'_> {
    /// 1-based, in characters; `None` for nodes that were not in the text.
    pub fn position(self, span: Span) -> Option<usize> {
        self.at(span.start.line, span.start.column)
    }

    pub fn position_of(self, location: Location) -> Option<usize> {
        self.at(location.line, location.column)
    }

    fn at(self, line: u64, column: u64) -> Option<usize> {
        if line == 0 || column == 0 {
            return None;
        }
        let mut before = 0;
        for (number, text) in (1u64..).zip(self.0.split('\n')) {
            let characters = text.chars().count();
            if number == line {
                let column = usize::try_from(column).ok()?;
                return (column <= characters + 1).then_some(before + column);
            }
            before += characters + 1;
        }
        None
    }

    /// DataFusion's error as one of ours.
    pub fn error(self, error: DataFusionError) -> Error {
        let position = first_diagnostic(&error).and_then(|diagnostic| {
            let start = diagnostic.span?.start;
            self.at(start.line, start.column)
        });
        translate(error).at(position)
    }
}

fn first_diagnostic(error: &DataFusionError) -> Option<&Diagnostic> {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            if diagnostic.span.is_some() {
                Some(diagnostic)
            } else {
                first_diagnostic(inner)
            }
        }
        DataFusionError::Context(_, inner) => first_diagnostic(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(first_diagnostic),
        _ => None,
    }
}

fn translate(error: DataFusionError) -> Error {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => translate(*inner),
        DataFusionError::Collection(errors) => match errors.into_iter().next() {
            Some(first) => translate(first),
            None => Error::Internal("an empty collection of errors".into()),
        },
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<ErrorReport>() {
                Ok(report) => Error::Query(*report),
                Err(other) => Error::query(SqlState::DATA_EXCEPTION, other.to_string()),
            },
        },
        DataFusionError::SchemaError(error, _) => schema_error(*error),
        DataFusionError::SQL(error, _) => Error::query(SqlState::SYNTAX_ERROR, error.to_string()),
        DataFusionError::NotImplemented(message) => Error::not_supported(
            lower_first(&message),
            "Rewrite the query without it; the manual's page on queries lists what can be used.",
        ),
        DataFusionError::Plan(message) if is_refused_plan(&message) => internal(&message),
        DataFusionError::Plan(message) => plan_error(&message),
        DataFusionError::Execution(message) => execution_error(&message),
        DataFusionError::ArrowError(error, _) => execution_error(&error.to_string()),
        DataFusionError::Configuration(message) => {
            Error::query(SqlState::INVALID_PARAMETER_VALUE, lower_first(&message))
        }
        DataFusionError::ResourcesExhausted(message) => Error::query(SqlState::OUT_OF_MEMORY, lower_first(&message)),
        other => internal(&other.to_string()),
    }
}

/// Whether it is the planner that has made a plan that cannot be right, which its last check says as if the query were wrong.
fn is_refused_plan(message: &str) -> bool {
    message.contains("does not satisfy order requirements")
        || message.contains("does not satisfy distribution requirements")
}

fn schema_error(error: SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => undefined_column(&field, &valid_fields),
        SchemaError::AmbiguousReference { field } => Error::query(
            SqlState::AMBIGUOUS_COLUMN,
            format!("column reference \"{}\" is ambiguous", field.name),
        ),
        SchemaError::DuplicateQualifiedField { qualifier, .. } => Error::query(
            SqlState::DUPLICATE_ALIAS,
            format!("table name \"{}\" specified more than once", qualifier.table()),
        ),
        SchemaError::DuplicateUnqualifiedField { name } => Error::query(
            SqlState::DUPLICATE_COLUMN,
            format!("column \"{name}\" specified more than once"),
        ),
    }
}

fn undefined_column(field: &Column, valid: &[Column]) -> Error {
    let candidate = nearest(&field.name, valid.iter().map(|column| column.name.as_str()));
    // `t.column` where t is no table of this query.
    if let Some(relation) = &field.relation
        && !valid
            .iter()
            .any(|column| column.relation.as_ref().is_some_and(|r| r.table() == relation.table()))
    {
        let report = ErrorReport::new(
            SqlState::UNDEFINED_TABLE,
            format!("missing FROM-clause entry for table \"{}\"", relation.table()),
        );
        return Error::Query(match tables_hint(relation.table(), valid) {
            Some(hint) => report.with_hint(hint),
            None => report,
        });
    }
    Error::Undefined {
        kind: Undefined::Column,
        name: field.name.clone(),
        hint: candidate.map(|name| format!("Perhaps you meant to reference the column \"{name}\".")),
        position: None,
    }
}

fn tables_hint(name: &str, valid: &[Column]) -> Option<String> {
    let tables = valid
        .iter()
        .filter_map(|column| column.relation.as_ref().map(|relation| relation.table()));
    nearest(name, tables).map(|table| format!("Perhaps you meant to reference the table \"{table}\"."))
}

fn plan_error(message: &str) -> Error {
    let lower = message.to_lowercase();
    if lower.contains("to grouping function is not in grouping columns") {
        let message = "arguments to GROUPING must be grouping expressions of the associated query level";
        return Error::query(SqlState::GROUPING_ERROR, message);
    }
    let code = if lower.contains("must appear in the group by clause")
        || lower.contains("must be in group by or an aggregate function")
        || lower.contains("non-aggregate values")
    {
        SqlState::GROUPING_ERROR
    } else if lower.contains("failed to coerce")
        || lower.contains("no function matches")
        || lower.contains("failed to match any signature")
        || lower.contains("cannot coerce")
        || lower.contains("cannot infer common argument type")
        || lower.contains("invalid function")
        || lower.contains("no matching signature")
    {
        SqlState::UNDEFINED_FUNCTION
    } else if lower.contains("not found in struct") {
        SqlState::UNDEFINED_COLUMN
    } else if lower.contains("unique expression names") || lower.contains("duplicate") {
        SqlState::DUPLICATE_COLUMN
    } else if lower.contains("table function") && lower.contains("not found") {
        SqlState::UNDEFINED_FUNCTION
    } else if lower.contains("union") && lower.contains("number of columns") {
        SqlState::SYNTAX_ERROR
    } else if lower.contains("placeholder") || lower.contains("parameter") {
        SqlState::INDETERMINATE_DATATYPE
    } else {
        SqlState::SYNTAX_ERROR
    };
    Error::query(code, first_sentence(message))
}

fn execution_error(message: &str) -> Error {
    Error::query(crate::engine::error::expression_code(message), first_sentence(message))
}

/// DataFusion files some mistakes of users under internal errors.
fn internal(message: &str) -> Error {
    let lower = message.to_lowercase();
    if lower.contains("failed to match any signature") || lower.contains("cannot coerce") {
        return Error::query(SqlState::UNDEFINED_FUNCTION, first_sentence(message));
    }
    Error::Internal(first_sentence(message))
}

/// Postgres messages are one lower-case sentence without a full stop.
fn first_sentence(message: &str) -> String {
    let message = message
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("Execution error: ")
        .trim_start_matches("Internal error: ");
    let line = message.lines().next().unwrap_or(message).trim_end_matches('.');
    lower_first(line)
}

/// Lowers the first letter unless the word is an acronym or a name of several capitals.
fn lower_first(message: &str) -> String {
    let mut characters = message.chars();
    match (characters.next(), characters.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(message.chars().skip(1)).collect()
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Report;

    #[test]
    fn positions_count_characters_over_lines() {
        let text = SourceText("SELECT ä,\n  b");
        assert_eq!(text.at(1, 1), Some(1));
        assert_eq!(text.at(2, 3), Some(13));
        assert_eq!(text.at(0, 0), None);
        assert_eq!(text.at(7, 1), None);
    }

    #[test]
    fn a_plan_that_its_maker_refuses_is_no_wrong_query() {
        let refused = "Plan: [\"UnionExec\"] does not satisfy order requirements: [a@0 ASC]. Child-0 order: []";
        let code = |message: &str| translate(DataFusionError::Plan(message.into())).code();
        assert_eq!(code(refused), SqlState::INTERNAL_ERROR);
        assert_ne!(code("there is no such thing"), SqlState::INTERNAL_ERROR);
    }

    #[test]
    fn messages_start_in_lower_case() {
        assert_eq!(lower_first("Cannot do it"), "cannot do it");
        assert_eq!(lower_first("SQL is fine"), "SQL is fine");
    }
}
