//! Every parameter of a session, one line each.

/// What values a parameter takes; [`super::values::read`] reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Can be shown, not changed.
    Fixed,
    Text,
    Boolean,
    /// At least, at most.
    Integer(i64, i64),
    Number,
    /// Milliseconds when no unit is given; 0 is no limit.
    Duration,
    /// An interval, such as `1 hour`; empty is none.
    Interval,
    Choice(&'static [&'static str]),
    TimeZone,
    DateStyle,
    Encoding,
    /// Kilobytes when no unit is given; has no effect.
    Memory,
}

#[derive(Debug)]
pub struct Definition {
    /// As SHOW ALL prints it.
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    /// The client is told of every change (ParameterStatus).
    pub told: bool,
    pub summary: &'static str,
}

/// The definition of a setting by its lower-case name.
pub fn find(key: &str) -> Option<&'static Definition> {
    ALL.iter().find(|definition| definition.name.eq_ignore_ascii_case(key))
}

const fn setting(name: &'static str, default: &'static str, kind: Kind, summary: &'static str) -> Definition {
    Definition {
        name,
        default,
        kind,
        told: false,
        summary,
    }
}

const fn told(name: &'static str, default: &'static str, kind: Kind, summary: &'static str) -> Definition {
    Definition {
        name,
        default,
        kind,
        told: true,
        summary,
    }
}

const ISOLATION: Kind = Kind::Choice(&["serializable", "repeatable read", "read committed", "read uncommitted"]);
const MESSAGES: Kind = Kind::Choice(&[
    "debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error", "info", "debug", "fatal",
    "panic",
]);
const ACCEPTED: &str = "Accepted for compatibility; has no effect.";

/// As `server_version`; drivers compare its beginning.
pub const SERVER_VERSION: &str = concat!("16.4 (Laminar ", env!("CARGO_PKG_VERSION"), ")");

