from typing import Final, NamedTuple

PROTOCOLS: Final[tuple[str, ...]]
CALLEE: Final[tuple[Row, ...]]
CALLER: Final[tuple[Row, ...]]

class Row(NamedTuple):
    """The action for one input in one state.

    Attributes:
        state: The state of the call.
        input: The event: a frame that arrives, or something on this side.
        cells: The action and the next state for each of PROTOCOLS, None where the input cannot occur; a
            single one holds for all.
    """

    state: str
    input: str
    cells: tuple[tuple[str, str] | None, ...]
    def cell(self, column: int) -> tuple[str, str] | None: ...

def rows_taken(column: int = 0) -> dict[tuple[str, str, str], int]: ...
def take_row(table: str, state: str, input: str, column: int = 0) -> None: ...
