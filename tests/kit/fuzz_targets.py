"""What the fuzzers call: functions of bytes that fail if sockrpc and its oracle disagree on them.

Each target takes any bytes. ``make fuzz`` looks for bytes that fail, guided by the coverage of the compiled
code; test_corpus.py calls the targets with everything that was ever found, and with their seeds.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path

from websockets.client import ClientProtocol
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from sockrpc.errors import HandshakeError
from sockrpc.websocket.client_handshake import ClientHandshake
from sockrpc.websocket.server_handshake import ServerHandshake, select_subprotocol
from sockrpc.websocket.uris import read_target
from tests.kit import rpc_oracle_v1
from tests.kit.rpc_oracle import check_message
from tests.kit.streams import LARGE_LIMIT, SMALL_LIMIT, Program, Role, Stream, read_stream
from tests.kit.support import SUBPROTOCOL, opening
from tests.kit.websocket_oracle import check_bytes, check_stream

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors.json").read_text("utf-8"))
MAX_HANDSHAKE_BYTES = 1000
URI = parse_uri("ws://localhost/socket")
# Stands in a program for the key that only the client's side of the handshake knows.
ACCEPT = b"$ACCEPT"


def websocket(role: Role, data: bytes) -> None:
    """The WebSocket parser: a program of frames, or the bytes themselves."""
    program = Program(data)
    how = program.byte()
    if how < 128:
        check_stream(role, read_stream(program))
        return
    cuts = [program.word() for _ in range(how & 3)]
    reads = Stream([], cuts).reads(data[program.at :])
    check_bytes(role, reads, LARGE_LIMIT if how & 4 else SMALL_LIMIT)


def frames(data: bytes) -> None:
    """The codec of RPC messages, in both roles."""
    check_message(data, "server")
    check_message(data, "client")


def frames_v1(data: bytes) -> None:
    """The codec of `sockrpc.v1`, in both roles; the first byte says whether items have cursors."""
    tracked = bool(data[:1] and data[0] & 1)
    rpc_oracle_v1.check_message(data[1:], "server", tracked=tracked)
    rpc_oracle_v1.check_message(data[1:], "client", tracked=tracked)


TOKEN = frozenset(b"!#$%&'*+-.^_`|~" + string.digits.encode() + string.ascii_letters.encode())


def server_handshake(data: bytes) -> None:
    """The server's side of the opening handshake: a request, in reads."""
    program = Program(data)
    cuts = [program.word() for _ in range(program.byte() & 3)]
    data = data[program.at :]
    outcome, rest = serve(Stream([], cuts).reads(data))
    assert (outcome, rest) == serve([data])
    # A request begins with a method, which is a token (RFC 9110 5.6.2), and a space. What does not is refused
    # at once, by us only.
    method, space, _ = data[:33].partition(b" ")
    if set(method) - TOKEN or (space and not method) or len(method) > 32:
        assert (outcome, rest) == (400, None)
        return
    # websockets is fed the request alone: what follows is none of its affair.
    head, blank, after = data.partition(b"\r\n\r\n")
    head += blank
    assert rest in (after, None)
    if len(head) > MAX_HANDSHAKE_BYTES:
        assert (outcome, rest) == (431, None)
        return
    theirs = ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)], select_subprotocol=select_subprotocol)
    theirs.receive_data(head)
    request = next(iter(theirs.events_received()), None)
    if not blank:
        # It may see earlier that this will be no request; we wait, at most `handshake_timeout`.
        assert request is None
        assert outcome is None
    elif not isinstance(request, Request):
        assert outcome in (400, 431)
        assert rest is None
    elif read_target(request) is not None:
        # RFC 9112 3.2, which websockets leaves to others.
        assert (outcome, rest) == (400, None)
    elif request.headers.get_all("Sec-WebSocket-Version") not in ([], ["13"]):
        # RFC 6455 4.4: whatever else is wrong, a client of another version is told ours.
        assert outcome == 426
    else:
        assert request.path.startswith("/") or request.method in ("CONNECT", "OPTIONS")
        assert outcome == theirs.accept(request).status_code


def serve(reads: list[bytes]) -> tuple[int | None, bytes | None]:
    """The status that a request is answered with, and what follows the request if it was one."""
    handshake = ServerHandshake(MAX_HANDSHAKE_BYTES, [SUBPROTOCOL])
    for i, read in enumerate(reads):
        outcome = handshake.receive(read)
        if outcome is None:
            continue
        if isinstance(outcome, Response):
            return outcome.status_code, None
        response = handshake.answer(outcome, path=None, origins="*")
        assert (response.status_code == 101) == (handshake.subprotocol == SUBPROTOCOL)
        return response.status_code, handshake.rest + b"".join(reads[i + 1 :])
    return None, None


