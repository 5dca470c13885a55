"""A kvorum client, from protocol/SPEC.md alone. `kvorum_client.py SERVER[,SERVER...]` checks
it against a cluster; it prints "half" when it is time to kill the leader, and goes on when it
reads "killed"."""

import itertools
import socket
import struct
import sys
import time
import zlib

PREFACE = b"\x89KVORM\x01\n"
GET, SET, DELETE, GET_MANY, OPEN_SESSION = 0x01, 0x02, 0x03, 0x04, 0x09
OK, NOT_FOUND, NOT_LEADER = 0x00, 0x01, 0x02
NO_LEADER, QUORUM_TIMEOUT, LEADER_CHANGED, BUSY, EXPIRED = 0x13, 0x14, 0x15, 0x16, 0x19
AGAIN = (NO_LEADER, QUORUM_TIMEOUT, LEADER_CHANGED, BUSY)
BODY_MAX = 128 << 20


class Refused(Exception):
    """A server has refused: nothing was applied, unless `may_be_applied`."""

    def __init__(self, status, message, may_be_applied=False):
        super().__init__(f"status {status:#04x}: {message}")
        self.status, self.may_be_applied = status, may_be_applied


class Connection:
    """One connection; one request at a time."""

    def __init__(self, address, timeout):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ids = itertools.cycle(range(0xFFFFFFFF))
        self.socket.sendall(PREFACE)
        preface = self.receive(1)
        if preface == b"E":  # A server without room sends a line of text.
            raise ConnectionError(preface + self.socket.recv(512))
        if preface + self.receive(7) != PREFACE:
            raise ConnectionError("this is not version 1 of the kvorum protocol")

    def receive(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server has closed the connection")
            data += part
        return data

    def call(self, operation, level=0, timeout_ms=0):
        """Sends one request; its response as (status, kind, version, body)."""
        request_id = next(self.ids)
        frame = struct.pack("<IIBBH", len(operation) + 12, request_id, level, 0, timeout_ms)
        frame += operation
        self.socket.sendall(frame + struct.pack("<I", zlib.crc32(frame)))
        while True:
            length = self.receive(4)
            (count,) = struct.unpack("<I", length)
            if not 20 <= count <= BODY_MAX + 20:
                raise ConnectionError("a frame of an impossible length")
            rest = self.receive(count)
            (crc,) = struct.unpack("<I", rest[-4:])
            if crc != zlib.crc32(length + rest[:-4]):
                raise ConnectionError("a checksum does not match")
            answered, status, kind, _, version = struct.unpack("<IBBHQ", rest[:16])
            body = rest[16:-4]
            if answered == 0xFFFFFFFF:
                raise ConnectionError(f"the server takes its leave: {body.decode()}")
            if answered == request_id:
                return status, kind, version, body


def operation(opcode, key=b"", rest=b"", number=None):
    fields = b"" if number is None else struct.pack("<QQ", *number)
    return struct.pack("<BBH", opcode, number is not None, len(key)) + fields + key + rest


class Client:
    """A client of a cluster. Writes are numbered in a session, and so applied once."""

    def __init__(self, servers, timeout=10.0):
        self.servers, self.timeout = list(servers), timeout
        self.connections, self.leader, self.session, self.sequence = {}, None, None, 0

    def get(self, key):
        """The value and its version, or None."""
        status, _, version, body = self.ask(operation(GET, key))
        return None if status == NOT_FOUND else (body, version)

    def get_many(self, keys):
        """For each key the value and its version, or None; all at one point of the log."""
        listed = b"".join(struct.pack("<H", len(key)) + key for key in keys)
        body = self.ask(operation(GET_MANY, rest=struct.pack("<I", len(keys)) + listed))[3]
        values, at = [], 4
        for _ in keys:
            version, length = struct.unpack_from("<QI", body, at)
            at += 12 + length
            values.append((body[at - length : at], version) if version else None)
        return values

    def set(self, key, value):
        """The version of the write."""
        return self.write(SET, key, value)[2]

    def delete(self, key):
        """How many keys there were."""
        return struct.unpack("<I", self.write(DELETE, key, b"")[3])[0]

    def write(self, opcode, key, rest):
        while True:
            if self.session is None:
                opened = self.ask(operation(OPEN_SESSION, rest=struct.pack("<I", 1)))
                self.session, self.sequence = opened[2], 0
            self.sequence += 1
            try:
                return self.ask(operation(opcode, key, rest, (self.session, self.sequence)))
            except Refused as error:
                self.session = None if error.status == EXPIRED else self.session
                if error.status != EXPIRED or error.may_be_applied:
                    raise

    def ask(self, request):
        """Sends a request until a server answers it. The same bytes are safe to send again."""
        deadline = time.monotonic() + self.timeout
        may_be_applied, wait, why = False, 0.002, "no server was asked"
        candidates = iter(())
        while time.monotonic() < deadline:
            address = self.leader or next(candidates, None)
            if address is None:  # All were asked in vain.
                time.sleep(wait)
                wait = min(wait * 2, 0.1)
                candidates = iter(self.servers)
                continue
            self.leader, sent = None, False
            try:
                if address not in self.connections:
                    self.connections[address] = Connection(address, 1.0)
                connection, sent = self.connections[address], True
                connection.socket.settimeout(max(deadline - time.monotonic(), 0.001))
                response = connection.call(request)
            except OSError as error:
                self.connections.pop(address, None)
                may_be_applied, why = may_be_applied or sent, error
                continue
            status, _, _, body = response
            if status in (OK, NOT_FOUND):
                self.leader = address
                return response
            why = body.decode()
            if status == NOT_LEADER:
                # A leader that was just lost may still be named: it is tried once a round.
                time.sleep(wait)
                self.leader = why
            elif status not in AGAIN:
                raise Refused(status, why, may_be_applied)
            may_be_applied = may_be_applied or status in (QUORUM_TIMEOUT, LEADER_CHANGED)
        raise Refused(0, f"no answer in time: {why}", may_be_applied)


def check(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def main():
    servers = sys.argv[1].split(",")
    check(zlib.crc32(b"123456789"), 0xCBF43926)
    for first in range(len(servers)):  # Whoever is asked first, the leader is found.
        client = Client(servers[first:] + servers[:first])
        version = client.set(b"user:1", b"Ada")
        check(client.get(b"user:1"), (b"Ada", version))
        later = client.set(b"", b"\x00\n\xff")
        check(later > version, True)
        found = client.get_many([b"user:1", b"nobody", b""])
        check(found, [(b"Ada", version), None, (b"\x00\n\xff", later)])
        check([client.delete(b"user:1"), client.delete(b"user:1")], [1, 0])
        check(client.get(b"user:1"), None)
    # The second sending of a write gets the answer of the first, on any connection.
    client.set(b"k", b"v")
    again = operation(DELETE, b"k", number=(client.session, client.sequence + 1))
    first = client.ask(again)
    client.connections.clear()
    check([first[3], client.ask(again)], [struct.pack("<I", 1), first])
    client.sequence += 1
    # And so writes survive their leader: none is lost, none happens twice.
    keys = [f"key:{number}".encode() for number in range(400)]
    for key in keys:
        client.set(key, b"value")
    for number, key in enumerate(keys):
        if number == 200:
            print("half", flush=True)
            check(sys.stdin.readline(), "killed\n")
        check(client.delete(key), 1)
    client.session = 1 << 40  # There is no such session: a new one is opened.
    client.set(b"k", b"v")


if __name__ == "__main__":
    main()
