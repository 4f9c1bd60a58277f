from typing import NamedTuple

from sockrpc.peer.peer import Peer

class Flow(NamedTuple):
    id: int
    calls: bool
    balance: int | None
    window: int | None
    allowed: int
    held: int
    taken: int
    left: bool

def flows(peer: Peer) -> list[Flow]: ...
def books(peer: Peer) -> dict[str, int]: ...
def write_out(peer: Peer) -> None: ...
