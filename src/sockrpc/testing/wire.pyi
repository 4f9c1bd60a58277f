from typing import Final, Literal, NamedTuple, Self, final

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

def parse_message(
    message: bytes, *, receiver: Literal["server", "client"]
) -> Notify | Request | Reset | Response: ...
def serialize_frame(frame: Notify | Request | Reset | Response) -> bytes: ...

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
