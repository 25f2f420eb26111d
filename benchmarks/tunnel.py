"""The way out for simulated machines, which have none: a proxy that tunnels (RFC 9110, CONNECT).

with tunnelling("10.120.4.1") as url:
    ...  # HTTPS_PROXY=url in the machines
"""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK_BYTES = 2**16
_TIMEOUT_S = 60.0


class _Tunnel(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        request = self.rfile.readline().decode("latin-1").split()
        while self.rfile.readline().strip():
            pass
        if len(request) != 3 or request[0] != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
            return
        host, _, port = request[1].rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), _TIMEOUT_S) as far:
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_pour, args=(far, self.connection))
            back.start()
            _pour(self.connection, far)
            back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """Copies until the source ends, and lets the sink know."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def tunnelling(address: str) -> Iterator[str]:
    """Serves at an address of this host until the block ends; its URL."""
    with _Server((address, 0), _Tunnel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{address}:{server.server_address[1]}"
        server.shutdown()
