import json

import pytest
import tiny

from fusion.report.__main__ import main, parser


@pytest.fixture
def given(monkeypatch, tmp_path, rows):
    """A command line of a tiny model; what is reckoned is noted, not done."""
    noted = {}

    def rows_for(pool, plans, calibration, held_out, seeds, positions, store, progress):
        noted.update(
            plans=plans,
            counts=(len(calibration), len(held_out)),
            rest=(seeds, positions, store, progress),
        )
        return rows

    monkeypatch.setattr("fusion.report.__main__.rows_for", rows_for)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(t) + "\n" for t in tiny.SPLIT_TEXTS))
    folder = str(tiny.tiny_folder("llama", tmp_path / "m"))
    options = ["--models", folder, "--texts", str(file), "--dtype", "float32"]
    return [*options, "--store", str(tmp_path / "store")], noted


def test_options_are_handed_on(given, tmp_path, capsys):
    options, noted = given
    more = ["--seeds", "3", "--positions", "7", "--per-domain", "1"]
    main([*options, *more, "--strategies", "router", "--places", "sparse"])
    assert noted["counts"] == (2, 2)
    assert noted["rest"] == (3, 7, tmp_path / "store", True)
    assert "best braid (a + b, router, final+output)" in capsys.readouterr().out


def test_json_has_the_rows_as_they_are(given, rows, capsys):
    options, noted = given
    main([*options, "--json"])
    assert json.loads(capsys.readouterr().out) == rows
    assert noted["rest"][-1] is False


def test_a_picture_too(given, tmp_path):
    main([*given[0], "--plot", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize("option", ["--seeds", "--positions", "--per-domain"])
def test_bad_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert f"{option} is 0; give at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("models", "more", "told"),
    [
        (["nobody"], [], "unknown model source 'nobody'"),
        (["nobody", "someone"], ["--carrying"], "unknown model source 'nobody'"),
        (["a", "b", "a"], [], "names 'a' twice"),
        (["a"], ["--carrying"], "the models ['a']; give two"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(given, capsys, models, more, told):
    with pytest.raises(SystemExit) as ended:
        main([*given[0], *more, "--models", *models])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--tasks", "--texts"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("{oops\n", "line 1"),
        ('["no object"]\n', "line 1"),
        ("", "calibration"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, capsys, option, content, told):
    file = tmp_path / "given.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main([option, str(file)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "report: error: " in said
    assert str(file) in said
    assert told in said


def test_help_is_of_the_command_that_was_typed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m fusion.report [")
    assert "%(" not in shown


def test_by_default_all_but_sparse_at_one_seed():
    options = parser().parse_args([])
    assert options.places == ("output", "final", "final+output")
    assert (options.seeds, options.positions, options.per_domain) == (1, 1000, None)
