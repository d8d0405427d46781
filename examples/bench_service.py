"""Load the service, break it, kill it, and print what that did to it.

    python examples/bench_service.py                  # a few minutes
    python examples/bench_service.py --requests 400 --malformed 500 --kills 2 --json
    python examples/bench_service.py --first-token SmolLM2-135M-Instruct

A service over two tiny language models runs in a process of its own on the loopback
address. One client asks it, then 32 at a time; then it gets bodies, tokens and headers
that make no sense; then it is killed while feedback comes in. Each answer must be in
the ledger once, no request may end in a 5xx but the documented 503, and every feedback
that was acknowledged must count once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from braidbandit import Ledger, MetaBraider, TaskEncoder

WORDS = "the dog sleeps and the cat reads a book about strands of other strands".split()
TEXTS = [f"{' '.join(WORDS[i % 5 :])} number {i}" for i in range(12)]
QUEUE, BATCH = 16, 8
PATIENCE = 120.0
MEGABYTE = 2**20


# ---- the service ----


def embed(texts: Any) -> Any:
    """Eight numbers of a text: choosing needs no language model."""
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    return np.array([list(digest) for digest in digests]) / 255.0 - 0.5


def make_models(folder: Path) -> list[dict[str, str]]:
    """Two models of a few thousand weights each, whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    cards = []
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.3,
            eos_token_id=fast.eos_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
        cards.append({"model_name": name, "source": str(folder / name)})
    return cards


def open_agent(cards: list[dict[str, str]], folder: Path) -> MetaBraider:
    return MetaBraider(
        cards,
        folder=folder / "agent",
        encoder=TaskEncoder(embedder=embed, n_components=4),
        calibration_texts=TEXTS,
        layer_sets=("output",),
        strategies=("learned_weighted",),
        shares=((0.75, 0.25),),
        random_state=0,
    )


def serve(cards: list[dict[str, str]], folder: Path, port: int) -> None:
    """Run the service; in a process of its own."""
    import torch

    from braidbandit.service import ServiceSettings, run

    torch.set_num_threads(1)
    log = (folder / "log").open("a")
    os.dup2(log.fileno(), sys.stderr.fileno())
    server = {"port": port, "queue": QUEUE, "batch": BATCH, "log_level": "warning"}
    server |= {"feedback_per_hour": 0}
    run(ServiceSettings(pool=cards, server=server), open_agent(cards, folder))


class Process:
    """The service in a process, and how much memory that takes."""

    def __init__(self, cards: list[dict[str, str]], folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(cards, folder, port)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, all_arms: bool = True) -> None:
        """Wait until arms can answer."""
        with client(self.url) as http:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                if not self._process.is_alive():
                    raise SystemExit("the service ended by itself; see its log")
                try:
                    told = http.get("/ready").json()
                except Exception:
                    told = {}
                waits = sum(
                    told.get("arms", {}).get(s, 1) for s in ("waiting", "loading")
                )
                if told.get("ready") and not (all_arms and waits):
                    return
                time.sleep(0.05)
        raise SystemExit("the service was not ready in time")

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self._process.join(PATIENCE)


def client(url: str) -> Any:
    import httpx2

    return httpx2.Client(base_url=url, timeout=PATIENCE)


# ---- load ----


def ask(http: Any, number: int, **more: Any) -> Any:
    text = f"{' '.join(random.Random(number).choices(WORDS, k=6))} {number}"
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        **more,
    }
    return http.post("/v1/chat/completions", json=body)


