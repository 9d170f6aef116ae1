"""A page with nothing on it but rendered markdown, and what is rendered there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

__all__ = ["CORPUS", "POLICIES", "serve"]

HERE = Path(__file__).parent
STATIC = Path(__file__).parents[3] / "chatstream" / "static"
CORPUS = sorted((HERE / "corpus").glob("*.md"))
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}

STRICT = "default-src 'self'; img-src 'self' data:; require-trusted-types-for 'script'"
# The page is at /<name>/. "bare" has no policy: what does not run there is not run by anybody's.
POLICIES = {"strict": STRICT, "named": f"{STRICT}; trusted-types dompurify", "bare": ""}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        file = HERE / "page.html" if path.strip("/") in POLICIES else self._file(path)
        self.send_response(200 if file.is_file() else 404)
        if policy := POLICIES.get(path.strip("/")):
            self.send_header("Content-Security-Policy", policy)
        kind = TYPES.get(file.suffix, "text/plain")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        if file.is_file():
            self.wfile.write(file.read_bytes())

    def _file(self, path: str) -> Path:
        name = path.lstrip("/")
        return HERE / name if name.startswith("page.") else STATIC / name

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[str]:
    """Serve the page; yield its address, without a slash at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
