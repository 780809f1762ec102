"""The wire ceiling: how fast MongoDB takes codes from a client that does nothing but send.

It parses no HTTP and no S3, knows no driver and no retries: batches of 50,000 documents are encoded beforehand into
whole OP_MSG messages, and as many threads as there are connections write them to their sockets and wait for each
reply. Only sending counts; encoding does not, nor does sorting: with SORT_CODES, so many codes at a time are sorted
beforehand, 0 leaves them in the file's order. Of several numbers of connections, the best is the ceiling.

    python -m benchmarks.ceiling HOST:PORT DATABASE FILE CONNECTIONS WRITE_CONCERN_JSON SORT_CODES

prints one JSON object.
"""

import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bson

from benchmarks.processes import usage
from codesvc._fastcsv import Batch, Extractor, read_write_reply

_OP_MSG: Final = 2013
_BATCH: Final = 50_000
# Encoded messages are kept in memory: so many codes at a time, for files of any length.
_SEGMENT: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """A whole OP_MSG, and how many documents it holds."""

    data: bytes
    documents: int


def main() -> None:
    """Blast one file."""
    address, database, file, connections, concern, sort_codes = sys.argv[1:]
    host, _, port = address.rpartition(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(int(connections))]
    for one in sockets:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seconds, documents = [], 0
    for segment in _segments(Path(file), database, json.loads(concern), int(sort_codes)):
        seconds.append(_blast(sockets, segment))
        documents += sum(message.documents for message in segment)
    total = sum(seconds)
    result = {"codes": documents, "seconds": total, "segments": seconds, "cpu": usage(os.getpid()).cpu}
    sys.stdout.write(json.dumps(result) + "\n")


def _segments(file: Path, database: str, concern: dict[str, Any], sort_codes: int) -> Iterator[list[Message]]:
    extractor = Extractor(
        campaign_id="1",
        code_type="tm",
        saved_ms=time.time_ns() // 1_000_000,
        max_batch_codes=_BATCH,
        sort=sort_codes,
    )
    segment: list[Message] = []
    with file.open("rb") as source:
        while chunk := source.read(1 << 18):
            segment += [_message(batch, database, concern) for batch in extractor.feed(chunk)]
            if len(segment) * _BATCH >= _SEGMENT:
                yield segment
                segment = []
    segment += [_message(batch, database, concern) for batch in extractor.finish()]
    if segment:
        yield segment


def _message(batch: Batch, database: str, concern: dict[str, Any]) -> Message:
    command = bson.encode({"insert": "codes", "ordered": False, "writeConcern": concern, "$db": database})
    section = b"documents\0" + batch.documents
    body = b"\0\0\0\0" + b"\0" + command + b"\1" + struct.pack("<i", len(section) + 4) + section
    return Message(struct.pack("<iiii", len(body) + 16, 1, 0, _OP_MSG) + body, len(batch))


def _blast(sockets: list[socket.socket], messages: list[Message]) -> float:
    waiting = iter(messages)
    lock = threading.Lock()
    failures: list[str] = []

    def send(connection: socket.socket) -> None:
        while not failures:
            with lock:
                message = next(waiting, None)
            if message is None:
                return
            connection.sendall(message.data)
            reply = read_write_reply(_receive(connection))
            if reply.n != message.documents or reply.write_concern_error:
                failures.append(f"{reply.n} of {message.documents} documents were inserted")

    threads = [threading.Thread(target=send, args=(one,)) for one in sockets]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    if failures:
        raise SystemExit(failures[0])
    return elapsed


def _receive(connection: socket.socket) -> bytes:
    """Read one OP_MSG and return the document of its only section (flags and kind are 5 bytes)."""
    header = _exactly(connection, 16)
    return _exactly(connection, struct.unpack_from("<i", header)[0] - 16)[5:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise SystemExit("the server closed the connection")
        data += piece
    return bytes(data)


if __name__ == "__main__":
    main()