class Load:
    """Requests from several clients at a time, and what came of each."""

    def __init__(self, url: str, first: int, count: int, clients: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.decisions: list[str] = []
        self.tokens: list[str] = []
        self.decision_ms: list[float] = []
        self.gave_up = 0
        self._url, self._lock = url, threading.Lock()
        self._numbers = iter(range(first, first + count))
        begun = time.perf_counter()
        threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - begun

    def _ask(self) -> None:
        with client(self._url) as http:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                self._one(http, number)

    def _one(self, http: Any, number: int) -> None:
        """Ask until there is an answer; a full queue says to come again."""
        for _ in range(200):
            answer = ask(http, number)
            with self._lock:
                self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                about = answer.json()["x_braidbandit"]
                with self._lock:
                    self.decisions.append(about["decision"])
                    self.tokens.append(about["token"])
                    self.decision_ms.append(about["decision_ms"])
                return
            if answer.status_code not in (429, 503):
                break
            time.sleep(0.05)  # sooner than it says, so that the queue stays full
        self.gave_up += 1


def decided(folder: Path) -> list[str]:
    with Ledger(folder / "agent" / "ledger.sqlite") as ledger:
        return [decision.id for decision, _ in ledger.decisions()]


def under_load(process: Process, folder: Path, requests: int) -> dict[str, Any]:
    before, few = set(decided(folder)), min(200, requests)
    alone = Load(process.url, 0, few, 1)
    memory = process.memory()
    loaded = Load(process.url, few, requests, 32)
    grown = process.memory() - memory
    given = alone.decisions + loaded.decisions
    known = [name for name in decided(folder) if name not in before]
    median = statistics.median(alone.decision_ms)
    p99 = float(np.quantile(loaded.decision_ms, 0.99))
    return {
        "requests": requests,
        "seconds": loaded.seconds,
        "statuses": {str(k): n for k, n in sorted(loaded.statuses.items())},
        "lost": loaded.gave_up + len(set(given) - set(known)),
        "doubled": len(given) - len(set(given)) + len(known) - len(set(known)),
        "decisions_without_answer": len(set(known) - set(given)),
        "memory_mb_after_200": memory / MEGABYTE,
        "memory_growth_mb": grown / MEGABYTE,
        "decision_ms_median_unloaded": median,
        "decision_ms_p99_loaded": p99,
        "decision_ratio": p99 / median,
        "median_decision_ms_loaded": statistics.median(loaded.decision_ms),
    }


# ---- what makes no sense ----

JUNK: list[Any] = [
    None, True, -1, 0, 2**70, 1.5, "", "x" * 5000, "\ud800", "\x00", "auto", [], [[]],
    {}, {"role": "user"}, [{"role": "user", "content": "hi"}], {"text": "hi"}, [None],
]  # fmt: skip
FIELDS = {
    "/v1/chat/completions": (
        "model", "messages", "stream", "stream_options", "max_tokens", "temperature",
        "top_p", "stop", "seed", "n", "user", "metadata", "tools", "x_braidbandit",
    ),
    "/v1/completions": ("model", "prompt", "max_tokens", "echo", "logprobs", "stop"),
    "/v1/feedback": (
        "decision", "token", "reward", "stars", "thumbs", "preferred_over", "retract",
        "revise", "id", "source", "strength",
    ),
    "/v1/recommend": ("task", "compute_budget", "preference", "top", "decide"),
}  # fmt: skip
RAW = [
    b"", b"{", b"null", b"[]", b'{"a":' * 2000, b"\xff\xfe", b'{"reward": NaN}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'"text"', b"1e999",
    b'{"max_tokens": 1' + b"0" * 5000 + b"}",
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {}, {"Authorization": "Bearer"}, {"Authorization": "Basic !!"},
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"},
    {"Content-Type": "text/plain"}, {"X-Session-Id": "x" * 3000},
    {"Content-Length": "-1"}, {"Accept": "\x01"}, {"X-OpenWebUI-Chat-Id": "{{C}}"},
]  # fmt: skip


def nonsense(url: str, folder: Path, count: int, quiet: bool) -> dict[str, Any]:
    chance = random.Random(0)
    statuses: Counter[str] = Counter()
    file = folder / "agent" / "ledger.sqlite"
    with Ledger(file) as ledger:
        before = ledger.counts(), ledger.last_sequence()
    with client(url) as http:
        for _ in tqdm(range(count), disable=quiet, desc="malformed"):
            path = chance.choice(list(FIELDS))
            headers = {"Content-Type": "application/json", **chance.choice(HEADERS)}
            body = chance.choice(RAW)
            if chance.random() < 0.8:
                fields = chance.sample(FIELDS[path], chance.randrange(1, 5))
                whole = {field: chance.choice(JUNK) for field in fields}
                # One that is refused for certain, whatever the others are.
                whole[chance.choice(fields)] = {"no": [chance.random()]}
                whole["x_braidbandit"] = 7
                body = json.dumps(whole).encode()
            try:
                answer = http.post(path, content=body, headers=headers)
                statuses[str(answer.status_code)] += 1
            except Exception as error:  # refused by the client, or hung up on
                statuses[type(error).__name__] += 1
    with Ledger(file) as ledger:
        after = ledger.counts(), ledger.last_sequence()
    failed = sum(n for status, n in statuses.items() if status.startswith("5"))
    return {
        "malformed": count,
        "malformed_statuses": dict(sorted(statuses.items())),
        "malformed_5xx": failed,
        "ledger_unchanged": before == after,
    }


# ---- kills ----


def killed(cards: list[dict[str, str]], folder: Path, kills: int) -> dict[str, Any]:
    """Kill the service while feedback comes in; what was acknowledged counts once."""
    chance = random.Random(0)
    said: dict[str, float] = {}
    for _ in range(kills):
        process = Process(cards, folder)
        process.wait(all_arms=False)
        timer = threading.Timer(chance.uniform(0.3, 1.5), process.kill)
        timer.start()
        rate_until_it_ends(process.url, said, chance)
        timer.join()
    agent = open_agent(cards, folder)
    true = {d.id: outcome.reward for _, d, outcome in agent.ledger.pairs()}
    learnt = dict(agent.recommender.settled_)
    events = [event.decision.id for event in agent.ledger.events()]
    agent.close()
    mine = {name: n for name, n in Counter(events).items() if name in said}
    return {
        "kills": kills,
        "acknowledged": len(said),
        "feedback_lost": sum(true.get(name) != reward for name, reward in said.items()),
        "feedback_doubled": sum(n != 1 for n in mine.values()),
        "feedback_not_learnt": sum(learnt.get(n) != r for n, r in true.items()),
    }


def rate_until_it_ends(url: str, said: dict[str, float], chance: random.Random) -> None:
    with client(url) as http:
        for number in range(10**6):
            try:
                about = ask(http, number, max_tokens=1).json()["x_braidbandit"]
                reward = round(chance.random(), 3)
                body = {k: about[k] for k in ("decision", "token")}
                for _ in range(2):  # the second changes nothing
                    answer = http.post("/v1/feedback", json={**body, "reward": reward})
                    if answer.status_code == 200:
                        said[about["decision"]] = reward
            except Exception:
                return


# ---- the first token ----


def first_token(cards: list[dict[str, str]], url: str, repeats: int) -> dict[str, Any]:
    """Time to the first streamed word, against the model's own time for the prompt."""
    import torch

    from fusion import BraidConfig, BraidedLLM, Pool

    torch.set_num_threads(1)  # as the service has it
    name = cards[0]["model_name"]
    pool = Pool({name: cards[0].get("source", name)})
    model = BraidedLLM(BraidConfig(name, [], [1.0], []), [pool[name]])
    text = " ".join(WORDS * 5)
    theirs, ours = [], []
    with client(url) as http:
        for _ in range(repeats):
            begun = time.perf_counter()
            model.generate(text, max_new_tokens=1, do_sample=False)
            ours.append(time.perf_counter() - begun)
            body = {"model": name, "prompt": text, "stream": True, "temperature": 0}
            begun = time.perf_counter()
            with http.stream(
                "POST", "/v1/completions", json={**body, "max_tokens": 8}
            ) as answer:
                lines = (line for line in answer.iter_lines() if '"text"' in line)
                next(lines)  # the opening, which has no text yet
                next(lines, None)
                theirs.append(time.perf_counter() - begun)
    ours, theirs = ours[1:], theirs[1:]  # the first of each warms up
    return {
        "first_token_model": name,
        "prompt_ms": 1000 * statistics.median(ours),
        "first_token_ms": 1000 * statistics.median(theirs),
        "first_token_ratio": statistics.median(theirs) / statistics.median(ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Load, break and kill the service; print what that did."
    )
    parser.add_argument("--requests", type=int, default=2000, help="of 32 clients")
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=20, help="of the first token")
    parser.add_argument(
        "--first-token",
        metavar="MODEL",
        help="time only the first token of this model, which is in the pool's packages",
    )
    parser.add_argument("--json", action="store_true", help="one object as JSON")
    options = parser.parse_args()
    for name in ("requests", "repeats"):
        if getattr(options, name) < 2:
            parser.error(f"--{name} is at least 2, received {getattr(options, name)}")
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name), options)
    if options.json:
        print(json.dumps(found))
    else:
        width = max(map(len, found))
        for key, value in found.items():
            shown = f"{value:.3f}" if isinstance(value, float) else value
            print(f"{key:<{width}}  {shown}")


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    if options.first_token:
        cards = [{"model_name": options.first_token, "source": options.first_token}]
    else:
        cards = make_models(folder)
    process = Process(cards, folder)
    try:
        process.wait()
        found = first_token(cards, process.url, options.repeats)
        if options.first_token:
            return found
        found |= under_load(process, folder, options.requests)
        found |= nonsense(process.url, folder, options.malformed, options.json)
    finally:
        process.stop()
    return found | killed(cards, folder, options.kills)


if __name__ == "__main__":
    main()
