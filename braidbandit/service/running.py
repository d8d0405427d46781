"""Runs the service until it is told to stop."""

from __future__ import annotations

import sys

from threadpoolctl import threadpool_limits

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.service.logs import log_as_json
from braidbandit.service.settings import ServiceSettings

# Seconds that a thread may keep the interpreter to itself. The default, 0.005, would
# be most of what a decision takes.
_SWITCH = 0.0005


def run(settings: ServiceSettings, agent: MetaBraider | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish what was begun.

    Parameters
    ----------
    settings : ServiceSettings
    agent : MetaBraider, optional
        As for :func:`create_app`.

    Raises
    ------
    ImportError
        When the extra ``serve`` is not installed.
    """
    try:
        import uvicorn

        from braidbandit.service.app import create_app
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the service needs {error.name}: pip install 'braidbandit[serve]'"
        ) from error
    server = settings.server
    log_as_json(server.log_level)
    sys.setswitchinterval(_SWITCH)
    app = create_app(settings, agent)
    # A decision's matrices are small: a second thread for them is waited for longer
    # than it helps, while models use the cores.
    threadpool_limits(1, "blas")
    config = uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(server.shutdown_seconds + 0.5),
    )
    uvicorn.Server(config).run()
