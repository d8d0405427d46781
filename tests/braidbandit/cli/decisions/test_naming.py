import pytest

from braidbandit import Ledger
from braidbandit.cli.decisions.naming import decision_id_in


@pytest.fixture
def ledger(tmp_path, agent):
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


def write(ledger, agent, *ids):
    from dataclasses import replace

    for name in ids:
        ledger.record_decision(replace(agent.recommend("x"), id=name))


def test_a_decision_by_id_by_its_beginning_and_the_last(ledger, agent):
    write(ledger, agent, "aaaa1", "aaaa2", "bbbb1", "bbbb")
    assert decision_id_in(ledger, "aaaa1") == "aaaa1"
    assert decision_id_in(ledger, "bbbb") == "bbbb"  # a whole id, and a beginning
    assert decision_id_in(ledger, "bbbb1") == "bbbb1"
    assert decision_id_in(ledger, "last") == "bbbb"
    with pytest.raises(ValueError, match="several decisions begin"):
        decision_id_in(ledger, "aaaa")
    with pytest.raises(KeyError, match="no decision 'cccc'"):
        decision_id_in(ledger, "cccc")
    with pytest.raises(ValueError, match="too short"):
        decision_id_in(ledger, "bbb")


def test_letters_are_only_letters(ledger, agent):
    write(ledger, agent, "aaaa1")
    with pytest.raises(KeyError):
        decision_id_in(ledger, "aa%1")
    with pytest.raises(KeyError):
        decision_id_in(ledger, "____")


def test_an_empty_ledger(ledger):
    with pytest.raises(KeyError, match="no decision yet"):
        decision_id_in(ledger, "last")
