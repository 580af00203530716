//! The options of a file sink.

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::connectors::filesystem::sink::layout::{Partitioning, check_pattern};
use crate::engine::connectors::filesystem::sink::parquet_content;
use crate::engine::connectors::filesystem::sink::rolling::Rolling;
use crate::engine::connectors::options::{
    OptionReader, choice_option, duration_option, integer_option, text_option, wrong_value,
};
use crate::engine::connectors::{Direction, OptionDescription, Result};
use crate::engine::error::Error;
use crate::engine::formats::{Format, FormatOptions};
use crate::types::byte_size::parse_byte_size;

const PART_DEFAULT: u64 = 8 << 20;
const PART_MIN: u64 = 5 << 20;
const PART_MAX: u64 = 1 << 30;

#[derive(Clone, Debug)]
pub struct SinkOptions {
    pub rolling: Rolling,
    pub partitioning: Partitioning,
    pub compression: Compression,
    pub parquet_compression: parquet::basic::Compression,
    pub prefix: String,
    /// Of a part of an upload; stores want at least 5 MiB, and some all parts of one size.
    pub part_bytes: usize,
    /// Instead of the format's own.
    ending: Option<String>,
}

impl SinkOptions {
    pub fn read(reader: &OptionReader<'_>, format: &FormatOptions) -> Result<SinkOptions> {
        let size = reader
            .text("rollover_size")
            .map(|text| parse_size("rollover_size", text))
            .transpose()?;
        let seconds = reader
            .integer("rollover_seconds", 1)?
            .map(|seconds| std::time::Duration::from_secs(seconds.unsigned_abs()));
        let part = match reader.text("upload_part_size") {
            Some(text) => parse_size("upload_part_size", text)?,
            None => PART_DEFAULT,
        };
        if !(PART_MIN..=PART_MAX).contains(&part) {
            return Err(wrong_value(
                "upload_part_size",
                &part.to_string(),
                "It is between 5 MB and 1 GB.",
            ));
        }
        let options = SinkOptions {
            part_bytes: part as usize,
            rolling: Rolling {
                bytes: size,
                rows: reader.integer("rollover_rows", 1)?.map(i64::unsigned_abs),
                interval: reader.duration("rollover_interval")?.or(seconds),
                inactivity: reader.duration("rollover_inactivity")?,
            },
            partitioning: Partitioning {
                columns: reader.text("partition_by").map(names).unwrap_or_default(),
                time_pattern: reader.text("partition_time_pattern").map(str::to_owned),
                time_column: reader
                    .text("partition_time_field")
                    .or(reader.text("event_time_field"))
                    .map(str::to_owned),
            },
            compression: Compression::by_option(reader.choice("compression")?).unwrap_or_default(),
            parquet_compression: parquet_content::compression(reader.choice("parquet.compression")?),
            prefix: reader.text("file_prefix").unwrap_or_default().to_owned(),
            ending: reader.text("file_suffix").map(str::to_owned),
        };
        options.check(format)?;
        Ok(options)
    }

    fn check(&self, format: &FormatOptions) -> Result<()> {
        if let Some(pattern) = &self.partitioning.time_pattern {
            check_pattern(pattern)?;
        }
        for (name, text) in [
            ("file_prefix", Some(&self.prefix)),
            ("file_suffix", self.ending.as_ref()),
        ] {
            if let Some(text) = text
                && (text.contains(['/', '\\']) || (name == "file_prefix" && text.starts_with(['.', '_'])))
            {
                return Err(wrong_value(
                    name,
                    text,
                    "It is a part of the names of visible files of one folder.",
                ));
            }
        }
        if format.format == Format::Parquet && self.compression != Compression::None {
            return Err(Error::NotSupported {
                what: "option \"compression\" with format \"parquet\"".into(),
                hint: Some("Parquet files are compressed inside: parquet.compression.".into()),
            });
        }
        if !format.append_only() && !self.partitioning.is_none() {
            return Err(Error::NotSupported {
                what: "partitioning of changes".into(),
                hint: Some(
                    "A row that changes would be in two folders. Leave partition_by and partition_time_pattern out."
                        .into(),
                ),
            });
        }
        Ok(())
    }

