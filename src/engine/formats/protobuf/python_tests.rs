//! Messages to Protobuf's own library for Python and back. Its parser and its writer are not ours nor prost's.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use prost::Message;

use crate::engine::connectors::testing::KeptBadRows;
use crate::engine::formats::protobuf::decode::{Framing, ProtobufDecoder};
use crate::engine::formats::protobuf::encode::ProtobufEncoder;
use crate::engine::formats::protobuf::oracle_tests::{batch_cells, decoded, random_messages};
use crate::engine::formats::protobuf::{tests, types};
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
    let asked = Command::new("python3")
        .args(["-c", "import google.protobuf.proto"])
        .output();
    if asked.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = ["CI", "LAMINAR_TEST_REQUIRE_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let reason = "no python3 with the package protobuf was found";
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
