"""The package as a whole: light to import, floors kept, names exported."""

import subprocess
import sys

import pytest

import braidbandit


@pytest.mark.parametrize("used", ["__version__", "BraidRecommender"])
def test_import_is_light(used):
    heavy = "torch transformers sentence_transformers sqlalchemy matplotlib".split()
    if used == "__version__":
        heavy.append("sklearn")
    code = (
        f"import sys, braidbandit; braidbandit.{used}; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_exports():
    for name in braidbandit.__all__:
        assert getattr(braidbandit, name).__doc__
        assert name in dir(braidbandit)
    with pytest.raises(AttributeError, match="nothing"):
        getattr(braidbandit, "nothing")  # noqa: B009
