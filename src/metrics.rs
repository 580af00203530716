//! Metrics: one recorder for the process, rendered for Prometheus at `/metrics`.
//!
//! Names are `laminar_<component>_<thing>_<unit>`: counters end in `_total`, durations in `_seconds`, sizes in `_bytes`.
//! Whoever counts something uses the `metrics` crate's macros at the place where it happens; a metric of general interest is
//! described in [`DESCRIPTIONS`], so that `/metrics` explains it.
//!
//! Guarantee: a label has few values: no names that users choose except those of pipelines and operators.

use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::error::{ErrorReport, SqlState};

/// The recorder of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// The macros of the `metrics` crate find one recorder a process.
static INSTALLED: OnceLock<Metrics> = OnceLock::new();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Metrics that are explained in the output.
const DESCRIPTIONS: &[(Kind, &str, Unit, &str)] = &[
    (
        Kind::Gauge,
        "laminar_build_info",
        Unit::Count,
        "1; the version is a label",
    ),
    (
        Kind::Gauge,
        "laminar_pgwire_connections",
        Unit::Count,
        "clients of the Postgres protocol",
    ),
    (
        Kind::Counter,
        "laminar_pgwire_statements_total",
        Unit::Count,
        "statements run, by protocol",
    ),
    (
        Kind::Counter,
        "laminar_pgwire_errors_total",
        Unit::Count,
        "errors sent to clients, by SQLSTATE",
    ),
    (
        Kind::Counter,
        "laminar_pgwire_logins_failed_total",
        Unit::Count,
        "refused logins, by SQLSTATE",
    ),
    (
        Kind::Counter,
        "laminar_rest_requests_total",
        Unit::Count,
        "REST requests, by method, route and status",
    ),
    (
        Kind::Histogram,
        "laminar_rest_request_seconds",
        Unit::Seconds,
        "time to answer a REST request, by route",
    ),
    (
        Kind::Counter,
        "laminar_lookup_hits_total",
        Unit::Count,
        "keys of chunks whose lookup was answered, or under way, already",
    ),
    (
        Kind::Counter,
        "laminar_lookup_misses_total",
        Unit::Count,
        "keys of chunks that a system outside was asked for",
    ),
    (
        Kind::Histogram,
        "laminar_lookup_seconds",
        Unit::Seconds,
        "time until a lookup was answered, repetitions included",
    ),
    (
        Kind::Gauge,
        "laminar_pipeline_degraded",
        Unit::Count,
        "1 while a pipeline commits nothing for five checkpoint intervals, by pipeline",
    ),
    (
        Kind::Counter,
        "laminar_panics_total",
        Unit::Count,
        "bugs that were contained, by component",
    ),
];

/// Bounds of histograms of seconds.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Installs the recorder; further calls give the same one.
pub fn install() -> Result<Metrics, ErrorReport> {
    if let Some(installed) = INSTALLED.get() {
        return Ok(installed.clone());
    }
    let failed = |error: String| {
        ErrorReport::new(
            SqlState::INTERNAL_ERROR,
            format!("could not install the metrics recorder: {error}"),
        )
    };
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .map_err(|error| failed(error.to_string()))?
        .build_recorder();
    let metrics = Metrics {
        handle: recorder.handle(),
    };
    if metrics::set_global_recorder(recorder).is_err() {
        // Another thread was faster, or a test has its own recorder.
        return INSTALLED
            .get()
            .cloned()
            .ok_or_else(|| failed("there is one already".into()));
    }
    describe();
    metrics::gauge!("laminar_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(INSTALLED.get_or_init(|| metrics).clone())
}

fn describe() {
    for (kind, name, unit, text) in DESCRIPTIONS {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *text),
            Kind::Gauge => describe_gauge!(*name, *unit, *text),
            Kind::Histogram => describe_histogram!(*name, *unit, *text),
        }
    }
}

impl Metrics {
    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for (kind, name, _, text) in DESCRIPTIONS {
            assert!(name.starts_with("laminar_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!text.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = install().unwrap();
        metrics::counter!("laminar_test_things_total", "kind" => "a").increment(2);
        metrics::histogram!("laminar_test_wait_seconds").record(0.002);
        let again = install().unwrap().render();
        assert!(again.contains("laminar_test_things_total{kind=\"a\"} 2"), "{again}");
        assert!(
            again.contains("laminar_test_wait_seconds_bucket{le=\"0.0025\"} 1"),
            "{again}"
        );
        assert!(again.contains("# HELP laminar_build_info"), "{again}");
        assert!(metrics.render().contains("laminar_build_info{version="));
    }
}
