#!/usr/bin/env python3
"""Writes and reads Protobuf records of Kafka with Confluent's own client and serializers, for tests.

    confluent_protobuf.py write BROKER REGISTRY TOPIC FILES    records are JSON lines of standard input
    confluent_protobuf.py read BROKER REGISTRY TOPIC COUNT     records become JSON lines of standard output

FILES is JSON: {"message": full name, "main": file name, "files": {file name: text}}. What is read is of the first message of the latest
version of TOPIC-value. JSON of messages is Protobuf's own, with all fields, named as in the schema.
"""

import json
import os
import sys
import tempfile
import uuid

import grpc_tools.protoc as protoc
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from protobuf_files import well_known


def compiled(files, main):
    """The descriptors of a file and what it imports."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        target = os.path.join(folder, "set")
        options = [f"-I{folder}", *well_known(folder), "--include_imports", f"--descriptor_set_out={target}", main]
        assert protoc.main(["protoc", *options]) == 0
        with open(target, "rb") as file:
            found = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    return pool


def write(broker, registry, topic, given):
    given = json.loads(given)
    pool = compiled(given["files"], given["main"])
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(given["message"]))
    serializer = ProtobufSerializer(message, SchemaRegistryClient({"url": registry}))
    producer = Producer({"bootstrap.servers": broker})
    context = SerializationContext(topic, MessageField.VALUE)
    for line in sys.stdin:
        producer.produce(topic, serializer(json_format.Parse(line, message()), context), partition=0)
    assert producer.flush(30) == 0


def read(broker, registry, topic, count):
    client = SchemaRegistryClient({"url": registry})
    latest = client.get_latest_version(f"{topic}-value")
    pool = compiled({"main.proto": latest.schema.schema_str}, "main.proto")
    file = pool.FindFileByName("main.proto")
    message = message_factory.GetMessageClass(next(iter(file.message_types_by_name.values())))
    deserializer = ProtobufDeserializer(message, {"use.deprecated.format": False}, client)
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": str(uuid.uuid4()), "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )
    consumer.subscribe([topic])
    context = SerializationContext(topic, MessageField.VALUE)
    for left in range(int(count), 0, -1):
        record = consumer.poll(30)
        assert record is not None, f"{left} records are missing"
        assert record.error() is None, record.error()
        value = deserializer(record.value(), context)
        shown = json_format.MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        print(json.dumps(shown))
    consumer.close()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
