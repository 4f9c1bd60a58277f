from sockrpc._connection import Connection

class WatchedConnection(Connection):
    def verdict(self, now: float) -> str: ...
