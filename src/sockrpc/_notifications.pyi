from typing import final

from sockrpc._service import Procedure

@final
class Notification(Procedure):
    @property
    def event(self) -> str: ...
