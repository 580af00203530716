//! The schema of columns, for sinks that register one: the text of a `.proto` file, and the text that follows an older version.
//!
//! What was derived from columns reads back into columns of the same types, except that TIMESTAMP comes back with a zone. Columns that may be NULL are
//! `optional`; lists and maps that are NULL come back empty. A next version is the text of the one before it with fields added where
//! their messages end, so that nothing that it says is lost.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit};
use prost_reflect::MessageDescriptor;
use protox::file::File;

use crate::engine::error::Error;
use crate::engine::formats::columns::type_word;
use crate::engine::formats::protobuf::known_files::{self, is_known};
use crate::engine::formats::protobuf::types::{self, Shape, Value};
use crate::engine::formats::protobuf::{ProtobufOptions, schema};
use crate::error::{ErrorReport, SqlState};

/// Numbers that Protobuf keeps for itself.
const KEPT_NUMBERS: std::ops::Range<u32> = 19_000..20_000;
const TIMESTAMP: &str = "google/protobuf/timestamp.proto";
const DURATION: &str = "google/protobuf/duration.proto";

/// The text of a file with one message of this full name, whose fields are the columns.
pub fn text_of(columns: &Fields, name: &str) -> Result<String, Error> {
    if let Some(wrong) = name.split('.').find(|part| !is_name(part)) {
        return Err(wrong_name(wrong, "a message"));
    }
    let mut writer = TextWriter::within(name);
    let mut body = String::new();
    let numbered = (1..).zip(columns);
    let names = columns.iter().map(|column| column.name().clone()).collect();
    writer.fields(numbered, names, 1, &mut body)?;
    let (package, short) = match name.rsplit_once('.') {
        Some((package, short)) => (format!("package {package};\n"), short),
        None => (String::new(), name),
    };
    let imports: String = writer
        .imports
        .iter()
        .map(|import| format!("import \"{import}\";\n"))
        .collect();
    Ok(format!(
        "syntax = \"proto3\";\n{package}{imports}\nmessage {short} {{\n{body}}}\n"
    ))
}

/// The message of a text that was derived.
pub fn message_named(text: &str, imports: &[(String, String)], name: &str) -> Result<MessageDescriptor, Error> {
    let file = schema::registered(text, imports).map_err(|reason| {
        Error::Option(
            ErrorReport::new(
                SqlState::INVALID_NAME,
                format!("the columns cannot be the fields of one Protobuf message: {reason}"),
            )
            .with_hint(
                "Rename columns in the query, or give protobuf.schema and protobuf.confluent_schema_registry = true.",
            ),
        )
    })?;
    schema::find(file.parent_pool(), Some(&file), Some(name))
}

/// The text of a schema that the table gives, when a registry can have it by itself.
pub fn registrable(given: &ProtobufOptions) -> Result<String, Error> {
    let file = given.message.parent_file();
    let mut imports = file.dependencies();
    let foreign = imports.find(|import| !is_known(import.name()));
    match (&given.text, foreign) {
        (Some(text), None) => Ok(text.clone()),
        (None, _) => Err(not_registrable("a schema of a descriptor set")),
        (_, Some(import)) => Err(not_registrable(&format!("a schema that imports \"{}\"", import.name()))),
    }
}

fn not_registrable(what: &str) -> Error {
    Error::NotSupported {
        what: format!("registering {what}"),
        hint: Some("Register it by other means, and say schema_registry.register = false.".into()),
    }
}

