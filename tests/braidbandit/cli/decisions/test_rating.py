import json

from programs import run

from braidbandit import Ledger
from braidbandit.cli.shell.exits import Exit
from braidbandit.cli.shell.place import place_of


def rewards(folder):
    with Ledger(folder / "ledger.sqlite") as ledger:
        return [(decision.id, o.reward) for _, decision, o in ledger.pairs()]


def test_feedback_is_learnt_by_whoever_opens_the_agent(folder):
    last = run("feedback", "last", "4/5")
    assert (last["change"], last["reward"]) == ("learnt", 0.8)
    with place_of(folder, None).open_agent() as agent:
        assert agent.recommender.settled_[last["id"]] == 0.8
        assert agent.recommender.n_updates_ == 4


def test_the_same_again_counts_once_and_another_one_is_refused(folder):
    run("feedback", "last", "4/5")
    before = rewards(folder)
    assert run("feedback", "last", "0.8")["change"] == "repeated"
    refused = run("feedback", "last", "1/5", code=Exit.REFUSED)
    assert "--revise" in refused["error"]["message"]
    assert rewards(folder) == before


def test_revise_and_retract(folder):
    run("feedback", "last", "4/5")
    assert run("feedback", "last", "1/5", "--revise")["change"] == "revised"
    assert rewards(folder)[-1][1] == 0.2
    assert run("feedback", "last", "--retract")["reward"] is None
    assert run("feedback", "last", "--retract")["change"] == "repeated"
    assert len(rewards(folder)) == 3
    with place_of(folder, None).open_agent() as agent:
        assert agent.recommender.n_updates_ == 3


def test_nothing_to_revise_or_take_back(folder):
    for how in (["0.5", "--revise"], ["--retract"]):
        found = run("feedback", "last", *how, code=Exit.NOT_FOUND)
        assert "outcome" in found["error"]["message"]


def test_a_decision_of_another_encoder_is_refused_and_the_ledger_stays(folder):
    file = folder / "policy" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "encoder_hash": "0" * 16}))
    before = rewards(folder)
    found = run("feedback", "last", "4/5", code=Exit.REFUSED)
    assert "was made with encoder" in found["error"]["message"]
    assert rewards(folder) == before


def test_a_braid_that_was_not_shown_is_not_rated(folder):
    with Ledger(folder / "ledger.sqlite") as ledger:
        last = ledger.decision(ledger.ids(most=1)[0])
    file = folder / "policy" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["catalogue"]["unfit"] = {last.braid.id: "worse than its anchor"}
    file.write_text(json.dumps(manifest))
    found = run("feedback", "last", "4/5", code=Exit.REFUSED)
    assert "worse than its anchor" in found["error"]["message"]
