from typing import Final

PROTOCOL_V0: Final[str]
PROTOCOL_V1: Final[str]
PROTOCOLS: Final[tuple[str, ...]]
SUBPROTOCOL: Final[str]
FLAGS: Final[dict[str, int]]

def encode_bytes(payload: str | bytes | bytearray | memoryview) -> bytes: ...
def encode(name: str, payload: str | bytes | bytearray | memoryview) -> tuple[bytes, bytes]: ...
