from typing import Final, NamedTuple

PROTOCOLS: Final[tuple[str, ...]]
CALLEE: Final[tuple[Row, ...]]
CALLER: Final[tuple[Row, ...]]

class Row(NamedTuple):
    """What one input does in one state.

    Attributes:
        state: Where the call is.
        input: What happens: a frame that arrives, or something on this side.
        cells: For each of PROTOCOLS what is done and the state after it.
    """

    state: str
    input: str
    cells: tuple[tuple[str, str], ...]
