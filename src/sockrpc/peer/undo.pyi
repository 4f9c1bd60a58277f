from typing import Self, final

from sockrpc.peer.service import Service

@final
class UndoHooks:
    def __new__(cls, service: Service, method: str, id: int, fields: dict[str, object]) -> Self: ...
