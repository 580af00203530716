//! Messages to Protobuf's own library for Python and back. Its parser and its writer are not ours nor prost's.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use prost::Message;
use prost_reflect::Kind;

use crate::engine::connectors::testing::KeptBadRows;
use crate::engine::formats::protobuf::decode::{Framing, ProtobufDecoder};
use crate::engine::formats::protobuf::encode::ProtobufEncoder;
use crate::engine::formats::protobuf::oracle_tests::{batch_cells, decoded, random_messages};
use crate::engine::formats::protobuf::{known_files, schema, tests, types};
use crate::engine::formats::{Decoder, Encoder, Input};
use crate::engine::message::Chunk;

/// Reads messages, shows the text of the first, writes all of them again.
const PROGRAM: &str = r#"
import io, sys
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, proto
descriptors, name, given, written = sys.argv[1:]
pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(open(descriptors, 'rb').read()).file:
    pool.Add(file)
message = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
source, target, count = io.BytesIO(open(given, 'rb').read()), open(written, 'wb'), 0
while (found := proto.parse_length_prefixed(message, source)) is not None:
    proto.serialize_length_prefixed(found, target)
    count += 1
print(count)
"#;

fn python_has_protobuf() -> bool {
    python_has("import google.protobuf.proto")
}

fn python_has(modules: &str) -> bool {
    let asked = Command::new("python3").args(["-c", modules]).output();
    if asked.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = ["CI", "LAMINAR_TEST_REQUIRE_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let reason = format!("no python3 was found that can: {modules}");
    assert!(!required, "this run requires all tests, but {reason}");
    eprintln!("skipped: {reason}");
    false
}

#[test]
fn python_reads_what_we_write_and_we_what_it_writes() {
    if !python_has_protobuf() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["t.Everything", "t2.Old"] {
        let message = tests::message(name);
        std::fs::write(path("descriptors"), message.parent_pool().encode_to_vec()).unwrap();
        let records: Vec<Vec<u8>> = (0..20)
            .flat_map(|seed| random_messages(seed, &message))
            .map(|message| message.encode_to_vec())
            .collect();
        let schema = types::schema(&message);
        let rows = decoded(&message, &schema, &records);
        let mut bytes = Vec::new();
        ProtobufEncoder::new(&message, &schema, Framing::Delimited)
            .unwrap()
            .encode(&Chunk::insert(rows.clone()), &mut bytes)
            .unwrap();
        std::fs::write(path("given"), bytes).unwrap();

        let output = Command::new("python3")
            .args(["-c", PROGRAM])
            .args([
                path("descriptors").as_os_str(),
                name.as_ref(),
                path("given").as_os_str(),
            ])
            .arg(path("written"))
            .output()
            .unwrap();
        let (shown, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!((shown.trim(), errors.as_ref()), ("100", ""));

        let written = std::fs::read(path("written")).unwrap();
        let mut decoder = ProtobufDecoder::new(&message, &schema, Framing::Delimited).unwrap();
        let bad = KeptBadRows::default();
        let input = Input {
            bytes: &written,
            offset: 0,
            place: "written",
            at_end: true,
        };
        assert_eq!(decoder.decode(input, usize::MAX, &bad).unwrap(), written.len());
        assert_eq!(bad.reasons(), Vec::<String>::new());
        let again = decoder.take().unwrap();
        assert_eq!(again.num_rows(), rows.num_rows());
        // Entries of maps come in another order.
        assert_eq!(batch_cells(&again), batch_cells(&rows));
    }
}

/// The fields of messages and the values of enums in files, a line each.
const KNOWN: &str = r#"
import importlib, sys
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
TYPES = {number: name for name, number in FieldDescriptorProto.Type.items()}
for name in sys.argv[1:]:
    module = name.removesuffix('.proto').replace('/', '.') + '_pb2'
    if module.startswith('confluent.'):
        module = 'confluent_kafka.schema_registry.' + module
    file = importlib.import_module(module).DESCRIPTOR
    messages, enums = list(file.message_types_by_name.values()), list(file.enum_types_by_name.values())
    while messages:
        message = messages.pop()
        messages += message.nested_types
        for field in message.fields:
            of = (field.message_type or field.enum_type).full_name if field.type in (11, 14) else TYPES[field.type]
            oneof = field.containing_oneof.name if field.containing_oneof else '-'
            print(name, field.full_name, field.number, of, 'list' if field.is_repeated else 'one', oneof)
    for enum in enums:
        for value in enum.values:
            print(name, enum.full_name, value.name, value.number)
    for extension in file.extensions_by_name.values():
        print(name, extension.full_name, extension.number, extension.message_type.full_name, extension.containing_type.full_name)
"#;

#[test]
fn known_files_describe_what_their_owners_say() {
    if !python_has("import google.type.date_pb2, confluent_kafka.schema_registry.confluent.type.variant_pb2") {
        return;
    }
    let names = known_files::names();
    let output = Command::new("python3")
        .args(["-c", KNOWN])
        .args(&names)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "");
    let shown = String::from_utf8_lossy(&output.stdout);
    let mut theirs: Vec<&str> = shown.lines().collect();
    let ours = names.iter().flat_map(|name| described(name)).collect::<Vec<String>>();
    let mut ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    theirs.sort_unstable();
    ours.sort_unstable();
    assert!(theirs.len() > 90, "{}", theirs.len());
    assert_eq!(ours, theirs);
}

fn described(name: &str) -> Vec<String> {
    let text = format!("syntax = \"proto3\"; import \"{name}\";");
    let file = schema::registered(&text, &[]).unwrap().dependencies().next().unwrap();
    let mut lines = Vec::new();
    let mut messages: Vec<_> = file.messages().collect();
    while let Some(message) = messages.pop() {
        messages.extend(message.child_messages());
        for field in message.fields() {
            let of = match field.kind() {
                Kind::Message(of) => of.full_name().to_owned(),
                Kind::Enum(of) => of.full_name().to_owned(),
                _ => field.field_descriptor_proto().r#type().as_str_name().to_owned(),
            };
            let cardinality = if field.is_list() || field.is_map() {
                "list"
            } else {
                "one"
            };
            let oneof = field.containing_oneof();
            let oneof = oneof.as_ref().map_or("-", |oneof| oneof.name());
            lines.push(format!(
                "{name} {} {} {of} {cardinality} {oneof}",
                field.full_name(),
                field.number()
            ));
        }
    }
    for one in file.enums() {
        for value in one.values() {
            lines.push(format!(
                "{name} {} {} {}",
                one.full_name(),
                value.name(),
                value.number()
            ));
        }
    }
    for extension in file.extensions() {
        let Kind::Message(of) = extension.kind() else { continue };
        let target = extension.containing_message();
        let line = format!(
            "{name} {} {} {} {}",
            extension.full_name(),
            extension.number(),
            of.full_name(),
            target.full_name()
        );
        lines.push(line);
    }
    lines
}
