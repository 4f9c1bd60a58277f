from typing import Self, final

from sockrpc.limits import Limits

@final
class Settings:
    def __new__(cls, limits: Limits) -> Self: ...
    def values(self) -> dict[str, float]: ...
