//! What Postgres clients see of a type: OID, name, length, modifier.
//!
//! TINYINT is `smallint`, an unsigned integer the next wider type that holds all its values, STRUCT and MAP are `json`. An
//! array of any number of dimensions has the OID of its innermost element's array type, as in Postgres.
//! Layouts: <https://www.postgresql.org/docs/16/catalog-pg-type.html>.

use super::SqlType;

/// OIDs of Postgres's built-in types.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const REGPROC: u32 = 24;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const NUMERIC: u32 = 1700;
    pub const REGCLASS: u32 = 2205;
    pub const REGTYPE: u32 = 2206;
    pub const VOID: u32 = 2278;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// One built-in type: OID, its array's OID, `pg_type.typname`, `pg_type.typlen`, the name that `format_type` shows.
struct Builtin {
    oid: u32,
    array_oid: u32,
    typname: &'static str,
    typlen: i16,
    shown: &'static str,
}

const fn builtin(oid: u32, array_oid: u32, typname: &'static str, typlen: i16, shown: &'static str) -> Builtin {
    Builtin {
        oid,
        array_oid,
        typname,
        typlen,
        shown,
    }
}

const BUILTINS: &[Builtin] = &[
    builtin(oid::BOOL, 1000, "bool", 1, "boolean"),
    builtin(oid::BYTEA, 1001, "bytea", -1, "bytea"),
    builtin(oid::CHAR, 1002, "char", 1, "\"char\""),
    builtin(oid::NAME, 1003, "name", 64, "name"),
    builtin(oid::INT8, 1016, "int8", 8, "bigint"),
    builtin(oid::INT2, 1005, "int2", 2, "smallint"),
    builtin(oid::INT4, 1007, "int4", 4, "integer"),
    builtin(oid::TEXT, 1009, "text", -1, "text"),
    builtin(oid::OID, 1028, "oid", 4, "oid"),
    builtin(oid::JSON, 199, "json", -1, "json"),
    builtin(oid::FLOAT4, 1021, "float4", 4, "real"),
    builtin(oid::FLOAT8, 1022, "float8", 8, "double precision"),
    builtin(oid::BPCHAR, 1014, "bpchar", -1, "character"),
    builtin(oid::VARCHAR, 1015, "varchar", -1, "character varying"),
    builtin(oid::DATE, 1182, "date", 4, "date"),
    builtin(oid::TIME, 1183, "time", 8, "time without time zone"),
    builtin(oid::TIMESTAMP, 1115, "timestamp", 8, "timestamp without time zone"),
    builtin(oid::TIMESTAMPTZ, 1185, "timestamptz", 8, "timestamp with time zone"),
    builtin(oid::INTERVAL, 1187, "interval", 16, "interval"),
    builtin(oid::NUMERIC, 1231, "numeric", -1, "numeric"),
    builtin(oid::UUID, 2951, "uuid", 16, "uuid"),
    builtin(oid::JSONB, 3807, "jsonb", -1, "jsonb"),
];

fn builtin_of(oid: u32) -> &'static Builtin {
    BUILTINS
        .iter()
        .find(|builtin| builtin.oid == oid)
        .expect("every scalar OID that scalar_oid gives is in the table; a test goes through all types")
}

impl SqlType {
    /// The OID that RowDescription and `pg_attribute.atttypid` carry.
    pub fn oid(&self) -> u32 {
        match self {
            SqlType::Array(_) => builtin_of(self.innermost().scalar_oid()).array_oid,
            scalar => scalar.scalar_oid(),
        }
    }

    /// The OID of the array type over this type.
    pub fn array_oid(&self) -> u32 {
        builtin_of(self.innermost().scalar_oid()).array_oid
    }

    /// `pg_type.typlen`: bytes of a fixed-length value, else -1.
    pub fn typlen(&self) -> i16 {
        match self {
            SqlType::Array(_) => -1,
            scalar => builtin_of(scalar.scalar_oid()).typlen,
        }
    }

    /// `pg_attribute.atttypmod`: precision and scale, or length; -1 when there is none.
    pub fn typmod(&self) -> i32 {
        match self.innermost() {
            SqlType::Numeric { precision, scale } => ((i32::from(*precision) << 16) | (i32::from(*scale) & 0x7ff)) + 4,
            SqlType::UnsignedBigInt => (20 << 16) + 4,
            SqlType::Varchar(Some(length)) | SqlType::Char(Some(length)) => {
                i32::try_from(*length).map_or(-1, |length| length.saturating_add(4))
            }
            SqlType::Char(None) => 5,
            _ => -1,
        }
    }

