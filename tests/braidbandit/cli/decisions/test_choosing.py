import pytest
from programs import invoke, run

from braidbandit import Ledger
from braidbandit.cli.shell.exits import Exit


def test_limits_are_kept(settings):
    told = run("recommend", "Sort a list", "--compute-budget", "0")
    assert told["relative_cost"] == 0
    assert told["models"] == ["coder-1b"]
    refused = run("recommend", "x", "--memory", "1", code=Exit.REFUSED)
    assert "memory" in refused["error"]["message"]


def test_the_budget_of_the_settings_is_the_default(settings):
    settings.write_text(
        settings.read_text().replace("[catalogue]", "compute_budget = 0.0\n[catalogue]")
    )
    assert run("recommend", "Sort a list")["relative_cost"] == 0


def test_a_task_from_standard_input(settings):
    assert run("recommend", "-", input="Sort a list\n")["id"]
    found = run("recommend", "-", input="  \n", code=Exit.REFUSED)
    assert "empty" in found["error"]["message"]


def test_bytes_that_are_no_text_are_refused(settings):
    found = run("recommend", "a\udcff", code=Exit.REFUSED)
    assert "half a character" in found["error"]["message"]


def test_a_dry_run_records_nothing(settings):
    told = run("recommend", "Sort a list", "--dry-run")
    assert told["rows"]
    with Ledger(settings.parent / "braid" / "ledger.sqlite") as ledger:
        assert ledger.counts()["decisions"] == 0


def test_an_unknown_type_is_refused(settings):
    found = run("recommend", "x", "--type", "cooking", code=Exit.REFUSED)
    assert "cooking" in found["error"]["message"]


def test_preferences_and_exclusions(settings):
    told = run("recommend", "x", "--prefer", "quality=1", "--prefer", "compute=0.5")
    again = run("recommend", "x", "--exclude", told["arm"])
    assert again["arm"] != told["arm"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--complexity", "nan"),
        ("--latency-ms", "nan"),
        ("--memory", "nan"),
        ("--compute-budget", "2.5"),
        ("--prefer", "qualty=1"),
    ],
    ids=" ".join,
)
def test_an_option_that_makes_no_sense_says_what_was_received(settings, wrong):
    found = run("recommend", "x", *wrong, code=Exit.USAGE)
    assert "expected" in found["error"]["message"]
    assert f"received {wrong[1]}" in found["error"]["message"].replace("'", "")


def test_a_preference_is_one_pair_an_option():
    said = " ".join(invoke("recommend", "--help").stdout.replace("│", "").split())
    assert "--prefer quality=1 --prefer latency=0.2" in said


def test_text_for_people(folder):
    said = invoke("recommend", "Sort a list").stdout
    assert "because" in said
    assert "afterwards: braidbandit feedback" in said
    table = invoke("table", "--kinds").stdout
    assert "code" in table.splitlines()[0]
    assert "5 decisions, 3 rated" in table


def test_a_rating_or_a_retraction(folder):
    for wrong in (["last"], ["last", "1", "--retract"]):
        done = invoke("feedback", *wrong)
        assert done.exit_code == Exit.USAGE
        assert "--retract" in done.output


def test_a_table_without_a_policy_is_of_the_ledger_alone(folder):
    (folder / "policy" / "manifest.json").write_text("{}")
    done = invoke("table", "--json")
    assert done.exit_code == Exit.DONE
    assert "the saved policy is left out" in done.stderr
    assert '"decisions": 4' in done.stdout


@pytest.mark.parametrize("command", ["table", "explain"])
def test_newer_feedback_is_in_what_is_shown(folder, command):
    run("feedback", "last", "0")
    if command == "table":
        assert sum(arm["rated"] for arm in run("table")["arms"]) == 4
    else:
        assert run("explain", "last")["outcome"]["reward"] == 0
