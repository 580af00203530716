#!/usr/bin/env python3
"""Writes and reads Avro records of Kafka with Confluent's own client and serializers, for tests.

    confluent_avro.py write BROKER REGISTRY TOPIC SCHEMA    records are JSON lines of standard input
    confluent_avro.py read BROKER REGISTRY TOPIC COUNT      records become JSON lines of standard output

Values that JSON has no types for: {"$bytes": hex}, {"$decimal": text}, {"$timestamp": ISO text}, {"$date": ISO text}.
"""

import datetime
import decimal
import json
import sys
import uuid

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def from_json(found):
    if "$bytes" in found:
        return bytes.fromhex(found["$bytes"])
    if "$decimal" in found:
        return decimal.Decimal(found["$decimal"])
    if "$timestamp" in found:
        return datetime.datetime.fromisoformat(found["$timestamp"])
    if "$date" in found:
        return datetime.date.fromisoformat(found["$date"])
    return found


def to_json(value):
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, decimal.Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"$timestamp": value.isoformat()}
    if isinstance(value, (datetime.date, datetime.time, uuid.UUID)):
        return str(value)
    raise TypeError(type(value))


def write(broker, registry, topic, schema):
    serializer = AvroSerializer(SchemaRegistryClient({"url": registry}), schema)
    producer = Producer({"bootstrap.servers": broker})
    context = SerializationContext(topic, MessageField.VALUE)
    for line in sys.stdin:
        record = json.loads(line, object_hook=from_json)
        producer.produce(topic, serializer(record, context), partition=0)
    assert producer.flush(30) == 0


def read(broker, registry, topic, count):
    deserializer = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": str(uuid.uuid4()), "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )
    consumer.subscribe([topic])
    context = SerializationContext(topic, MessageField.VALUE)
    left = int(count)
    while left:
        message = consumer.poll(30)
        assert message is not None, f"{left} records are missing"
        assert message.error() is None, message.error()
        value = deserializer(message.value(), context)
        print(json.dumps({"key": (message.key() or b"").decode(), "value": value}, default=to_json))
        left -= 1
    consumer.close()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
