from typing import final

class Entry:
    @property
    def id(self) -> int: ...

@final
class RequestTable: ...

def live_entries() -> int: ...
