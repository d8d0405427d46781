import pytest
import typer

from braidbandit.cli.options import weights


def test_preferences():
    assert weights([]) is None
    assert weights(["quality=1", " latency = 0.2"]) == {"quality": 1, "latency": 0.2}


@pytest.mark.parametrize("wrong", ["quality", "quality=much", "="])
def test_what_is_no_preference_is_refused(wrong):
    with pytest.raises(typer.BadParameter, match="expected such as"):
        weights([wrong])