/// `text`, in which `message` is described, with a field more for every column that the message does not have.
pub fn extended(text: &str, message: &MessageDescriptor, columns: &Fields) -> Result<String, Error> {
    let mut writer = TextWriter::within(message.full_name());
    let mut added = Vec::new();
    added_fields(message, columns, &mut writer, &mut added)?;
    let not_here = |what: &str| {
        Error::NotSupported {
        what: format!("adding columns to {what}"),
        hint: Some("Register a version that has them, or give it as protobuf.schema with protobuf.confluent_schema_registry = true.".into()),
    }
    };
    if schema::compiled(text).is_some() {
        return Err(not_here("a schema that was registered without its text"));
    }
    let file = File::from_source("schema.proto", text).map_err(|error| Error::Internal(format!("{error:?}")))?;
    let name = message.parent_file().name().to_owned();
    let mut places = Vec::new();
    for (of, fields) in added {
        let place = (of.parent_file().name() == name)
            .then(|| end_of(&file, text, of.path()))
            .flatten();
        let place =
            place.ok_or_else(|| not_here(&format!("message \"{}\", which is in another file", of.full_name())))?;
        places.push((place, fields));
    }
    let mut new = text.to_owned();
    // From the end, so that places before it stay what they are.
    places.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    for (place, fields) in places {
        let line = new[..place].rfind('\n').map_or(0, |at| at + 1);
        let before = &new[line..place];
        let indent: String = before.chars().take_while(|c| c.is_whitespace()).collect();
        let lines: String = fields.lines().map(|field| format!("{indent}{field}\n")).collect();
        let inserted = match before.trim().is_empty() {
            // What the brace is indented by is there already.
            true => format!("{}{indent}", &lines[indent.len()..]),
            false => format!("\n{lines}{indent}"),
        };
        new.insert_str(place, &inserted);
    }
    let known = &file.file_descriptor_proto().dependency;
    for import in writer
        .imports
        .iter()
        .filter(|import| !known.iter().any(|one| one == *import))
    {
        new.push_str(&format!("\nimport \"{import}\";\n"));
    }
    Ok(new)
}

/// Where the closing brace of the message at `path` is.
fn end_of(file: &File, text: &str, path: &[i32]) -> Option<usize> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info.location.iter().find(|location| location.path == path)?;
    let (line, column) = match location.span.as_slice() {
        [line, _, column] | [_, _, line, column] => (usize::try_from(*line).ok()?, usize::try_from(*column).ok()?),
        _ => return None,
    };
    let start = match line {
        0 => 0,
        line => text.match_indices('\n').nth(line - 1)?.0 + 1,
    };
    let brace = start + column.checked_sub(1)?;
    (text.as_bytes().get(brace) == Some(&b'}')).then_some(brace)
}

/// The fields that messages need, as text.
fn added_fields(
    message: &MessageDescriptor,
    columns: &Fields,
    writer: &mut TextWriter,
    added: &mut Vec<(MessageDescriptor, String)>,
) -> Result<(), Error> {
    let (known, new): (Vec<_>, Vec<_>) = columns
        .iter()
        .map(|column| (column, types::field_named(message, column.name())))
        .partition(|(_, field)| field.is_some());
    if !new.is_empty() {
        let mut text = String::new();
        let numbers = free_numbers(message).zip(new.into_iter().map(|(column, _)| column));
        writer.fields(numbers, names_in(message, columns), 1, &mut text)?;
        added.push((message.clone(), text));
    }
    for (column, field) in known {
        let (Some(field), of) = (field, column.data_type()) else {
            continue;
        };
        let inner = match (types::shape(&field), of) {
            (Shape::One(Value::Message(inner)), DataType::Struct(members)) => Some((inner, members)),
            (Shape::Repeated(Value::Message(inner)), DataType::List(element)) => match element.data_type() {
                DataType::Struct(members) => Some((inner, members)),
                _ => None,
            },
            _ => None,
        };
        if let Some((inner, members)) = inner
            && !added.iter().any(|(done, _)| done.full_name() == inner.full_name())
        {
            added_fields(&inner, members, writer, added)?;
        }
    }
    Ok(())
}

/// Numbers above all that the message has had.
fn free_numbers(message: &MessageDescriptor) -> impl Iterator<Item = u32> {
    let used = message.fields().map(|field| field.number() + 1);
    let ranges = message.reserved_ranges().chain(message.extension_ranges());
    let first = used.chain(ranges.map(|range| range.end)).max().unwrap_or(1);
    (first..).filter(|number| !KEPT_NUMBERS.contains(number))
}

