//! Texts of users: SQL, schemas of Protobuf.

use crate::engine::formats::protobuf::ProtobufOptions;
use crate::error::Report;
use crate::frontend::sql;

/// A text is statements or an error whose place is in it; a statement's own text is the statement again.
pub fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match sql::parse(text) {
        Ok(statements) => {
            for statement in statements {
                assert!(text.contains(&statement.text), "a statement's text is part of the text");
                let again = sql::parse(&statement.text).expect("a statement's text is a statement");
                assert_eq!(again.len(), 1, "a statement's text is one statement");
                assert_eq!(again[0].text, statement.text);
            }
        }
        Err(error) => {
            let report = error.report();
            assert_ne!(report.code.as_str(), "XX000", "{}", report.message);
            if let Some(position) = report.position {
                let characters = text.chars().count();
                assert!(
                    (1..=characters + 1).contains(&position),
                    "position {position} of {characters}"
                );
            }
        }
    }
    // The body of a pipeline alone.
    let _ = sql::parse_body(text);
}

/// A schema is compiled or refused, and its columns are those of a message that can be read.
pub fn protobuf_schema(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ProtobufOptions::of_text(text, "M") {
        Ok(message) => {
            let schema = message.schema();
            message.check(&schema, true).expect("a message fits its own columns");
        }
        Err(error) => assert_ne!(error.report().code.as_str(), "XX000"),
    }
}
