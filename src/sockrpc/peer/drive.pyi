from collections.abc import AsyncGenerator

from sockrpc.peer.call import Call
from sockrpc.peer.outbox import Outbox
from sockrpc.websocket.loop import LoopContext

async def drive(
    call: Call, outbox: Outbox, tracked: bool, context: LoopContext, generator: AsyncGenerator[object]
) -> None: ...
