"""Test an app without a socket: a client joined to it in memory, whose line the test holds.

The pytest fixture `in_memory` does the same for tests that own no event loop; see docs/howto/testing.md.
"""

from sockrpc.testing.joined import MemoryClient, MemoryServer, connect, serve
from sockrpc.testing.line import Direction

__all__ = ["Direction", "MemoryClient", "MemoryServer", "connect", "serve"]
