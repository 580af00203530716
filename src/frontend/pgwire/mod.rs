//! The Postgres wire protocol, version 3.
//!
//! In reading order: [`listener`] accepts and logs in ([`startup`], [`auth`], [`cancel`]), [`connection`] reads
//! messages ([`message`]) and answers them ([`simple`], [`extended`], [`rows`], [`reply`]); [`encode`], [`copy`] and
//! [`parameter`] are the forms of values; [`sql_session`] is what is needed of a session; [`limits`] and [`error`] say what
//! is refused and how.
//!
//! The message loop is our own, above the message types and the SCRAM state machine of the pgwire crate: rows must be sent
//! while they come, also in the extended protocol and without end; a cancel must reach them; earlier results of a text of
//! statements must stay when a later one fails; and every frame has a limit.

pub mod auth;
pub mod cancel;
mod connection;
pub mod copy;
mod copy_in;
pub mod encode;
pub mod error;
mod extended;
pub mod limits;
pub mod listener;
pub(crate) mod message;
pub mod parameter;
mod reply;
mod rows;
mod simple;
pub mod sql_session;
mod startup;

#[cfg(test)]
mod tests;
