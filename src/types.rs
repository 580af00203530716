//! The one table of types: SQL name, Arrow type, Postgres OID.
