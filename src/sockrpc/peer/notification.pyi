from typing import final

from sockrpc.peer.procedure import Procedure

@final
class Notification(Procedure):
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def event(self) -> str: ...

def shared_notification(name: bytes, payload: bytes) -> bytes: ...
