from typing import Final, Literal, NamedTuple

SUBPROTOCOL: Final[str]

def encode(name: str, payload: str | bytes | bytearray | memoryview) -> tuple[bytes, bytes]: ...

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
