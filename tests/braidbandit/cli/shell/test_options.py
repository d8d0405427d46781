import pytest
import typer

from braidbandit.cli.shell.options import number, weights


def test_preferences():
    assert weights([]) is None
    assert weights(["quality=1", " latency = 0.2"]) == {"quality": 1, "latency": 0.2}


@pytest.mark.parametrize(
    "wrong",
    ["quality", "quality=much", "=", "qualty=1", "=1", "quality=nan", "quality=-1"],
)
def test_what_is_no_preference_is_refused(wrong):
    with pytest.raises(typer.BadParameter, match="expected one of quality") as told:
        weights([wrong])
    assert repr(wrong) in str(told.value.message)


def test_numbers_within_their_bounds():
    assert [number(0, 1)(value) for value in (None, 0.0, 1.0)] == [None, 0.0, 1.0]
    assert number(0)(1e9) == 1e9


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.1, 2.0])
def test_a_number_out_of_its_bounds_is_said(wrong):
    said = f"expected a number from 0 to 1, received {wrong}"
    with pytest.raises(typer.BadParameter, match=said):
        number(0, 1)(wrong)
    if not wrong == 2:
        with pytest.raises(typer.BadParameter, match="a number from 0, received"):
            number(0)(wrong)
