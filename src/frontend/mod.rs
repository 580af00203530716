//! All that clients see: SQL statements, the Postgres protocol, REST.
//!
//! `session` runs statements and knows no protocol; `pgwire` and `rest` are siblings that both call it.
//!
//!     text --sql::parse--> Statement --Session::run--> statements::execute --> Response (a tag, rows as they come, COPY)
//!
//! In reading order: [`sql`], [`session`] (with [`settings`], [`transaction`], [`notice`], [`parameter`]), [`statements`]
//! (with [`body`], [`pipeline_options`], [`relations`], [`table_rows`], [`system_views`]), [`response`]. [`context`] is what all sessions
//! share; [`compiler`] is what the coordinator calls to compile a stored pipeline.

mod bind;
pub mod body;
pub mod bounded_tables;
pub mod compiler;
pub mod context;
pub mod error;
pub mod inline_tables;
pub mod interval;
mod masked_options;
pub mod notice;
pub mod parameter;
pub mod pgwire;
pub mod pgwire_sessions;
pub mod pipeline_options;
pub mod relations;
pub mod response;
pub mod rest;
pub mod session;
pub mod settings;
pub mod sql;
pub mod statements;
pub mod system_views;
pub mod table_rows;
pub mod tls;
pub mod transaction;
mod watch_views;

#[cfg(test)]
mod testing;
