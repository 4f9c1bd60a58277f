from typing import Self, final

from sockrpc._loop import Member
from sockrpc.limits import Limits

@final
class Settings:
    def __new__(cls, limits: Limits) -> Self: ...

class Output(Member):
    @property
    def transport(self) -> object | None: ...
    def is_writable(self) -> bool: ...
    def is_full(self) -> bool: ...
