from typing import final

from sockrpc._service import Service

@final
class UndoHooks:
    def __init__(self, service: Service, method: str, id: int, fields: dict[str, object]) -> None: ...
