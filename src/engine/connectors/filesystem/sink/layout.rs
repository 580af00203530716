//! Which folder below the table's path a row goes to: `2026/01/31/country=NL`, by a time pattern and then by columns.
//!
//! Values are written as text, percent-encoded where a file system or a query engine would read something else; NULL is
//! `__HIVE_DEFAULT_PARTITION__`, which engines know. The columns stay in the files too.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions as DisplayOptions};
use chrono::DateTime;

use crate::engine::connectors::Result;
use crate::engine::connectors::options::wrong_value;
use crate::engine::error::Error;
use crate::engine::message::Chunk;
use crate::error::{Retry, SqlState};

const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// As the options say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitioning {
    pub columns: Vec<String>,
    pub time_pattern: Option<String>,
    /// Event time when there is none.
    pub time_column: Option<String>,
}

impl Partitioning {
    pub fn is_none(&self) -> bool {
        self.columns.is_empty() && self.time_pattern.is_none()
    }

    /// Columns that are not there are mistakes of whoever declared the table.
    pub fn layout(&self, schema: &SchemaRef) -> Result<Layout> {
        let columns = self
            .columns
            .iter()
            .map(|name| Ok((name.clone(), column("partition_by", name, schema)?)));
        let time_column = self.time_column.as_ref().map(|name| {
            let at = column("partition_time_field", name, schema)?;
            match schema.field(at).data_type() {
                DataType::Timestamp(..) | DataType::Date32 => Ok(at),
                _ => Err(wrong_value(
                    "partition_time_field",
                    name,
                    "It is a column of type TIMESTAMP, TIMESTAMPTZ or DATE.",
                )),
            }
        });
        Ok(Layout {
            columns: columns.collect::<Result<_>>()?,
            time_pattern: self.time_pattern.clone(),
            time_column: time_column.transpose()?,
        })
    }
}

fn column(option: &str, name: &str, schema: &SchemaRef) -> Result<usize> {
    let known = || {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        format!("The columns are: {}.", names.join(", "))
    };
    let found = schema.fields().iter().position(|field| field.name() == name);
    found.ok_or_else(|| wrong_value(option, name, &known()))
}

/// Checked when options are read: a pattern that chrono does not know would fail at the first row.
pub fn check_pattern(pattern: &str) -> Result<()> {
    let wrong = |hint: &str| Err(wrong_value("partition_time_pattern", pattern, hint));
    if chrono::format::StrftimeItems::new(pattern).any(|item| matches!(item, chrono::format::Item::Error)) {
        return wrong("It is made of %Y, %m, %d, %H, %M and the like.");
    }
    let parts = || pattern.split('/');
    if parts().any(|part| part.is_empty() || part.starts_with('.')) {
        return wrong("Its folders are named and not hidden, as in %Y/%m/%d.");
    }
    Ok(())
}

pub struct Layout {
    columns: Vec<(String, usize)>,
    time_pattern: Option<String>,
    time_column: Option<usize>,
}

impl Layout {
    /// The rows of each folder, in their order.
    pub fn split(&self, chunk: Chunk) -> Result<Vec<(String, Chunk)>> {
        if self.columns.is_empty() && self.time_pattern.is_none() {
            return Ok(vec![(String::new(), chunk)]);
        }
        let mut rows: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut folder = String::new();
        let names = Names::of(self, &chunk)?;
        for row in 0..chunk.len() {
            folder.clear();
            names.write(self, row, &mut folder)?;
            match rows.get_mut(&folder) {
                Some(rows) => rows.push(row as u32),
                None => {
                    rows.insert(folder.clone(), vec![row as u32]);
                }
            }
        }
        if rows.len() == 1 {
            return Ok(rows.into_keys().map(|folder| (folder, chunk.clone())).collect());
        }
        let part = |(folder, rows): (String, Vec<u32>)| {
            let part: RecordBatch = take_record_batch(&chunk.rows, &UInt32Array::from(rows))?;
            Ok((folder, Chunk::insert(part)))
        };
        rows.into_iter().map(part).collect()
    }
}

/// The values of one chunk that its folders are named after.
struct Names<'a> {
    values: Vec<(&'a str, ArrayFormatter<'a>, &'a ArrayRef)>,
    /// Microseconds.
    times: Option<ArrayRef>,
    event_time: Option<&'a [i64]>,
}

