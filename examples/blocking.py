"""Work that blocks: in a thread that polls, in a process that can be killed.

python examples/blocking.py

sockrpc call ws://127.0.0.1:3000/socket primes_in_a_thread 200000
sockrpc call ws://127.0.0.1:3000/socket primes_in_a_process 200000
"""

import asyncio
import logging
import sys

import sockrpc

LOG = logging.getLogger("blocking")

app = sockrpc.App()


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


@app.method("primes_in_a_thread", thread=True)
def primes_in_a_thread(call: sockrpc.Call) -> str:
    """Ask now and then whether anybody is still interested: nobody can stop a thread from outside."""
    count = 0
    try:
        for number in range(int(call.text)):
            if number % 1000 == 0:
                call.raise_if_reset()
            count += is_prime(number)
    finally:
        LOG.info("the thread has ended")
    return str(count)


CODE = """
import sys
print(sum(n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(int(sys.argv[1]))))
"""


@app.method("primes_in_a_process")
async def primes_in_a_process(call: sockrpc.Call) -> bytes:
    """A process can be stopped whatever it does, a library's endless loop included."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, str(int(call.text)), stdout=asyncio.subprocess.PIPE
    )
    LOG.info("process %d begins", process.pid)
    try:
        answer, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        LOG.info("process %d has ended", process.pid)
    return answer.strip()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sockrpc.run(app, "127.0.0.1", 3000)
