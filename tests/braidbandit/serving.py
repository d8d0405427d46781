"""A real server of the service in a thread, on a free port of the loopback address."""

from __future__ import annotations

import threading
import time
from typing import Any

PATIENCE = 60


class Running:
    """Serves an application at ``url`` until :meth:`stop`."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        self.app = app
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, "the server did not start"
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        self.url = self.root + "/v1"

    @property
    def service(self) -> Any:
        return self.app.state.service

    def wait_for(self, state: str, count: int) -> None:
        """Wait until so many arms are in a state."""
        wait_until(lambda: self.service.arms.counts()[state] >= count)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def wait_until(what: Any, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.01)
