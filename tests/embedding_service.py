"""A service of OpenAI's form on this machine, for tests that need one which simply works."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = [
            {"index": i, "embedding": vector(text, body.get("dimensions") or 6)}
            for i, text in enumerate(body["input"])
        ]
        raw = json.dumps({"data": data[::-1]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        pass


def vector(text: str, width: int) -> list[float]:
    """Return numbers that follow from the text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return [byte / 255 - 0.5 for byte in digest[:width]]


@cache
def service() -> str:
    """Return the address of the service, which runs as long as this process."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    return f"http://127.0.0.1:{http.server_port}/v1"
