"""Users known by the certificates that their programs show.

    python examples/client_certificates.py cert.pem key.pem ca.pem

The first two are the server's, the third is the authority that signs for its users. A client without a
certificate of that authority gets no further than the TLS handshake.
"""

import http
import ssl
import sys

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc

app = sockrpc.App()


@app.method("whoami")
def whoami(call: sockrpc.Call) -> str:
    return str(call.socket.state.user)


def process_request(socket: sockrpc.Socket, request: Request) -> Response | None:
    """Takes the name in the certificate; that it belongs to the client was proved in the TLS handshake."""
    certificate = socket.get_extra_info("peercert")
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if len(names) != 1:
        forbidden = http.HTTPStatus.FORBIDDEN
        return Response(forbidden, forbidden.phrase, Headers(), b"A certificate has one name here.\n")
    socket.state.user = names[0]
    return None


def context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    made.load_cert_chain(certificate, key)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


if __name__ == "__main__":
    tls = context(*sys.argv[1:])
    sockrpc.run(app, "127.0.0.1", 3000, path="/socket", ssl=tls, process_request=process_request)
