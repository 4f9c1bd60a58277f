import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import sockrpc
from sockrpc import Code, RPCError

FOLDER = Path("uploads")
LARGEST = 10_000_000

app = sockrpc.App()


@contextlib.contextmanager
def partial_file() -> Iterator[BinaryIO]:
    """A file that is gone at the end, whatever the end is, unless it was moved away."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, Path(folder, "part").open("wb") as file:
        yield file


@app.method("upload")
async def upload(call: sockrpc.Call) -> str:
    target = FOLDER / Path(call.text).name
    written = 0
    with partial_file() as file:
        async for piece in call.items():  # a loss or a reset is raised here; it is no end of the items
            written += len(piece)
            if written > LARGEST:
                raise RPCError(Code.OUT_OF_RANGE, f"more than {LARGEST} bytes")
            file.write(piece)
            await call.send(str(written))
        file.close()
        call.commit()  # no abort from here on, and a caller that gives up hears that it is done
        os.replace(file.name, target)
    return f"{target.name} has {written} bytes"
