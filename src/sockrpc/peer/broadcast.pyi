from sockrpc.peer.peer import Peer

def broadcast(
    connections: list[Peer], excluded: Peer | None, name: bytes, payload: bytes
) -> tuple[int, list[Peer]]: ...
