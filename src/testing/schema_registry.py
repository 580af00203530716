#!/usr/bin/env python3
"""A schema registry for tests: the part of Confluent's REST API that Laminar and Confluent's own clients use.

What it is: subjects, versions, ids, soft deletion of subjects, references, compatibility levels, lookup, basic authentication, TLS, the
error codes and the words of Confluent's registry, kept in a file so that a restart finds them again. Avro schemas are parsed, and checked for
compatibility, by the `avro` package of the Apache project; Protobuf schemas are compiled, with what they refer to, by the compiler in `grpcio-tools`.

What it is not: Confluent's registry. JSON schemas are kept as they are, unchecked; they and Protobuf's are always compatible. A Protobuf schema that
is registered as a descriptor in base64 stays one, which Confluent's registry makes a text of. There are no contexts, modes, roles or rules; one process. `LAMINAR_TEST_SCHEMA_REGISTRY=url` runs the same tests against another one.
"""

import argparse
import base64
import json
import os
import re
import ssl
import sys
import tempfile
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, unquote, urlsplit

import avro.errors
import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

# The package does not know all of them; that changes nothing about compatibility.
warnings.simplefilter("ignore", avro.errors.IgnoredLogicalType)
LEVELS = ["NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"]


class Refused(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Registry:
    def __init__(self, path):
        self.path = path
        self.lock = Lock()
        self.schemas = {}  # id -> {schema, schemaType?, references?}
        self.subjects = {}  # name -> [[version, id]]
        self.levels = {"": "BACKWARD"}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                kept = json.load(file)
            self.schemas = {int(id): schema for id, schema in kept["schemas"].items()}
            self.subjects, self.levels = kept["subjects"], kept["levels"]

    def save(self):
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump({"schemas": self.schemas, "subjects": self.subjects, "levels": self.levels}, file)
        os.replace(self.path + ".new", self.path)

    def versions(self, subject):
        if not self.subjects.get(subject):
            raise Refused(404, 40401, f"Subject '{subject}' not found.")
        return self.subjects[subject]

    def version(self, subject, wanted):
        versions = self.versions(subject)
        if wanted in ("latest", "-1"):
            return versions[-1]
        if not wanted.isdigit() or int(wanted) < 1:
            raise Refused(422, 42202, f"The specified version '{wanted}' is not a valid version id.")
        for version in versions:
            if version[0] == int(wanted):
                return version
        raise Refused(404, 40402, f"Version {wanted} not found.")

    def parse(self, schema):
        """The Avro schema with everything that it refers to, as one text."""
        names = {}

        def inline(node):
            """Names of other subjects are replaced by what they stand for, where they come first."""
            if isinstance(node, str) and node in names:
                return inline(names.pop(node))
            if isinstance(node, list):
                return [inline(one) for one in node]
            if isinstance(node, dict):
                replaced = ("type", "items", "values", "fields")
                return {key: inline(value) if key in replaced else value for key, value in node.items()}
            return node

        def collect(references):
            for reference in references:
                _, id = self.version(reference["subject"], str(reference["version"]))
                found = self.schemas[id]
                collect(found.get("references", []))
                names[reference["name"]] = json.loads(found["schema"])

        try:
            collect(schema.get("references", []))
            return avro.schema.parse(json.dumps(inline(json.loads(schema["schema"]))))
        except (avro.errors.AvroException, ValueError, KeyError, TypeError) as error:
            raise Refused(422, 42201, f"Invalid schema {schema}, details: {error}") from error

    def compile(self, schema):
        """The serialized descriptor of a Protobuf schema in base64; None without a compiler."""
        try:
            import google.protobuf.descriptor_pb2 as descriptors
            import grpc_tools.protoc as protoc
            from protobuf_files import well_known
        except ImportError:
            return None

        def write(folder, name, schema):
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(schema["schema"])
            for reference in schema.get("references", []):
                _, id = self.version(reference["subject"], str(reference["version"]))
                write(folder, reference["name"], self.schemas[id])

        try:
            given = base64.b64decode(schema["schema"], validate=True)
            descriptors.FileDescriptorProto.FromString(given)
            return schema["schema"]
        except ValueError:
            pass
        with tempfile.TemporaryDirectory() as folder:
            write(folder, "main.proto", schema)
            set_of = os.path.join(folder, "set")
            failed = protoc.main(["protoc", f"-I{folder}", *well_known(folder), f"--descriptor_set_out={set_of}", "main.proto"])
            if failed:
                raise Refused(422, 42201, f"Invalid schema {schema}, details: protoc refuses it")
            with open(set_of, "rb") as file:
                compiled = descriptors.FileDescriptorSet.FromString(file.read())
        return base64.b64encode(compiled.file[0].SerializeToString()).decode()

    def formatted(self, shown, query):
        """What is shown of a schema, in the form that is asked for."""
        if query.get("format") == ["serialized"] and shown.get("schemaType") == "PROTOBUF":
            return {**shown, "schema": self.compile(shown)}
        return shown

    def canonical(self, schema):
        if schema.get("schemaType", "AVRO") == "PROTOBUF":
            text = schema["schema"]
        else:
            try:
                text = json.dumps(json.loads(schema["schema"]), separators=(",", ":"))
            except ValueError as error:
                raise Refused(422, 42201, f"Invalid schema, details: {error}") from error
        return (schema.get("schemaType", "AVRO"), text, json.dumps(schema.get("references", [])))

    def find(self, schema):
        wanted = self.canonical(schema)
        for id, known in self.schemas.items():
            if self.canonical(known) == wanted:
                return id
        return None

    def level(self, subject):
        return self.levels.get(subject, self.levels[""])

    def quarrels(self, schema, subject, versions):
        """Why the schema does not agree with these versions, by the subject's level."""
        level, found = self.level(subject), []
        if level == "NONE" or schema.get("schemaType", "AVRO") != "AVRO":
            return []
        new = self.parse(schema)
        if not level.endswith("_TRANSITIVE"):
            versions = versions[-1:]
        for number, id in versions:
            old = self.parse(self.schemas[id])
            pairs = []
            if level.startswith(("BACKWARD", "FULL")):
                pairs.append((new, old, "new", "old"))
            if level.startswith(("FORWARD", "FULL")):
                pairs.append((old, new, "old", "new"))
            for reader, writer, of_reader, of_writer in pairs:
                result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
                if result.compatibility is not SchemaCompatibilityType.compatible:
                    kinds = ", ".join(kind.value if hasattr(kind, "value") else str(kind) for kind in result.incompatibilities)
                    said = "; ".join(sorted(result.messages))
                    found.append(f"{{errorType:'{kinds}', description:'{said}', the {of_reader} schema cannot read the {of_writer} one, version {number}}}")
        if found:
            found.append(f"{{compatibility: '{level}'}}")
        return found

    def register(self, subject, schema):
        if schema.get("schemaType", "AVRO") == "AVRO":
            self.parse(schema)
        if schema.get("schemaType") == "PROTOBUF":
            self.compile(schema)
        versions = self.subjects.get(subject, [])
        id = self.find(schema)
        if any(known == id for _, known in versions):
            return id
        quarrels = self.quarrels(schema, subject, versions)
        if quarrels:
            said = ", ".join(quarrels)
            message = f"Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: [{said}]"
            raise Refused(409, 409, message)
        if id is None:
            id = max(self.schemas, default=0) + 1
            kept = {"schema": self.canonical(schema)[1]}
            kept.update({key: schema[key] for key in ("schemaType", "references") if schema.get(key)})
            self.schemas[id] = kept
        self.subjects[subject] = versions + [[versions[-1][0] + 1 if versions else 1, id]]
        self.save()
        return id

    def shown(self, subject, version):
        return {"subject": subject, "version": version[0], "id": version[1], **self.schemas[version[1]]}


def answer(registry, method, path, query, body):
    """What the registry says to a question, as JSON."""
    match method, *path:
        case "GET", "":
            return {}
        case "GET", "subjects":
            return sorted(name for name, versions in registry.subjects.items() if versions)
        case "GET", "subjects", subject, "versions":
            return [number for number, _ in registry.versions(subject)]
        case "GET", "subjects", subject, "versions", version:
            return registry.formatted(registry.shown(subject, registry.version(subject, version)), query)
        case "GET", "subjects", subject, "versions", version, "schema":
            return json.loads(registry.schemas[registry.version(subject, version)[1]]["schema"])
        case "POST", "subjects", subject, "versions":
            return {"id": registry.register(subject, body)}
        case "POST", "subjects", subject:
            versions, id = registry.versions(subject), registry.find(body)
            for version in versions:
                if version[1] == id:
                    return registry.shown(subject, version)
            raise Refused(404, 40403, "Schema not found")
        case "DELETE", "subjects", subject:
            numbers = [number for number, _ in registry.versions(subject)]
            del registry.subjects[subject]
            registry.save()
            return numbers
        case "GET", "schemas", "ids", id:
            if not id.isdigit() or int(id) not in registry.schemas:
                raise Refused(404, 40403, f"Schema {id} not found")
            return registry.formatted(registry.schemas[int(id)], query)
        case "POST", "compatibility", "subjects", subject, "versions", *version:
            versions = [registry.version(subject, version[0])] if version else registry.versions(subject)
            quarrels = registry.quarrels(body, subject, versions)
            said = {"messages": quarrels} if "verbose" in query else {}
            return {"is_compatible": not quarrels, **said}
        case "GET", "config", *subject:
            return {"compatibilityLevel": registry.level(subject[0] if subject else "")}
        case "PUT", "config", *subject:
            if body.get("compatibility") not in LEVELS:
                raise Refused(422, 42203, "Invalid compatibility level. Valid values are none, backward, forward and full")
            registry.levels[subject[0] if subject else ""] = body["compatibility"]
            registry.save()
            return {"compatibility": body["compatibility"]}
    raise Refused(404, 404, "HTTP 404 Not Found")


def handler(registry, user, log):
    expected = "Basic " + base64.b64encode(user.encode()).decode() if user else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            url = urlsplit(self.path)
            path = [unquote(part) for part in re.split("/+", url.path.strip("/"))]
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length)
            try:
                if expected and self.headers.get("Authorization") != expected:
                    raise Refused(401, 40101, "Unauthorized")
                with registry.lock:
                    print(self.command, self.path, file=log, flush=True)
                    found = answer(registry, self.command, path, parse_qs(url.query), json.loads(sent or b"{}"))
                self.reply(200, found)
            except Refused as refused:
                self.reply(refused.status, {"error_code": refused.code, "message": refused.message})
            except ValueError as error:
                self.reply(400, {"error_code": 400, "message": str(error)})

        do_POST = do_PUT = do_DELETE = do_GET

        def reply(self, status, value):
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    return Handler


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--data", required=True, help="a folder: what is registered, and requests.log")
    options.add_argument("--user", help="name:password that every request must have")
    options.add_argument("--certificate", help="PEM file with certificate and key: TLS")
    given = options.parse_args()
    registry = Registry(os.path.join(given.data, "registry.json"))
    log = open(os.path.join(given.data, "requests.log"), "a", encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", given.port), handler(registry, given.user, log))
    if given.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
