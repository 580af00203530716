//! Logs: lines on standard error, as text for people or as JSON for machines.
//!
//! The filter is a level (`info`) or a list such as `info,laminar::engine=debug`. Fields carry the values; the message is a
//! fragment in lower case. Guarantee: a wrong filter is an error at the start, not silence.

use std::io::Write;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;
use crate::error::{ErrorReport, SqlState};

/// Starts logging to standard error. To be called once, before anything else.
pub fn start(filter: &str, style: LogFormat) -> Result<(), ErrorReport> {
    let subscriber = subscriber(filter, style, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| ErrorReport::new(SqlState::INTERNAL_ERROR, format!("could not start logging: {error}")))
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber<W>(filter: &str, style: LogFormat, writer: W) -> Result<Subscriber, ErrorReport>
where
    W: for<'a> MakeWriter<'a, Writer: Write> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        ErrorReport::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for the setting \"log\": \"{filter}\": {error}"),
        )
        .with_hint("Use error, warn, info, debug or trace, or a list such as \"info,laminar::engine=debug\".")
    })?;
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match style {
        LogFormat::Text => Box::new(base.with_ansi(false).finish()),
        LogFormat::Json => Box::new(base.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, style: LogFormat) -> String {
        let collected = Collected::default();
        let writer = collected.clone();
        let subscriber = subscriber(filter, style, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(epoch = 7, "completed checkpoint");
            tracing::debug!("details");
        });
        let bytes = collected.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_and_json_have_message_and_fields() {
        let text = logged("info", LogFormat::Text);
        assert!(text.contains("completed checkpoint epoch=7"), "{text}");
        assert!(!text.contains("details"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&logged("info", LogFormat::Json)).unwrap();
        assert_eq!(
            (json["message"].as_str(), json["epoch"].as_i64()),
            (Some("completed checkpoint"), Some(7))
        );
    }

    #[test]
    fn a_wrong_filter_is_an_error() {
        let error = subscriber("laminar=loud", LogFormat::Text, std::io::stderr)
            .err()
            .unwrap();
        assert_eq!(error.code, SqlState::INVALID_PARAMETER_VALUE);
    }
}