    /// Whether rows of these columns can be written so; asked where the table says what its columns are.
    pub fn check_columns(&self, format: &FormatOptions, declared: Option<&SchemaRef>) -> Result<()> {
        let Some(declared) = declared else { return Ok(()) };
        self.partitioning.layout(declared)?;
        match format.format {
            Format::Parquet => parquet_content::check_schema(declared),
            Format::Avro => format.avro.sink_schema(declared.fields()).map(drop),
            _ => Ok(()),
        }
    }

    /// What names end with.
    pub fn suffix(&self, format: &FormatOptions) -> String {
        if let Some(ending) = &self.ending {
            return ending.clone();
        }
        let of_format = match format.format {
            Format::Json | Format::DebeziumJson => ".json",
            Format::Avro | Format::DebeziumAvro => ".avro",
            Format::Csv => ".csv",
            Format::Parquet => ".parquet",
            Format::Arrow => ".arrows",
            Format::RawString => ".txt",
            Format::RawBytes => ".bin",
            Format::Protobuf => ".pb",
        };
        format!("{of_format}{}", self.compression.suffix())
    }
}

/// `a, b` or `[a, b]`.
fn names(text: &str) -> Vec<String> {
    let inside = text.trim().trim_start_matches('[').trim_end_matches(']');
    let names = inside
        .split(',')
        .map(|name| name.trim().trim_matches(['"', '\'']).to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn parse_size(option: &str, text: &str) -> Result<u64> {
    let hint = "It is a number of bytes above 0, or one with a unit, such as '128 MB'.";
    parse_byte_size(text).ok_or_else(|| wrong_value(option, text, hint))
}

fn of_sinks(option: OptionDescription) -> OptionDescription {
    OptionDescription {
        direction: Direction::Sink,
        ..option
    }
}

pub fn descriptions() -> Vec<OptionDescription> {
    let mut options = rolling_descriptions();
    options.extend([
        text_option(
            "partition_by",
            &["partitioning.fields", "partition_fields"],
            None,
            "Columns after whose values folders are named: country=NL.",
        ),
        text_option(
            "partition_time_pattern",
            &["partitioning.time_pattern", "time_partition_pattern"],
            None,
            "Folders by time, outside of those by columns: %Y/%m/%d/%H, in UTC.",
        ),
        text_option(
            "partition_time_field",
            &[],
            None,
            "The column that is the time; event time by default.",
        ),
        choice_option(
            "parquet.compression",
            &["parquet_compression"],
            &["snappy", "zstd", "gzip", "lz4", "none"],
            "How columns of Parquet files are compressed; snappy by default.",
        ),
        text_option(
            "upload_part_size",
            &["multipart.target_part_size"],
            None,
            "Object stores: bytes of a part of an upload, 8 MB by default.",
        ),
        text_option(
            "file_prefix",
            &["filename.prefix"],
            Some("part-"),
            "What names of files begin with.",
        ),
        text_option(
            "file_suffix",
            &["filename.suffix"],
            None,
            "What names of files end with; by default the format's, such as .json.gz.",
        ),
    ]);
    options.into_iter().map(of_sinks).collect()
}

fn rolling_descriptions() -> Vec<OptionDescription> {
    vec![
        text_option(
            "rollover_size",
            &["rolling_policy.file_size", "target_file_size"],
            None,
            "A file ends when it has about so many bytes: 128 MB.",
        ),
        integer_option(
            "rollover_rows",
            &["target_file_rows"],
            None,
            "A file ends when it has so many rows.",
        ),
        duration_option(
            "rollover_interval",
            &["rolling_policy.interval"],
            None,
            "A file ends at the first checkpoint so long after its first row.",
        ),
        integer_option("rollover_seconds", &[], None, "The same in seconds."),
        duration_option(
            "rollover_inactivity",
            &["rolling_policy.inactivity_interval"],
            None,
            "A file ends at the first checkpoint so long after its last row.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_and_names() {
        for (text, bytes) in [("1", 1), ("5 kb", 5120), ("128MB", 128 << 20), ("1_0 GiB", 10 << 30)] {
            assert_eq!(parse_size("s", text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "MB", "5 parsecs", "99999999999999 GB", "-1"] {
            assert!(parse_size("s", text).is_err(), "{text}");
        }
        assert_eq!(names("a, b"), ["a", "b"]);
        assert_eq!(names("['a', \"b\"]"), ["a", "b"]);
    }
}
