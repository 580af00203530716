//! What the fuzzer in `fuzz/` calls, one function a decoder: bytes in, nothing out, a panic when a promise is broken.
//!
//! The same functions replay the checked-in inputs of `fuzz/corpus/<target>/` as unit tests, and those inputs changed at random
//! some thousand times. They ask for more than that nothing panics:
//!
//! - how input is cut into buffers changes neither rows nor what is reported ([`decoders`]);
//! - a bad record leaves no trace ([`records`]);
//! - what is written is read as it was;
//! - a damaged checkpoint is an error that names the object ([`checkpoints`]).

mod checkpoints;
mod decoders;
mod files;
mod messages;
mod records;
mod statements;

/// Every target by the name of its folder of inputs.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("arrow", files::arrow),
    ("avro", records::avro),
    ("avro_file", records::avro_file),
    ("avro_framed", records::avro_framed),
    ("blob", checkpoints::blob),
    ("checkpoint", checkpoints::checkpoint),
    ("compressed", files::compressed),
    ("csv", decoders::csv),
    ("debezium", decoders::debezium),
    ("json", decoders::json),
    ("kafka", messages::kafka),
    ("manifest", checkpoints::manifest),
    ("parquet", files::parquet),
    ("pgoutput", messages::pgoutput),
    ("pgwire", messages::pgwire),
    ("protobuf", records::protobuf),
    ("protobuf_file", records::protobuf_file),
    ("protobuf_framed", records::protobuf_framed),
    ("protobuf_schema", statements::protobuf_schema),
    ("raw", decoders::raw),
    ("sql", statements::sql),
    ("upsert", decoders::upsert),
];

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, target)| *target)
}

#[cfg(test)]
mod tests;
