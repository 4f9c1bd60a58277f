from collections.abc import Callable
from typing import Any, Self, final

@final
class Handler:
    @property
    def name(self) -> str: ...
    @property
    def function(self) -> Callable[..., Any]: ...
    @property
    def kind(self) -> int: ...
    @property
    def timeout(self) -> float: ...
    @property
    def run_to_completion(self) -> bool: ...
    def __new__(
        cls,
        name: str,
        function: Callable[..., Any],
        *,
        timeout: float = 0.0,
        run_to_completion: bool = False,
        thread: bool = False,
    ) -> Self: ...
    def copy(self) -> Self: ...

def is_coroutine_function(function: object) -> bool: ...
