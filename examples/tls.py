"""wss without a proxy, with a certificate that can be renewed while the server runs.

python examples/tls.py cert.pem key.pem

SIGHUP has the server read both files again: connections that are open stay as they are, and new ones get
the new certificate.
"""

import asyncio
import signal
import ssl
import sys

import sockrpc

app = sockrpc.App()


@app.method("hello")
def hello(call: sockrpc.Call) -> str:
    return f"hello, {call.text}"


async def main(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, context.load_cert_chain, certificate, key)
    async with sockrpc.serve(app, "127.0.0.1", 3000, ssl=context) as server:
        loop.add_signal_handler(signal.SIGTERM, server.close)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
