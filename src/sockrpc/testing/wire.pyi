from typing import Final, Literal, NamedTuple, Self, TypeAlias, final, overload

from sockrpc.peer.table import Entry
from sockrpc.websocket.parser import Parser

class Notify(NamedTuple):
    name: str
    payload: bytes

class Request(NamedTuple):
    id: int
    name: str
    payload: bytes

class Reset(NamedTuple):
    id: int

class Response(NamedTuple):
    id: int
    payload: bytes

class Open(NamedTuple):
    id: int
    flags: int
    timeout: int | None
    metadata: bytes | None
    name: str
    payload: bytes

class Item(NamedTuple):
    id: int
    cursor: bytes | None
    payload: bytes

class End(NamedTuple):
    id: int

class Credit(NamedTuple):
    id: int
    size: int

class Error(NamedTuple):
    id: int
    code: int
    outcome: int
    message: str
    details: bytes

class Hello(NamedTuple):
    flags: int
    max_calls: int
    window: int
    max_message_bytes: int
    metadata: bytes

class Goaway(NamedTuple):
    code: int
    grace: int
    message: str

class Ping(NamedTuple):
    payload: bytes

class Pong(NamedTuple):
    payload: bytes

class Ignored(NamedTuple):
    opcode: int

_V0: TypeAlias = Notify | Request | Reset | Response
_V1: TypeAlias = _V0 | Open | Item | End | Credit | Error | Hello | Goaway | Ping | Pong

@overload
def parse_message(message: bytes, *, receiver: Literal["server", "client"]) -> _V0: ...
@overload
def parse_message(
    message: bytes, *, receiver: Literal["server", "client"], protocol: str, tracked: bool = False
) -> _V1 | Ignored: ...
def serialize_frame(frame: _V1) -> bytes: ...

OPCODES: Final[dict[str, int]]

def feed(parser: Parser, data: bytes) -> list[tuple[str, bytes]]: ...
def serialize(kind: str, payload: bytes, *, masked: bool, final: bool = ...) -> bytes: ...

@final
class Table:
    def __new__(cls, last_id: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def new(self, id: int | None = None) -> Entry | None: ...
    def find(self, id: int) -> Entry | None: ...
    def take(self, entry: Entry) -> bool: ...
    def entries(self) -> list[Entry]: ...