/// The names that nothing new in the message may have.
fn names_in(message: &MessageDescriptor, columns: &Fields) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = columns.iter().map(|column| column.name().clone()).collect();
    names.extend(message.fields().map(|field| field.name().to_owned()));
    names.extend(message.oneofs().map(|oneof| oneof.name().to_owned()));
    names.extend(message.child_messages().map(|child| child.name().to_owned()));
    for one in message.child_enums() {
        names.insert(one.name().to_owned());
        names.extend(one.values().map(|value| value.name().to_owned()));
    }
    names
}

/// Writes fields, and remembers what they need from other files.
struct TextWriter<'a> {
    /// The full name of the message around.
    within: &'a str,
    imports: BTreeSet<&'static str>,
}

impl TextWriter<'_> {
    fn within(name: &str) -> TextWriter<'_> {
        TextWriter {
            within: name,
            imports: BTreeSet::new(),
        }
    }

    /// How something of another file is called here. Names are looked for from the inside out by their first part: in a package `io.confluent`,
    /// `confluent.type` would be looked for below that.
    fn outer(&mut self, name: &str, file: &'static str) -> String {
        self.imports.insert(file);
        let first = name.split('.').next();
        match self.within.split('.').any(|part| Some(part) == first) {
            true => format!(".{name}"),
            false => name.to_owned(),
        }
    }

    /// `names`: what is there already in the message around the fields.
    fn fields<'a>(
        &mut self,
        numbered: impl Iterator<Item = (u32, &'a std::sync::Arc<Field>)>,
        mut names: BTreeSet<String>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        let indent = "  ".repeat(depth);
        for (number, column) in numbered {
            let name = column.name();
            if !is_name(name) {
                return Err(wrong_name(name, "a field"));
            }
            let declared = match column.data_type() {
                DataType::List(element) => format!("repeated {}", self.value(element, column, &mut names, depth, out)?),
                DataType::Map(entries, _) => {
                    let DataType::Struct(parts) = entries.data_type() else {
                        return Err(no_type(column));
                    };
                    match parts[0].data_type() {
                        DataType::Boolean | DataType::Utf8 => {}
                        of if of.is_integer() => {}
                        _ => return Err(no_type(column)),
                    }
                    let key = self.value(&parts[0], column, &mut names, depth, out)?;
                    names.insert(format!("{}Entry", camel_case(name)));
                    let value = self.value(&parts[1], column, &mut names, depth, out)?;
                    format!("map<{key}, {value}>")
                }
                of => {
                    let value = self.value(column, column, &mut names, depth, out)?;
                    match column.is_nullable() && !is_message(of) {
                        true => format!("optional {value}"),
                        false => value,
                    }
                }
            };
            let note = self.note(column.data_type());
            out.push_str(&format!("{indent}{declared} {name} = {number}{note};\n"));
        }
        Ok(())
    }

    /// What is noted beside a field of decimals, as Kafka Connect does: the digits that its values have.
    fn note(&mut self, of: &DataType) -> String {
        match of {
            DataType::Decimal128(precision, scale) => {
                let note = self.outer("confluent.field_meta", known_files::META);
                format!(
                    " [({note}) = {{ params: [{{ key: \"precision\" value: \"{precision}\" }}, \
                     {{ key: \"scale\" value: \"{scale}\" }}] }}]"
                )
            }
            DataType::List(element) => self.note(element.data_type()),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(parts) => self.note(parts[1].data_type()),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    /// The type of one value of `column`; messages that it needs stand in `out` before it is used.
    fn value(
        &mut self,
        value: &Field,
        column: &Field,
        names: &mut BTreeSet<String>,
        depth: usize,
        out: &mut String,
    ) -> Result<String, Error> {
        let word = match value.data_type() {
            DataType::Boolean => "bool",
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => "int32",
            DataType::Int64 => "int64",
            DataType::UInt32 => "uint32",
            DataType::UInt64 => "uint64",
            DataType::Float32 => "float",
            DataType::Float64 => "double",
            DataType::Utf8 => "string",
            DataType::Binary => "bytes",
            DataType::Date32 => {
                return Ok(self.outer("google.type.Date", known_files::DATE));
            }
            DataType::Time64(_) => {
                return Ok(self.outer("google.type.TimeOfDay", known_files::TIME_OF_DAY));
            }
            DataType::Decimal128(_, scale) if *scale >= 0 => {
                return Ok(self.outer("confluent.type.Decimal", known_files::DECIMAL));
            }
            DataType::Timestamp(..) => {
                return Ok(self.outer("google.protobuf.Timestamp", TIMESTAMP));
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                return Ok(self.outer("google.protobuf.Duration", DURATION));
            }
            DataType::Struct(members) => {
                let mut name = camel_case(column.name());
                while !names.insert(name.clone()) {
                    name.push('_');
                }
                let mut inside = String::new();
                let inner = members.iter().map(|member| member.name().clone()).collect();
                self.fields((1..).zip(members), inner, depth + 1, &mut inside)?;
                let indent = "  ".repeat(depth);
                out.push_str(&format!("{indent}message {name} {{\n{inside}{indent}}}\n"));
                return Ok(name);
            }
            _ => return Err(no_type(column)),
        };
        Ok(word.to_owned())
    }
}

/// Fields of messages have presence of themselves.
fn is_message(of: &DataType) -> bool {
    matches!(
        of,
        DataType::Struct(_)
            | DataType::Timestamp(..)
            | DataType::Interval(_)
            | DataType::Date32
            | DataType::Time64(_)
            | DataType::Decimal128(..)
    )
}

fn camel_case(name: &str) -> String {
    let parts = name.split('_').filter(|part| !part.is_empty());
    let upper = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    match parts.map(upper).collect::<String>() {
        empty if empty.is_empty() => "Inner".to_owned(),
        name if name.starts_with(|c: char| c.is_ascii_digit()) => format!("_{name}"),
        name => name,
    }
}

fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.chars().all(legal) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn wrong_name(name: &str, what: &str) -> Error {
    Error::Option(
        ErrorReport::new(
            SqlState::INVALID_NAME,
            format!("\"{name}\" cannot be the name of {what} in Protobuf"),
        )
        .with_hint("Names of Protobuf have letters of ASCII, digits and '_', and begin with no digit."),
    )
}

fn no_type(column: &Field) -> Error {
    Error::NotSupported {
        what: format!(
            "column \"{}\" of type {} in a Protobuf schema",
            column.name(),
            type_word(column.data_type())
        ),
        hint: Some("Cast it to another type in the query, such as TEXT.".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn what_is_imported_is_found_from_every_package() {
        let columns = Fields::from(vec![
            Field::new("price", DataType::Decimal128(10, 2), true),
            Field::new("day", DataType::Date32, true),
            Field::new(
                "at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
                true,
            ),
        ]);
        for name in [
            "Order",
            "io.confluent.examples.Order",
            "com.google.shop.Order",
            "shop.google",
            "shop.google.confluent",
        ] {
            let text = text_of(&columns, name).unwrap();
            let message = message_named(&text, &[], name).unwrap();
            assert_eq!(types::schema(&message).fields(), &columns, "{text}");
            // And when columns are added to it.
            let before = text_of(&Fields::from(vec![Field::new("id", DataType::Int64, false)]), name).unwrap();
            let text = extended(&before, &message_named(&before, &[], name).unwrap(), &columns).unwrap();
            let message = message_named(&text, &[], name).unwrap();
            assert_eq!(types::schema(&message).fields()[1..], columns[..], "{text}");
        }
    }
}
