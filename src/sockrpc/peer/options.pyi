from typing import final

@final
class CallOptions: ...
