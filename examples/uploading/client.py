import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import sockrpc


def pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(32 * 1024):
        yield piece


async def main(name: str, file: BinaryIO, size: int) -> None:
    async with (
        sockrpc.connect("ws://127.0.0.1:3000/socket") as client,
        client.stream("upload", name, items=pieces(file)) as upload,
    ):
        async for written in upload:
            print(f"{int(written) * 100 // size} %")
        print((await upload.result()).decode())


path = Path(sys.argv[1])
with path.open("rb") as file:
    asyncio.run(main(path.name, file, path.stat().st_size))
