from typing import final

from sockrpc._loop import Member
from sockrpc.limits import Limits

@final
class Settings:
    def __init__(self, limits: Limits) -> None: ...

class Output(Member):
    @property
    def transport(self) -> object | None: ...
    def is_writable(self) -> bool: ...
    def is_full(self) -> bool: ...
