"""The service in a process of its own: told to stop, and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from braidbandit import Ledger

ROOT = Path(__file__).parents[3]
HELLO = [{"role": "user", "content": "Hello there"}]
PROGRAM = """
import sys
from toy_embedder import embed
from braidbandit import MetaBraider, TaskEncoder
from braidbandit.service import ServiceSettings, run
folder, source, port = sys.argv[1:]
pool = [{"model_name": "llama", "source": source}]
agent = MetaBraider(pool, folder=folder, encoder=TaskEncoder(embedder=embed),
                    calibration_texts=["The dog sleeps."], random_state=0)
server = {"port": int(port), "calibrate": False}
run(ServiceSettings(pool=pool, server=server), agent)
agent.close()
"""


class Process:
    def __init__(self, folder, source):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        tests = ROOT / "tests"
        paths = [str(ROOT), str(tests), str(tests / "braidbandit")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), source, str(port)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 120
        while True:
            assert self._process.poll() is None, self._process.stderr.read()
            assert time.monotonic() < until
            try:
                if httpx2.get(self.root + "/ready").status_code == 200:
                    return
            except httpx2.HTTPError:
                time.sleep(0.05)

    def end(self, how):
        self._process.send_signal(how)
        _, self.log = self._process.communicate(timeout=60)
        return self._process.returncode


@pytest.fixture
def start(models, tmp_path):
    started = []

    def start():
        process = Process(tmp_path / "agent", models[0]["source"])
        started.append(process)
        return process

    yield start
    for process in started:
        if process._process.poll() is None:
            process.end(signal.SIGKILL)


def ask(http, **more):
    body = {"messages": HELLO, "max_tokens": 2, **more}
    return http.post("/v1/chat/completions", json=body)


def test_told_to_stop_it_writes_what_was_begun(start):
    process = start()
    answers = []

    def one():
        with httpx2.Client(base_url=process.root, timeout=60) as http:
            answers.append(ask(http, max_tokens=300, temperature=1))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    with httpx2.Client(base_url=process.root, timeout=60) as http:
        while "in_flight 3.0" not in http.get("/metrics").text and not answers:
            pass
    process.end(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    lines = [json.loads(line) for line in process.log.splitlines()]
    answered = [line for line in lines if line["event"] == "answered"]
    assert len({line["decision"] for line in answered}) == 3
    assert not any("prompt" in line for line in lines)
    assert "Hello there" not in process.log


def test_what_was_acknowledged_counts_once_however_it_is_killed(start, tmp_path):
    said = {}
    for run in range(3):
        process = start()
        timer = threading.Timer(0.3 + 0.2 * run, process.end, [signal.SIGKILL])
        timer.start()
        with httpx2.Client(base_url=process.root, timeout=60) as http:
            try:
                for number in range(10_000):
                    about = ask(http, max_tokens=1).json()["x_braidbandit"]
                    body = {key: about[key] for key in ("decision", "token")}
                    reward = number % 7 / 7
                    for _ in range(2):
                        answer = http.post(
                            "/v1/feedback", json={**body, "reward": reward}
                        )
                        assert answer.status_code == 200
                        said[about["decision"]] = reward
            except httpx2.HTTPError:
                pass
        timer.join()
    assert len(said) > 3
    start().end(signal.SIGTERM)  # it opens once more, and learns the rest
    with Ledger(tmp_path / "agent" / "ledger.sqlite") as ledger:
        true = {d.id: outcome.reward for _, d, outcome in ledger.pairs()}
        events = [event.decision.id for event in ledger.events()]
    assert {name: true[name] for name in said} == said
    assert len(set(events)) == len(events)
