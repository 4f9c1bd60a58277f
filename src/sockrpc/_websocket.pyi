from typing import Final, Literal, final

OPCODES: Final[dict[str, int]]

@final
class Parser:
    close_code: int
    close_reason: str
    def __init__(self, role: Literal["server", "client"], max_message_bytes: int = ...) -> None: ...
    def feed(self, data: bytes) -> list[tuple[str, bytes]]: ...

def serialize(kind: str, payload: bytes, *, masked: bool, final: bool = ...) -> bytes: ...