/// By name, as SHOW ALL lists them.
pub const ALL: &[Definition] = &[
    told("application_name", "", Kind::Text, "Name of the client application."),
    setting("array_nulls", "on", Kind::Boolean, ACCEPTED),
    setting(
        "backslash_quote",
        "safe_encoding",
        Kind::Choice(&["safe_encoding", "on", "off"]),
        ACCEPTED,
    ),
    setting(
        "bytea_output",
        "hex",
        Kind::Choice(&["hex", "escape"]),
        "How bytea is printed.",
    ),
    setting("check_function_bodies", "on", Kind::Boolean, ACCEPTED),
    told(
        "client_encoding",
        "UTF8",
        Kind::Encoding,
        "Encoding of text to and from the client; always UTF8.",
    ),
    setting(
        "client_min_messages",
        "notice",
        MESSAGES,
        "The least severe messages that the client is sent.",
    ),
    setting("constraint_exclusion", "partition", Kind::Text, ACCEPTED),
    told(
        "DateStyle",
        "ISO, MDY",
        Kind::DateStyle,
        "How dates are printed (always ISO) and read.",
    ),
    setting("deadlock_timeout", "1s", Kind::Duration, ACCEPTED),
    setting("default_table_access_method", "heap", Kind::Text, ACCEPTED),
    setting("default_tablespace", "", Kind::Text, ACCEPTED),
    setting("default_text_search_config", "pg_catalog.simple", Kind::Text, ACCEPTED),
    setting("default_transaction_deferrable", "off", Kind::Boolean, ACCEPTED),
    told(
        "default_transaction_isolation",
        "read committed",
        ISOLATION,
        "Isolation of new transactions; reads see one epoch whatever it says.",
    ),
    told(
        "default_transaction_read_only",
        "off",
        Kind::Boolean,
        "Whether new transactions are read-only.",
    ),
    setting("default_with_oids", "off", Kind::Boolean, ACCEPTED),
    setting("enable_hashjoin", "on", Kind::Boolean, ACCEPTED),
    setting("enable_mergejoin", "on", Kind::Boolean, ACCEPTED),
    setting("enable_nestloop", "on", Kind::Boolean, ACCEPTED),
    setting("enable_seqscan", "on", Kind::Boolean, ACCEPTED),
    setting("escape_string_warning", "on", Kind::Boolean, ACCEPTED),
    setting(
        "extra_float_digits",
        "1",
        Kind::Integer(-15, 3),
        "Digits of floating-point numbers; they always read back exactly.",
    ),
    setting("force_parallel_mode", "off", Kind::Text, ACCEPTED),
    setting("geqo", "on", Kind::Boolean, ACCEPTED),
    setting(
        "gin_fuzzy_search_limit",
        "0",
        Kind::Integer(0, i32::MAX as i64),
        ACCEPTED,
    ),
    setting(
        "idle_in_transaction_session_timeout",
        "0",
        Kind::Duration,
        "Ends sessions that do nothing inside a transaction for so long.",
    ),
    setting(
        "idle_session_timeout",
        "0",
        Kind::Duration,
        "Ends sessions that do nothing for so long.",
    ),
    told("in_hot_standby", "off", Kind::Fixed, "Whether the server only reads."),
    told(
        "integer_datetimes",
        "on",
        Kind::Fixed,
        "Timestamps are whole microseconds.",
    ),
    told(
        "IntervalStyle",
        "postgres",
        Kind::Choice(&["postgres", "postgres_verbose", "sql_standard", "iso_8601"]),
        "How intervals are printed.",
    ),
    told("is_superuser", "on", Kind::Fixed, "Whether the user may do everything."),
    setting("jit", "off", Kind::Boolean, ACCEPTED),
    setting("lc_collate", "C", Kind::Fixed, "Text is ordered by bytes."),
    setting(
        "lc_ctype",
        "C.UTF-8",
        Kind::Fixed,
        "Character classes are those of Unicode.",
    ),
    setting("lc_messages", "C", Kind::Text, ACCEPTED),
    setting("lc_monetary", "C", Kind::Text, ACCEPTED),
    setting("lc_numeric", "C", Kind::Text, ACCEPTED),
    setting("lc_time", "C", Kind::Text, ACCEPTED),
    setting("lo_compat_privileges", "off", Kind::Boolean, ACCEPTED),
    setting("lock_timeout", "0", Kind::Duration, ACCEPTED),
    setting("log_min_duration_statement", "-1", Kind::Text, ACCEPTED),
    setting("log_statement", "none", Kind::Text, ACCEPTED),
    setting("maintenance_work_mem", "64MB", Kind::Memory, ACCEPTED),
    setting("max_connections", "100", Kind::Fixed, "The most connections at a time."),
    setting("max_identifier_length", "63", Kind::Fixed, "Bytes of a name."),
    setting("max_index_keys", "32", Kind::Fixed, "Columns of a key."),
    setting("max_parallel_workers_per_gather", "2", Kind::Integer(0, 1024), ACCEPTED),
    setting(
        "parallelism",
        "1",
        Kind::Integer(1, 1024),
        "Subtasks of every operator of pipelines created without WITH (parallelism = n).",
    ),
    setting(
        "password_encryption",
        "scram-sha-256",
        Kind::Choice(&["scram-sha-256"]),
        "How passwords are kept.",
    ),
    setting(
        "plan_cache_mode",
        "auto",
        Kind::Choice(&["auto", "force_generic_plan", "force_custom_plan"]),
        ACCEPTED,
    ),
    setting(
        "port",
        "5433",
        Kind::Fixed,
        "Where the server listens for SQL by default.",
    ),
    setting("quote_all_identifiers", "off", Kind::Boolean, ACCEPTED),
    setting("random_page_cost", "4", Kind::Number, ACCEPTED),
    setting(
        "read_your_writes",
        "off",
        Kind::Boolean,
        "Every INSERT waits until what it wrote can be read.",
    ),
    setting("role", "none", Kind::Text, "The role that the session acts as."),
    setting("row_security", "on", Kind::Boolean, ACCEPTED),
    setting(
        "search_path",
        "\"$user\", public",
        Kind::Text,
        "Schemas in which names are looked for.",
    ),
    told(
        "server_encoding",
        "UTF8",
        Kind::Fixed,
        "Encoding of text in the server.",
    ),
    told(
        "server_version",
        SERVER_VERSION,
        Kind::Fixed,
        "The Postgres release that the server answers like, and its own.",
    ),
    setting("server_version_num", "160004", Kind::Fixed, "The same as a number."),
    told("session_authorization", "", Kind::Text, "Who is logged in."),
    setting("shared_buffers", "128MB", Kind::Fixed, ACCEPTED),
    told(
        "standard_conforming_strings",
        "on",
        Kind::Fixed,
        "Backslashes in '..' are just that.",
    ),
    setting(
        "statement_timeout",
        "0",
        Kind::Duration,
        "Cancels statements that take longer.",
    ),
    setting("synchronize_seqscans", "on", Kind::Boolean, ACCEPTED),
    setting(
        "synchronous_commit",
        "on",
        Kind::Choice(&["on", "off", "local", "remote_write", "remote_apply"]),
        ACCEPTED,
    ),
    setting("tcp_keepalives_idle", "0", Kind::Integer(0, i32::MAX as i64), ACCEPTED),
    setting("temp_buffers", "8MB", Kind::Memory, ACCEPTED),
    told(
        "TimeZone",
        "UTC",
        Kind::TimeZone,
        "Time zone that timestamptz is printed and read in.",
    ),
    setting("transaction_deferrable", "off", Kind::Boolean, ACCEPTED),
    setting(
        "transaction_isolation",
        "read committed",
        ISOLATION,
        "Isolation of the transaction.",
    ),
    setting(
        "transaction_read_only",
        "off",
        Kind::Boolean,
        "Whether the transaction is read-only.",
    ),
    setting("transform_null_equals", "off", Kind::Boolean, ACCEPTED),
    setting(
        "updating_ttl",
        "",
        Kind::Interval,
        "Groups of updating aggregates are forgotten when untouched for so long; empty: never.",
    ),
    setting("vacuum_cost_delay", "0", Kind::Text, ACCEPTED),
    setting("wal_level", "replica", Kind::Fixed, ACCEPTED),
    setting("work_mem", "4MB", Kind::Memory, ACCEPTED),
    setting("xmlbinary", "base64", Kind::Choice(&["base64", "hex"]), ACCEPTED),
    setting("xmloption", "content", Kind::Choice(&["content", "document"]), ACCEPTED),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::settings::values::read;

    #[test]
    fn definitions_are_sorted_and_their_defaults_are_values() {
        let names: Vec<String> = ALL.iter().map(|definition| definition.name.to_lowercase()).collect();
        assert!(names.is_sorted(), "{names:?}");
        for definition in ALL.iter().filter(|definition| definition.kind != Kind::Fixed) {
            assert_eq!(
                read(definition, definition.default).ok().as_deref(),
                Some(definition.default),
                "{}",
                definition.name
            );
        }
    }
}
