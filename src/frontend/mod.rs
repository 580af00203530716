//! All that clients see: SQL statements, the Postgres protocol, REST.
//!
//! `session` runs statements and knows no protocol; `pgwire` and `rest` are siblings that both call it.
