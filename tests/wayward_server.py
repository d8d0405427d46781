"""A small real server that speaks OpenAI's protocol, or does what servers should not.

What it does is a function of the request handler; see the functions below. It notes the
headers and the body of every request.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Does = Callable[[Any], None]


class WaywardServer:
    """Serves at ``url`` until :meth:`stop`; ``does`` may be changed at any time."""

    def __init__(self, does: Does) -> None:
        self.does = does
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                outer.bodies.append(json.loads(self.rfile.read(length)))
                given = {name.lower(): value for name, value in self.headers.items()}
                outer.headers.append(given)
                outer.does(self)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.url = self.root + "/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def event(data: Any) -> bytes:
    """One event of a stream."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One chunk of an answer as an event."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return event({"id": "c", "model": "m", "choices": [choice], **more})


def stream(*events: bytes, pause: float = 0.0, kind: str = "text/event-stream") -> Does:
    """Send events, and close the connection: that is their end."""

    def does(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        for one in events:
            try:
                handler.wfile.write(one)
                handler.wfile.flush()
            except OSError:
                return  # whoever asked has gone
            time.sleep(pause)

    return does


def usage(read: int, written: int) -> bytes:
    """The event that says how many tokens there were."""
    said = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": 0}
    return event({"id": "c", "model": "m", "choices": [], "usage": said})


WHOLE = (chunk("Hel"), chunk("lo"), chunk(finish="stop"), usage(8, 2), event("[DONE]"))


def status(code: int, said: str = "no", **headers: str) -> Does:
    """Answer with a status, and an error as OpenAI writes it."""

    def does(handler: Any) -> None:
        body = json.dumps({"error": {"message": said}}).encode()
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return does


def in_turn(*steps: Does) -> Does:
    """Do one thing after another, the last of them for good."""
    left = list(steps)

    def does(handler: Any) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return does