impl<'a> Names<'a> {
    fn of(layout: &'a Layout, chunk: &'a Chunk) -> Result<Names<'a>> {
        static DISPLAY: DisplayOptions<'static> = DisplayOptions::new();
        let value = |(name, at): &'a (String, usize)| {
            let column = chunk.rows.column(*at);
            Ok((
                name.as_str(),
                ArrayFormatter::try_new(column.as_ref(), &DISPLAY)?,
                column,
            ))
        };
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times = layout
            .time_column
            .map(|at| cast(chunk.rows.column(at), &micros))
            .transpose()?;
        Ok(Names {
            values: layout.columns.iter().map(value).collect::<Result<_>>()?,
            times,
            event_time: chunk.event_time.as_deref(),
        })
    }

    fn write(&self, layout: &Layout, row: usize, folder: &mut String) -> Result<()> {
        if let Some(pattern) = &layout.time_pattern {
            write_time(self.time(row)?, pattern, folder);
        }
        for (name, formatter, column) in &self.values {
            if !folder.is_empty() {
                folder.push('/');
            }
            escape(name, folder);
            folder.push('=');
            match column.is_null(row) {
                true => folder.push_str(NULL),
                false => escape(&formatter.value(row).to_string(), folder),
            }
        }
        Ok(())
    }

    fn time(&self, row: usize) -> Result<Option<i64>> {
        if let Some(times) = &self.times {
            return Ok(times
                .is_valid(row)
                .then(|| times.as_primitive::<TimestampMicrosecondType>().value(row)));
        }
        match self.event_time {
            Some(times) => Ok(times.get(row).copied()),
            None => Err(Error::External {
                code: SqlState::INVALID_PARAMETER_VALUE,
                message: "rows without event time cannot be partitioned by time".into(),
                hint: Some("Name a column of the table: partition_time_field = 'column'.".into()),
                retry: Retry::Never,
            }),
        }
    }
}

fn write_time(micros: Option<i64>, pattern: &str, folder: &mut String) {
    match micros.and_then(DateTime::from_timestamp_micros) {
        // The pattern was checked: it can be written.
        Some(time) => drop(write!(folder, "{}", time.format(pattern))),
        None => folder.push_str(NULL),
    }
}

/// Letters, digits and what is harmless in paths stay; all else is percent-encoded.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        let harmless =
            character.is_alphanumeric() || matches!(character, '-' | '_' | '.' | ' ' | ',' | '+' | '@' | '(' | ')');
        if harmless {
            out.push(character);
            continue;
        }
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::engine::connectors::testing::texts;

    fn chunk() -> Chunk {
        let countries = StringArray::from(vec![Some("NL"), None, Some("a/b=ü%"), Some("NL")]);
        let hour = 3_600_000_000;
        let times = TimestampMicrosecondArray::from(vec![Some(0), Some(hour), Some(25 * hour), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..4))),
            ("country", Arc::new(countries)),
            ("at", Arc::new(times)),
        ];
        Chunk::insert(RecordBatch::try_from_iter(columns).unwrap())
    }

    fn folders(partitioning: &Partitioning) -> Vec<(String, usize)> {
        let chunk = chunk();
        let layout = partitioning.layout(&chunk.rows.schema()).unwrap();
        let parts = layout.split(chunk).unwrap();
        parts.into_iter().map(|(folder, rows)| (folder, rows.len())).collect()
    }

    #[test]
    fn by_columns_and_time() {
        let columns = Partitioning {
            columns: vec!["country".into()],
            ..Partitioning::default()
        };
        let expected = [
            ("country=NL", 2),
            ("country=__HIVE_DEFAULT_PARTITION__", 1),
            ("country=a%2Fb%3Dü%25", 1),
        ];
        assert_eq!(
            folders(&columns),
            expected.map(|(folder, rows)| (folder.to_owned(), rows))
        );
        let both = Partitioning {
            columns: vec!["n".into()],
            time_pattern: Some("%Y/%m/%d/h%H".into()),
            time_column: Some("at".into()),
        };
        let expected = [
            ("1970/01/01/h00/n=0", 1),
            ("1970/01/01/h01/n=1", 1),
            ("1970/01/02/h01/n=2", 1),
            ("__HIVE_DEFAULT_PARTITION__/n=3", 1),
        ];
        assert_eq!(folders(&both), expected.map(|(folder, rows)| (folder.to_owned(), rows)));
    }

    #[test]
    fn rows_of_a_folder_keep_their_order() {
        let chunk = chunk();
        let partitioning = Partitioning {
            columns: vec!["country".into()],
            ..Partitioning::default()
        };
        let parts = partitioning.layout(&chunk.rows.schema()).unwrap().split(chunk).unwrap();
        let rows = texts(parts[0].1.rows.clone());
        assert!(
            rows[0].starts_with("{\"n\":0,") && rows[1].starts_with("{\"n\":3,"),
            "{rows:?}"
        );
    }

    #[test]
    fn mistakes_are_told() {
        let chunk = chunk();
        let wrong = Partitioning {
            columns: vec!["contry".into()],
            ..Partitioning::default()
        };
        assert!(wrong.layout(&chunk.rows.schema()).is_err());
        let no_time = Partitioning {
            time_pattern: Some("%Y".into()),
            ..Partitioning::default()
        };
        assert!(no_time.layout(&chunk.rows.schema()).unwrap().split(chunk).is_err());
        for pattern in ["%Y//%m", "/%Y", "%Y/../%m", "%Q"] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
        check_pattern("year=%Y/month=%m").unwrap();
    }
}
