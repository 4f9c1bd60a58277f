import asyncio
from typing import final

from sockrpc.codes import Outcome
from sockrpc.peer.inbox import Inbox
from sockrpc.peer.outbox import Outbox
from sockrpc.peer.table import Entry

@final
class OutgoingCall(Entry):
    @property
    def future(self) -> asyncio.Future[bytes]: ...
    @property
    def inbox(self) -> Inbox | None: ...
    @property
    def outbox(self) -> Outbox | None: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def takes_no_more(self) -> bool: ...
    def outcome_of(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Outcome]: ...
