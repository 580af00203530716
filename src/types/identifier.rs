//! Names in SQL text: which words are no names, and when a name needs quotes.

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

/// Words that Postgres allows as names in some places, but that would be read as something else where we print them; sorted.
const QUOTED_WHEN_PRINTED: &[&str] = &[
    "authorization",
    "between",
    "binary",
    "collation",
    "concurrently",
    "cross",
    "current_schema",
    "exists",
    "freeze",
    "full",
    "ilike",
    "inner",
    "interval",
    "is",
    "isnull",
    "join",
    "left",
    "like",
    "metadata",
    "natural",
    "notnull",
    "outer",
    "overlaps",
    "right",
    "row",
    "secret",
    "similar",
    "struct",
    "tablesample",
    "values",
    "verbose",
    "watermark",
];

/// Whether a word in lower case is no name unless quoted.
pub fn is_reserved(lower_case: &str) -> bool {
    RESERVED.binary_search(&lower_case).is_ok()
}

/// `name` as SQL: quoted when it would not read back as itself.
pub fn quote_identifier(name: &str) -> String {
    let mut characters = name.chars();
    let plain = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !is_reserved(name)
        && QUOTED_WHEN_PRINTED.binary_search(&name).is_err();
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted() {
        assert!(RESERVED.is_sorted() && QUOTED_WHEN_PRINTED.is_sorted());
        assert!(!QUOTED_WHEN_PRINTED.iter().any(|word| is_reserved(word)));
    }
}
