from typing import Final

SUBPROTOCOL: Final[str]

def encode(name: str, payload: str | bytes | bytearray | memoryview) -> tuple[bytes, bytes]: ...
