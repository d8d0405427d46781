"""Prompts scored on two real tiny models, stopped and gone on with."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from programs import invoke, run

from braidbandit import MetaBraider
from braidbandit.cli.measuring.probing import told
from braidbandit.cli.shell.exits import Exit
from braidbandit.cli.shell.place import place_of

pytest.importorskip("braidbandit.evaluation.probe_plan")
tiny = pytest.importorskip("tiny")

PROMPTS = [f"The dog number {n} sleeps" for n in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [tiny.tiny_folder(name, folder / name) for name in ("llama", "gpt2")]


@pytest.fixture
def project(models, tmp_path, monkeypatch):
    """Settings of two tiny models, and prompts that one letter judges."""
    monkeypatch.chdir(tmp_path)
    pool = "".join(
        f'[[pool]]\nmodel_name = "{folder.name}"\nsource = "{folder}"\n'
        for folder in models
    )
    learning = '[learning]\nencoder = "words"\nrandom_state = 0\n'
    catalogue = '[catalogue]\nlayer_sets = ["output"]\nstrategies = ["router"]\n'
    (tmp_path / "braid.toml").write_text(learning + catalogue + pool)
    rows = [{"prompt": text, "contains": ["a", "e", "t", "q"]} for text in PROMPTS]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_it_goes_on_where_it_was_and_the_agent_starts_from_it(project):
    options = ("--singles", "--tokens", "4")
    first = run("probe", project, "--most", "5", *options)
    assert (first["added"], first["scored"], first["cells"]) == (5, 5, 12)
    assert first["next"]["scores"] == 7
    scores = (project.parent / "braid" / "probe").glob("scores-*.jsonl")
    (file,) = scores
    before = file.read_text()
    second = run("probe", project, "--save", "table.npz", *options)
    assert (second["added"], second["scored"]) == (7, 12)
    assert second["next"]["scores"] == 0
    assert file.read_text().startswith(before)
    assert run("probe", project, *options)["added"] == 0
    assert run("state", "inspect")["policy"]["warm_started"]
    with np.load("table.npz", allow_pickle=False) as table:
        assert table["rewards"].shape == (6, 2)
    replayed = run("replay", "table.npz", "--rounds", "4", "--probes", "2")
    assert replayed["arms"] == 2


def test_what_was_decided_before_is_not_lost(project):
    decided = run("recommend", "The dog sleeps")
    run("feedback", decided["id"], "4/5")
    waiting = run("recommend", "The cat sleeps")
    run("probe", project, "--singles", "--tokens", "4", "--most", "4")
    with place_of(None, None).open_agent() as agent:
        assert agent.recommender.settled_ == {decided["id"]: 0.8}
        assert waiting["id"] in agent.recommender.pending_


def test_a_braid_is_calibrated_when_its_first_score_comes_up(project, monkeypatch):
    done = []

    def calibrate(agent, braid, *, progress):
        done.append(braid)
        fit = not braid.is_control
        agent._judge(braid, SimpleNamespace(fit=fit, bits_after=2.0, bits_before=1.0))

    def model(agent, braid):
        done.append("answer")
        return SimpleNamespace(generate=lambda *_, **__: "a")

    project.write_text("\n".join(project.read_text().splitlines()[:2]))
    monkeypatch.setattr(MetaBraider, "calibrate", calibrate)
    monkeypatch.setattr(MetaBraider, "create_braided_model", model)
    said = invoke("probe", project)
    assert "a braid is calibrated before its first score" in said.stderr
    # Two models alone and two braids; both controls turned out unfit, and are out.
    assert "8 scores added, 8 of 8 known" in said.stdout
    assert "own states" not in said.stdout
    assert said.stderr.count("own states") == 2 * len(("building", "left out"))
    assert (len(done), len(set(done))) == (4 + 8, 4 + 1)
    fit = [at for at, what in enumerate(done) if what != "answer" and what.donors]
    assert [done[at + 1] for at in fit] == ["answer", "answer"]


def test_nothing_judges_and_nobody_is_asked(project):
    project.write_text("\n".join(json.dumps({"prompt": p}) for p in PROMPTS))
    found = run("probe", project, "--singles", code=Exit.REFUSED)
    assert "--ask" in found["error"]["message"]
    assert "line 1 of" in found["error"]["message"]
    assert not (project.parent / "braid").exists()


def test_a_person_judges(project):
    project.write_text("\n".join(json.dumps({"prompt": p}) for p in PROMPTS[:2]))
    options = ["--singles", "--tokens", "4", "--ask"]
    done = invoke("probe", project, *options, input="5\n4/5\nup\n1/5\n0.5\n")
    assert done.exit_code == 0, done.output
    assert "4 scores added, 4 of 4 known" in done.stdout
    assert PROMPTS[0] in done.stderr
    assert "a rating is such as" in done.stderr  # of the 5
    assert "llama" not in done.stderr  # which arm wrote it is not shown


def test_a_gain_that_is_not_worth_it_stops(project):
    told = run("probe", project, "--singles", "--least-gain", "2", code=Exit.REFUSED)
    assert "nothing is scored yet" in told["error"]["message"]


def test_every_prompt_once(project):
    project.write_text(project.read_text() * 2)
    assert run("probe", project, "--singles", code=Exit.REFUSED)["error"]


def test_what_is_said_when_all_is_scored():
    assert told(0, 0.0, 0.0) == "every prompt is scored on every arm"
