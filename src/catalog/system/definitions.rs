//! Which system relations there are, with their columns: read from `relations.txt` and `laminar.txt`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::types::SqlType;

#[derive(Debug)]
pub(super) struct Relation {
    pub schema: &'static str,
    pub name: &'static str,
    pub oid: u32,
    /// As in `pg_class.relkind`.
    pub kind: &'static str,
    pub columns: Vec<SystemColumn>,
    pub arrow: SchemaRef,
}

#[derive(Debug)]
pub(super) struct SystemColumn {
    pub name: &'static str,
    /// `pg_type.typname`, with `[]` for arrays.
    pub type_name: &'static str,
    pub nullable: bool,
}

impl SystemColumn {
    /// `pg_type.typname`, with a leading underscore for arrays.
    pub fn typname(&self) -> String {
        match self.type_name.strip_suffix("[]") {
            Some(element) => format!("_{element}"),
            None => self.type_name.to_owned(),
        }
    }
}

pub(super) static RELATIONS: LazyLock<Vec<Relation>> = LazyLock::new(|| {
    let mut relations = read(include_str!("relations.txt"));
    relations.extend(read(include_str!("laminar.txt")));
    relations
});

static BY_NAME: LazyLock<HashMap<(&'static str, &'static str), usize>> = LazyLock::new(|| {
    let names = RELATIONS.iter().enumerate();
    names
        .map(|(index, relation)| ((relation.schema, relation.name), index))
        .collect()
});

pub(super) fn find(schema: &str, name: &str) -> Option<&'static Relation> {
    let relations: &'static [Relation] = &RELATIONS;
    BY_NAME.get(&(schema, name)).and_then(|index| relations.get(*index))
}

fn read(text: &'static str) -> Vec<Relation> {
    let mut relations: Vec<Relation> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with(' ') {
            if let Some(relation) = relations.last_mut() {
                read_columns(line, &mut relation.columns);
            }
            continue;
        }
        let mut words = line.split_whitespace();
        if let (Some(schema), Some(name), Some(oid), Some(kind)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            relations.push(Relation {
                schema,
                name,
                oid: oid.parse().unwrap_or_default(),
                kind,
                columns: Vec::new(),
                arrow: Arc::new(Schema::empty()),
            });
        }
    }
    for relation in &mut relations {
        let fields: Vec<Field> = relation.columns.iter().map(field_of).collect();
        relation.arrow = Arc::new(Schema::new(fields));
    }
    relations
}

/// Lines are wrapped anywhere between words: a name may end one line and its type begin the next.
fn read_columns(line: &'static str, columns: &mut Vec<SystemColumn>) {
    for word in line.split_whitespace() {
        let word = word.trim_end_matches(',');
        match columns.last_mut().filter(|column| column.type_name.is_empty()) {
            Some(column) => {
                column.type_name = word.trim_end_matches('!');
                column.nullable = !word.ends_with('!');
            }
            None => columns.push(SystemColumn {
                name: word,
                type_name: "",
                nullable: true,
            }),
        }
    }
}

fn field_of(column: &SystemColumn) -> Field {
    sql_type(column.type_name).to_arrow_field(column.name, column.nullable)
}

/// Types that no user column can have are shown as the nearest one: a node tree is text, a function its OID.
fn sql_type(type_name: &str) -> SqlType {
    if let Some(element) = type_name.strip_suffix("[]") {
        return SqlType::Array(Box::new(sql_type(element)));
    }
    match type_name {
        "bool" => SqlType::Boolean,
        "int2" => SqlType::SmallInt,
        "int4" => SqlType::Int,
        "int8" => SqlType::BigInt,
        "float4" => SqlType::Real,
        "float8" => SqlType::Double,
        "oid" | "regproc" | "xid" => SqlType::Oid,
        "name" => SqlType::Name,
        "char" => SqlType::SystemChar,
        "timestamptz" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "int2vector" => SqlType::Array(Box::new(SqlType::SmallInt)),
        "oidvector" => SqlType::Array(Box::new(SqlType::Oid)),
        "varchar" => SqlType::Varchar(None),
        _ => SqlType::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::system::types;

    #[test]
    fn every_column_has_a_type_that_is_listed() {
        let mut oids = std::collections::BTreeSet::new();
        for relation in RELATIONS.iter() {
            assert!(!relation.columns.is_empty(), "{}", relation.name);
            assert!((1..16384).contains(&relation.oid), "{}", relation.name);
            assert!(oids.insert(relation.oid), "{}", relation.name);
            assert!(["r", "v"].contains(&relation.kind));
            for column in &relation.columns {
                assert!(
                    types::by_name(&column.typname()).is_some(),
                    "{}.{}",
                    relation.name,
                    column.name
                );
            }
        }
        assert_eq!(find("pg_catalog", "pg_class").map(|relation| relation.oid), Some(1259));
        assert!(find("public", "pg_class").is_none());
    }

    #[test]
    fn columns_are_those_of_postgres_16() {
        let names = |name: &str| {
            let relation = find("pg_catalog", name).expect("listed");
            relation.columns.iter().map(|column| column.name).collect::<Vec<_>>()
        };
        assert_eq!(names("pg_am"), ["oid", "amname", "amhandler", "amtype"]);
        let attribute = names("pg_attribute");
        assert_eq!(
            attribute[..8].join(" "),
            "attrelid attname atttypid attlen attnum attcacheoff atttypmod attndims"
        );
        assert_eq!(attribute[19..21].join(" "), "attinhcount attstattarget");
        assert!(names("pg_database").contains(&"daticurules"));
        assert!(names("pg_auth_members").contains(&"inherit_option"));
    }
}
