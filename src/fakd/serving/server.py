"""HTTP server on the loopback address: routes, limits and origin checks."""

import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fakd.errors import InputError, is_out_of_memory

_LOCAL = ("localhost", "127.0.0.1", "::1")
_PIECE = 2**16
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Content(NamedTuple):
    """A response."""

    kind: str
    """Its media type."""
    body: bytes


class PageServer(ThreadingMixIn, TCPServer):
    """A server that only this machine can reach; it binds its port at once.

    It serves fixed addresses from memory and opens no file. The Host header must name this machine,
    since another site could otherwise use DNS rebinding; uploads must come from its own page.

    Args:
        host: A loopback address.
        port: 0 for a free one.
        limit: Maximum upload size in bytes.

    Raises:
        InputError: other machines could reach the address, or the port is not available.
    """

    daemon_threads = True
    # On other systems it would let two servers share a port.
    allow_reuse_address = os.name == "posix"
    allow_reuse_port = False

    def __init__(self, host: str, port: int, limit: int) -> None:
        host = "127.0.0.1" if host.lower() == "localhost" else host
        if not _is_loopback(host):
            raise InputError(
                f"--host must be a loopback address such as 127.0.0.1, got {host}: anyone who can "
                "reach the page can run the networks; use ssh -L to reach it from elsewhere"
            )
        if not 0 <= port < 2**16:
            raise InputError(f"--port must be 0 to 65535, got {port}; 0 chooses a free one")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.names, self.limit, self.asking = {*_LOCAL, host}, limit, threading.Lock()
        self.files: Mapping[str, Content] = {}
        self.posts: Mapping[str, Callable[[bytes], Content]] = {}
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise InputError(
                f"port {port} of {host} is not available: {error.strerror}; choose another with "
                "--port, or a free one with --port 0"
            ) from error
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.server_address[1]}/"

    def serve(
        self, files: Mapping[str, Content], posts: Mapping[str, Callable[[bytes], Content]]
    ) -> None:
        """Serve until Ctrl-C, which waits for a running network; a second one does not.

        Args:
            files: The content of each address.
            posts: The handler of bytes sent to each address; one call at a time.
        """
        self.files, self.posts = files, posts
        try:
            self.serve_forever()
        finally:
            self.server_close()
            with self.asking:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that closed the connection early."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "fakd", ""
    timeout = 30

    def do_GET(self) -> None:
        """Send the content of an address."""
        if not self._is_ours():
            return
        found = self.server.files.get(self.path)
        if found is None:
            self._refuse(404, "there is nothing here; the page is at /.")
        else:
            self._send(200, found)

    def do_POST(self) -> None:
        """Handle an upload."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host")
        if not self._is_ours():
            return
        if origin is not None and origin != f"http://{host}":
            self._refuse(403, "only this server's own page may send images.")
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self._refuse(411, "the request needs a Content-Length.")
            return
        answer, limit = self.server.posts.get(self.path), self.server.limit
        if answer is None or int(length) > limit:
            # A browser reads the response only after sending everything.
            self._skip(int(length))
            if answer is None:
                self._refuse(404, "there is nothing here; the page is at /.")
            else:
                sentence = (
                    f"the file has more than {limit / 1e6:g} MB; raise the limit with --megabytes."
                )
                self._refuse(413, sentence)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self._refuse(400, "the file is incomplete; send it again.")
            return
        with self.server.asking:
            code, found = _call(answer, body)
        self._send(code, found)

    def _is_ours(self) -> bool:
        """Check that the Host header names this server, and refuse the request if not."""
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            name = None
        if name in self.server.names:
            return True
        self._refuse(403, f"this page is only at {self.server.url}.")
        return False

    def _skip(self, length: int) -> None:
        while length > 0 and (piece := self.rfile.read(min(length, _PIECE))):
            length -= len(piece)

    def _refuse(self, code: int, sentence: str) -> None:
        self._send(code, text_response(sentence))

    def _send(self, code: int, content: Content) -> None:
        self.send_response(code)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content.kind)
        self.send_header("Content-Length", str(len(content.body)))
        self.end_headers()
        self.wfile.write(content.body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


def text_response(sentence: str) -> Content:
    """Return a plain-text response."""
    return Content("text/plain; charset=utf-8", sentence.encode(errors="replace"))


def _call(answer: Callable[[bytes], Content], body: bytes) -> tuple[int, Content]:
    """Run a network; errors become a sentence."""
    try:
        return 200, answer(body)
    except InputError as error:
        return 400, text_response(f"{' '.join(str(error).split())}.")
    # Networks may be foreign code that raises anything.
    except Exception as error:
        line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and is_out_of_memory(error)
        ):
            line = "out of memory; use a smaller image, or lower --inference.scale"
        print(f"fakd: failed: {line}", file=sys.stderr)
        return 500, text_response(f"the network failed: {line}.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
