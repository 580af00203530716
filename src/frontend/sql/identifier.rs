//! Names as Postgres reads and writes them: unquoted ones fold to lower case, printed ones get quotes only when needed.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::tokenizer::Word;

use crate::catalog::snapshot::QualifiedName;

/// The reserved words of Postgres: not names unless quoted.
/// <https://www.postgresql.org/docs/16/sql-keywords-appendix.html>
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "system_user",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// Words that Postgres allows as names but that would be read as something else where we print them.
const QUOTED_WHEN_PRINTED: &[&str] = &[
    "authorization",
    "between",
    "cross",
    "exists",
    "full",
    "ilike",
    "inner",
    "interval",
    "is",
    "join",
    "left",
    "like",
    "metadata",
    "natural",
    "outer",
    "overlaps",
    "right",
    "secret",
    "similar",
    "values",
    "watermark",
];

pub fn is_reserved(lower_case: &str) -> bool {
    RESERVED.binary_search(&lower_case).is_ok()
}

/// The name that a word stands for.
pub fn fold_word(word: &Word) -> String {
    match word.quote_style {
        Some(_) => word.value.clone(),
        None => word.value.to_lowercase(),
    }
}

/// The name that an identifier of the parsed tree stands for.
pub fn fold(identifier: &Ident) -> String {
    match identifier.quote_style {
        Some(_) => identifier.value.clone(),
        None => identifier.value.to_lowercase(),
    }
}

/// `name` as SQL: quoted when it would not read back as itself.
pub fn quote(name: &str) -> String {
    let mut characters = name.chars();
    let plain_start = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    let plain = plain_start
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !is_reserved(name)
        && !QUOTED_WHEN_PRINTED.contains(&name);
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

pub fn quote_qualified(name: &QualifiedName) -> String {
    match &name.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&name.name)),
        None => quote(&name.name),
    }
}

/// `text` as a string literal.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_words_are_sorted() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn names_are_quoted_only_when_needed() {
        for (name, printed) in [
            ("orders", "orders"),
            ("Orders", "\"Orders\""),
            ("order", "\"order\""),
            ("my table", "\"my table\""),
            ("a\"b", "\"a\"\"b\""),
            ("1st", "\"1st\""),
            ("", "\"\""),
            ("größe", "\"größe\""),
        ] {
            assert_eq!(quote(name), printed);
        }
    }
}
