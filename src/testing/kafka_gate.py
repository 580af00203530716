#!/usr/bin/env python3
"""A gate in front of a broker of Kafka for tests: TLS, client certificates and SASL for a broker that has none of them.

What it is: it ends TLS, may want a certificate of the client, lets users in by PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 (the server's
side of RFC 5802 and 7677) with the error codes and the words of Apache Kafka, and afterwards passes requests on. What brokers say of where
they are is changed so that it leads back here: for that it knows two kinds of answers, in versions that it limits itself. Who came in, and
how, is in the file passed.log, a line a connection.

What it is not: Kafka. There are no rights, no delegation tokens, no quotas; sessions do not end; a password is kept as it is.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import os
import ssl
import struct
import sys

METADATA, FIND_COORDINATOR, SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 3, 10, 17, 18, 36
# The newest versions without compact fields. An answer to DescribeCluster (60) would lead past the gate.
NEWEST = {METADATA: 8, FIND_COORDINATOR: 2}
HIDDEN = {SASL_HANDSHAKE, SASL_AUTHENTICATE, 60}
OWN = [(SASL_HANDSHAKE, 0, 1), (SASL_AUTHENTICATE, 0, 1)]
UNSUPPORTED_MECHANISM, ILLEGAL_SASL_STATE, AUTHENTICATION_FAILED = 33, 34, 58
HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
ITERATIONS = 4096
# What Kafka takes by default: what begins otherwise, such as TLS, is sent away.
LONGEST = 100 * 1024 * 1024


class Refused(Exception):
    """Told to the client; then the connection ends."""


def text(value):
    encoded = value.encode()
    return struct.pack(">h", len(encoded)) + encoded


def data(value):
    return struct.pack(">i", len(value)) + value


class Fields:
    """Reads a message from its front."""

    def __init__(self, message):
        self.message, self.at = message, 0

    def number(self, form):
        (value,) = struct.unpack_from(">" + form, self.message, self.at)
        self.at += struct.calcsize(form)
        return value

    def bytes(self, length):
        value = self.message[self.at : self.at + max(length, 0)]
        self.at += max(length, 0)
        return value

    def text(self):
        return self.bytes(self.number("h")).decode()


def with_address(message, api, version, host, port):
    """The answer with this address in place of the brokers'."""
    fields, changed = Fields(message), b""
    fields.number("i")  # correlation id
    if version >= (3 if api == METADATA else 1):
        fields.number("i")  # throttled for
    if api == METADATA:
        count = fields.number("i")
    else:
        count = 1
        fields.number("h")  # error
        if version >= 1:
            fields.text()
    kept = 0
    for _ in range(count):
        fields.number("i")  # node
        begin = fields.at
        fields.text()
        # Where there is no broker to be named there is no port either.
        if fields.number("i") >= 0:
            changed += message[kept:begin] + text(host) + struct.pack(">i", port)
            kept = fields.at
        if api == METADATA and version >= 1:
            fields.text()  # rack
    return changed + message[kept:]


class Plain:
    def __init__(self, users):
        self.users = users

    def step(self, token):
        """The answer, and who is proved by now."""
        _, user, password = token.decode().split("\0")
        if not hmac.compare_digest(self.users.get(user, "").encode(), password.encode()):
            raise Refused("Authentication failed: Invalid username or password")
        return b"", user


class Scram:
    def __init__(self, users, mechanism):
        self.users, self.mechanism, self.hash = users, mechanism, HASHES[mechanism]
        self.first = None

    def hmac(self, key, message):
        return hmac.digest(key, message, self.hash)

    def step(self, token):
        said = token.decode()
        return self.challenge(said) if self.first is None else self.proof(said)

    def challenge(self, said):
        self.first = said.split(",", 2)[2]
        fields = dict(field.split("=", 1) for field in self.first.split(","))
        self.user = fields["n"].replace("=2C", ",").replace("=3D", "=")
        self.nonce = fields["r"] + base64.b64encode(os.urandom(18)).decode()
        salt = os.urandom(16)
        # Who is unknown learns that only at the end.
        password = self.users.get(self.user, os.urandom(16).hex())
        self.salted = hashlib.pbkdf2_hmac(self.hash, password.encode(), salt, ITERATIONS)
        self.challenged = f"r={self.nonce},s={base64.b64encode(salt).decode()},i={ITERATIONS}"
        return self.challenged.encode(), None

    def proof(self, said):
        without_proof, proof = said.rsplit(",p=", 1)
        signed = f"{self.first},{self.challenged},{without_proof}".encode()
        stored = hashlib.new(self.hash, self.hmac(self.salted, b"Client Key")).digest()
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), self.hmac(stored, signed)))
        fields = dict(field.split("=", 1) for field in without_proof.split(","))
        right_key = hmac.compare_digest(hashlib.new(self.hash, key).digest(), stored)
        if fields["r"] != self.nonce or fields["c"] != "biws" or not right_key:
            raise Refused(
                f"Authentication failed during authentication due to invalid credentials with SASL mechanism {self.mechanism}"
            )
        server_key = self.hmac(self.salted, b"Server Key")
        return b"v=" + base64.b64encode(self.hmac(server_key, signed)), self.user


async def frame(reader):
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    if not 0 <= length <= LONGEST:
        raise ValueError("no message of Kafka")
    return await reader.readexactly(length)


