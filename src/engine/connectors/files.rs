//! What connectors of local files share: paths as users write them, and operating-system errors as Postgres says them.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::engine::connectors::Result;
use crate::engine::connectors::options::wrong_value;
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};

/// A plain path or a `file://` URL.
pub fn local_path(option: &str, text: &str) -> Result<PathBuf> {
    if !text.contains("://") {
        return Ok(PathBuf::from(text));
    }
    let url =
        url::Url::parse(text).map_err(|error| wrong_value(option, text, &format!("It is not a URL: {error}.")))?;
    if url.scheme() != "file" {
        return Err(wrong_value(
            option,
            text,
            "It is a path of this machine; connector 'filesystem' reads object stores.",
        ));
    }
    url.to_file_path()
        .map_err(|()| wrong_value(option, text, "A file URL has no host, as in file:///tmp/a.json."))
}

/// `could not open file "a": No such file or directory`.
pub fn io_error(action: &str, path: impl std::fmt::Display, error: &std::io::Error) -> Error {
    let (code, retry, hint) = match error.kind() {
        ErrorKind::NotFound => (
            SqlState::UNDEFINED_FILE,
            Retry::Never,
            Some("Paths are those of the server's machine."),
        ),
        ErrorKind::PermissionDenied => (SqlState::INSUFFICIENT_PRIVILEGE, Retry::Never, None),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (SqlState::DISK_FULL, Retry::Backoff, None),
        ErrorKind::IsADirectory | ErrorKind::NotADirectory => (SqlState::WRONG_OBJECT_TYPE, Retry::Never, None),
        _ => (SqlState::IO_ERROR, Retry::Backoff, None),
    };
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or(&text);
    Error::External {
        code,
        message: format!("could not {action} file \"{path}\": {reason}"),
        hint: hint.map(str::to_owned),
        retry,
    }
}

/// A record longer than this is no record: the file is not what the table says it is.
const RECORD_MAX: usize = 256 * 1024 * 1024;

/// Whether to go on looking for the end of a record that begins at `offset` and has `bytes` so far.
pub fn check_record_length(bytes: usize, place: &str, offset: u64) -> Result<()> {
    if bytes <= RECORD_MAX {
        return Ok(());
    }
    Err(Error::Data {
        code: SqlState::PROGRAM_LIMIT_EXCEEDED,
        message: format!("record in file \"{place}\" is longer than {RECORD_MAX} bytes"),
        detail: Some(format!("It begins at byte {offset}.")),
    })
}
