//! What a client is told beside the answer: NOTICEs and WARNINGs.

use crate::error::{ErrorReport, SqlState};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Debug,
    Log,
    Info,
    Notice,
    Warning,
}

impl Severity {
    /// As the protocol spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Log => "LOG",
            Severity::Info => "INFO",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
        }
    }

    /// The least severity that `client_min_messages` lets through; `None`: nothing but errors.
    pub fn least_shown(setting: &str) -> Option<Severity> {
        match setting {
            "debug5" | "debug4" | "debug3" | "debug2" | "debug1" | "debug" => Some(Severity::Debug),
            "log" => Some(Severity::Log),
            "info" => Some(Severity::Info),
            "notice" => Some(Severity::Notice),
            "warning" => Some(Severity::Warning),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub severity: Severity,
    pub report: ErrorReport,
}

impl Notice {
    pub fn of(message: impl Into<String>) -> Notice {
        Notice::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message)
    }

    pub fn warning(code: SqlState, message: impl Into<String>) -> Notice {
        Notice::new(Severity::Warning, code, message)
    }

    pub fn new(severity: Severity, code: SqlState, message: impl Into<String>) -> Notice {
        Notice {
            severity,
            report: ErrorReport::new(code, message),
        }
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Notice {
        self.report = self.report.with_detail(detail);
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Notice {
        self.report = self.report.with_hint(hint);
        self
    }
}