class Gate:
    def __init__(self, given):
        self.given = given
        self.host, self.port = given.advertise, given.port
        self.users = dict([given.user.split(":", 1)]) if given.user else {}
        self.mechanisms = given.mechanisms.split(",")
        self.log = open(given.log, "a", encoding="utf-8")

    async def serve(self, reader, writer):
        try:
            host, port = self.given.broker.rsplit(":", 1)
            from_broker, to_broker = await asyncio.open_connection(host, int(port))
            try:
                await Client(self, reader, writer, from_broker, to_broker).serve()
            finally:
                to_broker.close()
        except (OSError, EOFError, ValueError, KeyError, IndexError, struct.error, ssl.SSLError, UnicodeDecodeError):
            pass  # Whoever talks nonsense, or goes away, is left alone.
        finally:
            writer.close()


class Client:
    def __init__(self, gate, reader, writer, from_broker, to_broker):
        self.gate, self.reader, self.writer = gate, reader, writer
        self.from_broker, self.to_broker = from_broker, to_broker
        self.mechanism, self.exchange, self.user = "none", None, None
        # By correlation id: what a request that the broker has not answered asks for.
        self.asked = {}

    async def serve(self):
        versions = await self.versions()
        passes = None
        try:
            while True:
                request = await frame(self.reader)
                fields = Fields(request)
                api, version, correlation = fields.number("h"), fields.number("h"), fields.number("i")
                fields.text()  # client id
                if api == API_VERSIONS:
                    await self.answer(correlation, self.known(versions, version))
                elif api == SASL_HANDSHAKE and self.gate.users:
                    await self.answer(correlation, self.handshake(fields.text()))
                elif api == SASL_AUTHENTICATE and self.exchange:
                    await self.authenticate(correlation, version, fields.bytes(fields.number("i")))
                elif self.gate.users and not self.user:
                    return  # As Kafka does.
                else:
                    passes = passes or self.pass_answers()
                    self.asked[correlation] = (api, version)
                    self.to_broker.write(struct.pack(">i", len(request)) + request)
                    await self.to_broker.drain()
        finally:
            if passes:
                passes.cancel()

    async def answer(self, correlation, body):
        self.writer.write(data(struct.pack(">i", correlation) + body))
        await self.writer.drain()

    async def versions(self):
        request = struct.pack(">hhi", API_VERSIONS, 0, 0) + text("gate")
        self.to_broker.write(data(request))
        fields = Fields(await frame(self.from_broker))
        fields.number("i"), fields.number("h")
        found = [(fields.number("h"), fields.number("h"), fields.number("h")) for _ in range(fields.number("i"))]
        limited = [(api, oldest, min(newest, NEWEST.get(api, newest))) for api, oldest, newest in found if api not in HIDDEN]
        return limited + (OWN if self.gate.users else [])

    def known(self, versions, version):
        triples = [struct.pack(">hhh", *triple) for triple in versions]
        if version >= 3:
            assert len(triples) < 127
            return struct.pack(">hB", 0, len(triples) + 1) + b"".join(one + b"\0" for one in triples) + struct.pack(">iB", 0, 0)
        throttled = struct.pack(">i", 0) if version >= 1 else b""
        return struct.pack(">hi", 0, len(triples)) + b"".join(triples) + throttled

    def handshake(self, mechanism):
        known = mechanism in self.gate.mechanisms
        if known:
            self.mechanism = mechanism
            users = self.gate.users
            self.exchange = Plain(users) if mechanism == "PLAIN" else Scram(users, mechanism)
        names = b"".join(text(name) for name in self.gate.mechanisms)
        return struct.pack(">hi", 0 if known else UNSUPPORTED_MECHANISM, len(self.gate.mechanisms)) + names

    async def authenticate(self, correlation, version, token):
        lifetime = struct.pack(">q", 0) if version >= 1 else b""
        try:
            answer, self.user = self.exchange.step(token)
        except Refused as refused:
            body = struct.pack(">h", AUTHENTICATION_FAILED) + text(str(refused)) + data(b"") + lifetime
            await self.answer(correlation, body)
            raise EOFError from refused
        await self.answer(correlation, struct.pack(">hh", 0, -1) + data(answer) + lifetime)

    def pass_answers(self):
        """The client is in: from now on it talks to the broker."""
        certificate = self.writer.get_extra_info("peercert")
        names = [value for part in (certificate or {}).get("subject", []) for name, value in part if name == "commonName"]
        tls = self.writer.get_extra_info("ssl_object") is not None
        print(f"tls={tls} certificate={''.join(names)} mechanism={self.mechanism} user={self.user}", file=self.gate.log, flush=True)
        return asyncio.ensure_future(self.from_broker_to_client())

    async def from_broker_to_client(self):
        try:
            while True:
                message = await frame(self.from_broker)
                api, version = self.asked.pop(*struct.unpack_from(">i", message))
                if api in NEWEST:
                    message = with_address(message, api, version, self.gate.host, self.gate.port)
                self.writer.write(data(message))
                await self.writer.drain()
        except (OSError, EOFError):
            self.writer.close()


def tls(given):
    if not given.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.certificate)
    if given.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(given.client_ca)
    return context


async def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--broker", required=True, help="host:port of the broker behind the gate")
    options.add_argument("--advertise", default="localhost", help="the host under which clients find the gate")
    options.add_argument("--log", required=True, help="the file that says who came in")
    options.add_argument("--certificate", help="PEM file with certificate and key: TLS")
    options.add_argument("--client-ca", help="PEM file: clients need a certificate that it signed")
    options.add_argument("--user", help="name:password: SASL")
    options.add_argument("--mechanisms", default="PLAIN,SCRAM-SHA-256,SCRAM-SHA-512")
    given = options.parse_args()
    gate = Gate(given)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", given.port, ssl=tls(given))
    # What fails in a handshake is what the tests want, and in the client's words.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
