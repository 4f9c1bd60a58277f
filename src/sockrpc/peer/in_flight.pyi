from sockrpc.peer.peer import Peer
from sockrpc.peer.service import Service

def find_running(service: Service, task: object) -> object: ...
def look(
    service: Service, max_connections: int, max_calls: int
) -> tuple[dict[str, tuple[int, float]], list[tuple[Peer, int, float]], bool]: ...
