from programs import invoke, run

from braidbandit.cli.shell.exits import Exit
from braidbandit.cli.shell.place import place_of


def test_compare(settings):
    with place_of(None, None).open_agent() as agent:
        for number in range(60):
            task = f"Task number {number}"
            decision = agent.forward(task)
            agent.learn_from_feedback(task, decision, number % 2)
    told = run("compare")
    assert told["logged"] == 0.5
    assert {row["estimator"] for row in told["rows"]} >= {"DR", "IPS"}
    assert "the log itself earned 0.500" in invoke("compare").output


def test_a_ledger_without_feedback(settings):
    run("recommend", "x")
    found = run("compare", code=Exit.REFUSED)
    assert "no feedback yet" in found["error"]["message"]
