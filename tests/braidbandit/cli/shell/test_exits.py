import pytest

from braidbandit import EndpointError
from braidbandit.cli.shell.exits import Exit, exit_of, said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("decision"), Exit.NOT_FOUND),
        (FileNotFoundError("file"), Exit.NOT_FOUND),
        (ValueError("no"), Exit.REFUSED),
        (TypeError("no"), Exit.REFUSED),
        (ModuleNotFoundError("typer"), Exit.NO_PACKAGE),
        (EndpointError("down"), Exit.NO_ANSWER),
        (PermissionError("disk"), Exit.FAILED),
        (RuntimeError("home"), Exit.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_its_code(error, expected):
    assert exit_of(error) is expected


def test_a_key_error_is_said_without_quotes():
    assert said(KeyError("no such decision")) == "no such decision"
    assert said(ValueError()) == "ValueError"


def test_codes_are_the_documented_ones():
    from braidbandit.cli.commands import app

    documented = str(app.info.epilog)
    for code in Exit:
        assert f"{code.value} " in documented
