"""Files that Protobuf schemas import without bringing them along, for tests: those of Google's packages, and of Confluent's client."""

import os

import google.type.date_pb2 as date_pb2
import grpc_tools.protoc as protoc
from confluent_kafka.schema_registry.confluent import meta_pb2
from confluent_kafka.schema_registry.confluent.type import decimal_pb2, variant_pb2
from google.protobuf import descriptor_pb2


def well_known(folder):
    """Options of protoc with which they are found; `folder` is for files of its own."""
    of_confluent = os.path.join(folder, "confluent.set")
    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, meta_pb2, decimal_pb2, variant_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    with open(of_confluent, "wb") as file:
        file.write(files.SerializeToString())
    of_protobuf = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    # Its files stand where the package that they are compiled to is installed.
    of_google = os.path.dirname(os.path.dirname(os.path.dirname(date_pb2.__file__)))
    return [f"-I{of_protobuf}", f"-I{of_google}", f"--descriptor_set_in={of_confluent}"]