    /// The name as `format_type(oid, typmod)` shows it: `numeric(10,2)`, `timestamp without time zone`, `integer[]`.
    pub fn postgres_name(&self) -> String {
        let innermost = self.innermost();
        let shown = builtin_of(innermost.scalar_oid()).shown;
        let scalar = match innermost {
            SqlType::Numeric { precision, scale } => format!("{shown}({precision},{scale})"),
            SqlType::UnsignedBigInt => format!("{shown}(20,0)"),
            SqlType::Varchar(Some(length)) | SqlType::Char(Some(length)) => format!("{shown}({length})"),
            SqlType::Char(None) => format!("{shown}(1)"),
            _ => shown.to_owned(),
        };
        match self {
            SqlType::Array(_) => format!("{scalar}[]"),
            _ => scalar,
        }
    }

    /// The name without modifiers, as `information_schema.columns.data_type` has it; an array is `ARRAY`.
    pub fn information_schema_name(&self) -> &'static str {
        match self {
            SqlType::Array(_) => "ARRAY",
            scalar => builtin_of(scalar.scalar_oid()).shown,
        }
    }

    /// `pg_type.typname`: `int4`, `_int4`.
    pub fn typname(&self) -> String {
        let typname = builtin_of(self.innermost().scalar_oid()).typname;
        match self {
            SqlType::Array(_) => format!("_{typname}"),
            _ => typname.to_owned(),
        }
    }

    /// The type that a client means by an OID, for parameters; `None` for OIDs that no parameter can have.
    pub fn from_oid(of: u32) -> Option<SqlType> {
        if let Some(element) = BUILTINS.iter().find(|builtin| builtin.array_oid == of) {
            return Some(SqlType::Array(Box::new(SqlType::from_oid(element.oid)?)));
        }
        Some(match of {
            oid::BOOL => SqlType::Boolean,
            oid::BYTEA => SqlType::Bytea,
            oid::CHAR => SqlType::SystemChar,
            oid::NAME => SqlType::Name,
            oid::INT8 => SqlType::BigInt,
            oid::INT2 => SqlType::SmallInt,
            oid::INT4 => SqlType::Int,
            oid::TEXT | oid::UNKNOWN => SqlType::Text,
            // Names of objects resolve to OIDs later: as text they can be either.
            oid::REGCLASS | oid::REGTYPE | oid::REGPROC => SqlType::Text,
            oid::OID => SqlType::Oid,
            oid::JSON => SqlType::Json,
            oid::FLOAT4 => SqlType::Real,
            oid::FLOAT8 => SqlType::Double,
            oid::BPCHAR => SqlType::Char(None),
            oid::VARCHAR => SqlType::Varchar(None),
            oid::DATE => SqlType::Date,
            oid::TIME => SqlType::Time,
            oid::TIMESTAMP => SqlType::Timestamp,
            oid::TIMESTAMPTZ => SqlType::TimestampTz,
            oid::INTERVAL => SqlType::Interval,
            oid::NUMERIC => SqlType::Numeric {
                precision: super::NUMERIC_DEFAULT_PRECISION,
                scale: super::NUMERIC_DEFAULT_SCALE,
            },
            oid::UUID => SqlType::Uuid,
            oid::JSONB => SqlType::Jsonb,
            _ => return None,
        })
    }

    fn innermost(&self) -> &SqlType {
        match self {
            SqlType::Array(element) => element.innermost(),
            scalar => scalar,
        }
    }

    /// Callers go through `innermost` for arrays; the arm for them is never taken.
    fn scalar_oid(&self) -> u32 {
        match self {
            SqlType::Boolean => oid::BOOL,
            SqlType::TinyInt | SqlType::SmallInt | SqlType::UnsignedTinyInt => oid::INT2,
            SqlType::Int | SqlType::UnsignedSmallInt => oid::INT4,
            SqlType::BigInt | SqlType::UnsignedInt => oid::INT8,
            SqlType::UnsignedBigInt | SqlType::Numeric { .. } => oid::NUMERIC,
            SqlType::Real => oid::FLOAT4,
            SqlType::Double => oid::FLOAT8,
            SqlType::Text => oid::TEXT,
            SqlType::Varchar(_) => oid::VARCHAR,
            SqlType::Char(_) => oid::BPCHAR,
            SqlType::Bytea => oid::BYTEA,
            SqlType::Date => oid::DATE,
            SqlType::Time => oid::TIME,
            SqlType::Timestamp => oid::TIMESTAMP,
            SqlType::TimestampTz => oid::TIMESTAMPTZ,
            SqlType::Interval => oid::INTERVAL,
            SqlType::Uuid => oid::UUID,
            SqlType::Json | SqlType::Struct(_) | SqlType::Map(_, _) | SqlType::Array(_) => oid::JSON,
            SqlType::Jsonb => oid::JSONB,
            SqlType::Oid => oid::OID,
            SqlType::Name => oid::NAME,
            SqlType::SystemChar => oid::CHAR,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::types::parse;

    fn check(text: &str, oid: u32, typlen: i16, typmod: i32, shown: &str, typname: &str) {
        let of = parse(text).unwrap();
        let seen = (of.oid(), of.typlen(), of.typmod(), of.postgres_name(), of.typname());
        assert_eq!(seen, (oid, typlen, typmod, shown.into(), typname.into()), "{text}");
    }

    /// Expected values from PostgreSQL's `pg_type` and `format_type`.
    #[test]
    fn clients_see_what_postgres_shows() {
        check("boolean", 16, 1, -1, "boolean", "bool");
        check("tinyint", 21, 2, -1, "smallint", "int2");
        check("smallint", 21, 2, -1, "smallint", "int2");
        check("int", 23, 4, -1, "integer", "int4");
        check("bigint", 20, 8, -1, "bigint", "int8");
        check("tinyint unsigned", 21, 2, -1, "smallint", "int2");
        check("smallint unsigned", 23, 4, -1, "integer", "int4");
        check("int unsigned", 20, 8, -1, "bigint", "int8");
        check("bigint unsigned", 1700, -1, 1_310_724, "numeric(20,0)", "numeric");
        check("real", 700, 4, -1, "real", "float4");
        check("double", 701, 8, -1, "double precision", "float8");
        check("numeric(10,2)", 1700, -1, 655_366, "numeric(10,2)", "numeric");
        check("text", 25, -1, -1, "text", "text");
        check("varchar(10)", 1043, -1, 14, "character varying(10)", "varchar");
        check("varchar", 1043, -1, -1, "character varying", "varchar");
        check("char(3)", 1042, -1, 7, "character(3)", "bpchar");
        check("bytea", 17, -1, -1, "bytea", "bytea");
        check("date", 1082, 4, -1, "date", "date");
        check("time", 1083, 8, -1, "time without time zone", "time");
        check("timestamp", 1114, 8, -1, "timestamp without time zone", "timestamp");
        check("timestamptz", 1184, 8, -1, "timestamp with time zone", "timestamptz");
        check("interval", 1186, 16, -1, "interval", "interval");
        check("uuid", 2950, 16, -1, "uuid", "uuid");
        check("json", 114, -1, -1, "json", "json");
        check("jsonb", 3802, -1, -1, "jsonb", "jsonb");
        check("struct<a int>", 114, -1, -1, "json", "json");
        check("map<text,int>", 114, -1, -1, "json", "json");
        check("int[]", 1007, -1, -1, "integer[]", "_int4");
        check("int[][]", 1007, -1, -1, "integer[]", "_int4");
        check("numeric(10,2)[]", 1231, -1, 655_366, "numeric(10,2)[]", "_numeric");
        check("jsonb[]", 3807, -1, -1, "jsonb[]", "_jsonb");
        check("oid", 26, 4, -1, "oid", "oid");
        check("\"char\"", 18, 1, -1, "\"char\"", "char");
        check("name", 19, 64, -1, "name", "name");
    }

    #[test]
    fn oids_lead_back_to_types() {
        use crate::types::SqlType;
        for text in ["boolean", "int", "text", "timestamptz", "uuid", "jsonb", "int[]", "oid"] {
            let of = parse(text).unwrap();
            assert_eq!(SqlType::from_oid(of.oid()), Some(of), "{text}");
        }
        assert_eq!(SqlType::from_oid(600), None);
    }
}
