from sockrpc.peer.server_connection import ServerConnection

def broadcast(
    connections: list[ServerConnection], excluded: ServerConnection | None, name: bytes, payload: bytes
) -> tuple[int, list[ServerConnection]]: ...
