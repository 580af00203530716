//! `pg_type` and `pg_proc`: the built-in types and the functions they refer to, from `types.txt` and `procs.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::names::{BOOTSTRAP_ROLE_OID, INTERNAL_LANGUAGE_OID, PG_CATALOG_OID};
use super::rows::{Rows, row};
use crate::types::{SqlType, parse};

#[derive(Debug)]
pub(super) struct BuiltInType {
    pub oid: u32,
    pub name: &'static str,
    pub length: i16,
    pub by_value: bool,
    kind: &'static str,
    category: &'static str,
    preferred: bool,
    delimiter: &'static str,
    element: u32,
    array: u32,
    /// input, output, receive, send, modifier input, modifier output
    functions: [u32; 6],
    pub align: &'static str,
    pub storage: &'static str,
    pub collation: u32,
    subscript: u32,
}

static TYPES: LazyLock<Vec<BuiltInType>> = LazyLock::new(|| {
    lines(include_str!("types.txt"))
        .filter_map(|line| read(line.split(' ').collect()))
        .collect()
});

static BY_OID: LazyLock<HashMap<u32, usize>> = LazyLock::new(|| {
    TYPES
        .iter()
        .enumerate()
        .map(|(index, built_in)| (built_in.oid, index))
        .collect()
});

static BY_NAME: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    TYPES
        .iter()
        .enumerate()
        .map(|(index, built_in)| (built_in.name, index))
        .collect()
});

pub(super) fn by_oid(oid: u32) -> Option<&'static BuiltInType> {
    let types: &'static [BuiltInType] = &TYPES;
    BY_OID.get(&oid).and_then(|index| types.get(*index))
}

pub(super) fn by_name(name: &str) -> Option<&'static BuiltInType> {
    let types: &'static [BuiltInType] = &TYPES;
    BY_NAME.get(name).and_then(|index| types.get(*index))
}

/// The type of a column; text when a text that was checked once can no longer be read.
pub(super) fn of_column(sql_type: &str) -> SqlType {
    parse(sql_type).unwrap_or(SqlType::Text)
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn read(words: Vec<&'static str>) -> Option<BuiltInType> {
    let number = |index: usize| words.get(index)?.parse().ok();
    let mut functions = [0; 6];
    for (index, function) in functions.iter_mut().enumerate() {
        *function = number(10 + index)?;
    }
    Some(BuiltInType {
        oid: number(0)?,
        name: words.get(1)?,
        length: words.get(2)?.parse().ok()?,
        by_value: *words.get(3)? == "t",
        kind: words.get(4)?,
        category: words.get(5)?,
        preferred: *words.get(6)? == "t",
        delimiter: words.get(7)?,
        element: number(8)?,
        array: number(9)?,
        functions,
        align: words.get(16)?,
        storage: words.get(17)?,
        collation: number(18)?,
        subscript: number(19)?,
    })
}

pub(super) fn pg_type(rows: &mut Rows) {
    for built_in in TYPES.iter() {
        let [input, output, receive, send, modifier_in, modifier_out] = built_in.functions;
        row!(
            rows,
            oid = built_in.oid,
            typname = built_in.name,
            typnamespace = PG_CATALOG_OID,
            typowner = BOOTSTRAP_ROLE_OID,
            typlen = built_in.length,
            typbyval = built_in.by_value,
            typtype = built_in.kind,
            typcategory = built_in.category,
            typispreferred = built_in.preferred,
            typisdefined = true,
            typdelim = built_in.delimiter,
            typsubscript = built_in.subscript,
            typelem = built_in.element,
            typarray = built_in.array,
            typinput = input,
            typoutput = output,
            typreceive = receive,
            typsend = send,
            typmodin = modifier_in,
            typmodout = modifier_out,
            typalign = built_in.align,
            typstorage = built_in.storage,
            typtypmod = -1,
            typcollation = built_in.collation,
        );
    }
}

pub(super) fn pg_proc(rows: &mut Rows) {
    for line in lines(include_str!("procs.txt")) {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (oid, name, kind, volatility, set, result) = (next(), next(), next(), next(), next(), next());
        let arguments: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
        let number = |text: &str| text.parse::<u32>().unwrap_or_default();
        row!(
            rows,
            oid = number(oid),
            proname = name,
            pronamespace = PG_CATALOG_OID,
            proowner = BOOTSTRAP_ROLE_OID,
            prolang = INTERNAL_LANGUAGE_OID,
            procost = 1.0f32,
            prokind = kind,
            proisstrict = true,
            proretset = set == "t",
            provolatile = volatility,
            proparallel = "s",
            pronargs = i16::try_from(arguments.len()).unwrap_or_default(),
            prorettype = number(result),
            proargtypes = arguments,
            prosrc = name,
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_line_is_read_and_arrays_point_back() {
        assert_eq!(TYPES.len(), lines(include_str!("types.txt")).count());
        for built_in in TYPES.iter().filter(|built_in| built_in.array != 0) {
            assert_eq!(
                by_oid(built_in.array).unwrap().element,
                built_in.oid,
                "{}",
                built_in.name
            );
        }
    }

    #[test]
    fn agrees_with_the_table_of_types() {
        let texts = [
            "BOOLEAN",
            "TINYINT",
            "SMALLINT",
            "INT",
            "BIGINT",
            "INT UNSIGNED",
            "BIGINT UNSIGNED",
            "REAL",
            "DOUBLE",
            "NUMERIC(10,2)",
            "TEXT",
            "VARCHAR(3)",
            "CHAR(3)",
            "BYTEA",
            "DATE",
            "TIME",
            "TIMESTAMP",
            "TIMESTAMPTZ",
            "INTERVAL",
            "UUID",
            "JSON",
            "JSONB",
            "TEXT[]",
            "INT[]",
            "STRUCT<a INT>",
            "MAP<TEXT, INT>",
        ];
        for text in texts {
            let sql_type = parse(text).unwrap();
            let built_in = by_oid(sql_type.oid()).unwrap();
            assert_eq!(built_in.name, sql_type.typname(), "{text}");
            assert_eq!(built_in.length, sql_type.typlen(), "{text}");
        }
    }
}
