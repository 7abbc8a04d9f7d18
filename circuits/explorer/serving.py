"""The page on this machine's own address, for browsers that open no files."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["address", "server_of"]

_HOST = "127.0.0.1"


def server_of(page: str) -> ThreadingHTTPServer:
    """A server of this one page on a free port; only programs of this machine reach it."""
    content = page.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(content)

        def do_HEAD(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            # Another name for this address is how a foreign page would try to read this one.
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (_HOST, "localhost"):
                self.send_error(403)
            elif self.path.partition("?")[0] not in ("/", "/explorer.html"):
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("Referrer-Policy", "no-referrer")
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer((_HOST, 0), Handler)


def address(server: ThreadingHTTPServer) -> str:
    """Where the page is."""
    return f"http://{_HOST}:{server.server_port}/"
