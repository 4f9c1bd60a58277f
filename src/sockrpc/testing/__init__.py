"""Tests of an app without a socket: clients are joined to it in memory, and the test controls the line.

The pytest fixture `in_memory` does the same for tests without an event loop; see docs/howto/testing.md.
"""

from sockrpc.testing.joined import MemoryClient, MemoryServer, connect, serve
from sockrpc.testing.line import Direction

__all__ = ["Direction", "MemoryClient", "MemoryServer", "connect", "serve"]