# An answer that h11 and websockets read alike. h11 is lenient about ends of lines, folded ones and a missing
# phrase, and passes over interim answers; it is strict about the length of a body, which this answer has not.
PLAIN = re.compile(
    rb"HTTP/1\.1 101 [\t\x20-\x7e\x80-\xff]*\r\n"
    rb"(?:(?!(?i:content-length|transfer-encoding):)[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)


def client_handshake(data: bytes) -> None:
    """The client's side of the opening handshake: an answer, in reads, then the end of the line."""
    program = Program(data)
    cuts = [program.word() for _ in range(program.byte() & 3)]
    data = data[program.at :]
    is_open, rest = connect(Stream([], cuts).reads(data))
    assert (is_open, rest) == connect([data])
    head, blank, after = data.partition(b"\r\n\r\n")
    if not PLAIN.fullmatch(head + blank):
        assert not is_open or (b" 101" in head and data.endswith(rest))
        return
    if is_open:
        assert rest == after
    theirs = ClientProtocol(URI, subprotocols=[Subprotocol(SUBPROTOCOL)])
    data = fill(head + blank, theirs)
    theirs.receive_data(data)
    # Beyond what websockets demands: a subprotocol is confirmed, and the answer is of a decent size.
    is_small = len(data) <= MAX_HANDSHAKE_BYTES
    assert is_open == (theirs.state is State.OPEN and theirs.subprotocol is not None and is_small)


def connect(reads: list[bytes]) -> tuple[bool, bytes]:
    """Whether the client takes these reads for an answer that opens, and what follows that."""
    handshake = ClientHandshake(
        URI, max_handshake_bytes=MAX_HANDSHAKE_BYTES, subprotocols=[SUBPROTOCOL], headers=()
    )
    assert handshake.request().startswith(b"GET /socket HTTP/1.1\r\n")
    reads = split_again(fill(b"".join(reads), handshake.protocol), reads)
    try:
        for i, read in enumerate(reads):
            if handshake.receive(read):
                return True, handshake.rest + b"".join(reads[i + 1 :])
        opened = handshake.receive(b"")
    except HandshakeError:
        return False, b""
    assert not opened, "opened by the end of the line"
    raise AssertionError("neither opened nor refused")


def fill(data: bytes, protocol: ClientProtocol) -> bytes:
    """The data, with the right answer to the client's key in its head."""
    head, blank, after = data.partition(b"\r\n\r\n")
    return head.replace(ACCEPT, accept_key(protocol.key).encode()) + blank + after


def split_again(data: bytes, reads: list[bytes]) -> list[bytes]:
    """The data, in reads of the sizes of these."""
    ends = [sum(len(read) for read in reads[: i + 1]) for i in range(len(reads) - 1)]
    return Stream([], ends).reads(data)


def engine(data: bytes) -> None:
    """The whole engine in memory, under a script of operations (test_engine.py)."""
    from tests.kit.engine_program import play_program

    play_program(Program(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "websocket_server": partial(websocket, "server"),
    "websocket_client": partial(websocket, "client"),
    "frames": frames,
    "frames_v1": frames_v1,
    "server_handshake": server_handshake,
    "client_handshake": client_handshake,
    "engine": engine,
}


def seeds(target: str) -> dict[str, bytes]:
    """What a fuzzer starts from: inputs that are right, or nearly."""
    if target == "frames":
        every = [*VECTORS["valid"], *VECTORS["invalid"]]
        return {f"{i:02d} {each['meaning']}": bytes.fromhex(each["hex"]) for i, each in enumerate(every)}
    if target == "frames_v1":
        every = [*VECTORS["v1"]["valid"], *VECTORS["v1"]["invalid"]]
        return {
            f"{i:03d} {each['meaning']}": bytes(["cursor" in each.get("frame", "")])
            + bytes.fromhex(each["hex"])
            for i, each in enumerate(every)
        }
    if target == "server_handshake":
        return {
            "an opening request": b"\x00" + opening(),
            "with frames behind it": b"\x01\x00\x7f" + opening() + b"\x82\x80\x01\x02\x03\x04",
            "with extensions": b"\x00" + opening(Sec_WebSocket_Extensions="permessage-deflate"),
            "of another version": b"\x00" + opening(Sec_WebSocket_Version="8"),
            "with an origin": b"\x00" + opening(Origin="http://127.0.0.1"),
            "too large": b"\x00" + opening("/" + "a" * MAX_HANDSHAKE_BYTES),
            "a page request": b"\x00GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        }
    if target == "client_handshake":
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        accept = head + b"Sec-WebSocket-Accept: $ACCEPT\r\n"
        protocol = b"Sec-WebSocket-Protocol: websocket.io-rpc-v0.1\r\n"
        refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n"
        chunked = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno\n\r\n0\r\n\r\n"
        return {
            "an answer that opens": b"\x00" + accept + protocol + b"\r\n",
            "with frames behind it": b"\x01\x00\x60" + accept + protocol + b"\r\n\x82\x00",
            "without a subprotocol": b"\x00" + accept + b"\r\n",
            "without its key": b"\x00" + head + protocol + b"\r\n",
            "a refusal": b"\x00" + refusal,
            "a refusal in chunks": b"\x01\x00\x35" + chunked,
            "interim answers before it": b"\x01\x00\x10"
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            + accept
            + protocol
            + b"\r\n\x82\x00",
        }
    if target == "engine":
        # Every byte stands for something; the shortest scripts are found at once.
        return {f"script {n}": bytes(range(n, n + 40 * (n + 1), n + 1)) for n in range(6)}
    programs = {f"program {n}": bytes((n * i * i + 7 * i) & 0xFF for i in range(60)) for n in range(1, 8)}
    return programs | {f"fault {i}": b"\x80" + data for i, data in enumerate(raw_faults(target))}


def raw_faults(target: str) -> list[bytes]:
    """Frames as other tests send them, each with a fault."""
    if target == "websocket_server":
        from tests.peer.test_malformed import FAULTS

        return [fault.data for fault in FAULTS]
    from tests.peer.test_malformed_client import FAULTS as CLIENT_FAULTS

    return [fault.data for fault in CLIENT_FAULTS]
