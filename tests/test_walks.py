"""The three walks through the code stay as short as `walks.LIMITS` has them."""

from functools import cache

import pytest
import walks


@cache
def around_a_decision():
    return walks.around_a_decision()


def entered(walk):
    if walk == "prompt and one token":
        pytest.importorskip("fusion", exc_type=ImportError)
        return walks.around_a_token()
    return around_a_decision()[list(walks.LIMITS).index(walk)]


@pytest.mark.parametrize("what", walks.Limit._fields)
@pytest.mark.parametrize("walk", walks.LIMITS)
def test_a_walk_is_within_its_limit(walk, what):
    found = getattr(walks.counted(entered(walk)), what)
    assert found <= getattr(walks.LIMITS[walk], what)


def test_the_count_is_of_calls_into_another_file():
    from braidbandit import Braid, PriorScales

    # Two calls of one file are one entry; back and forth are three.
    assert walks.counted(walks.files_entered(lambda: Braid("a").label())) == (1, 1)

    def there_and_back():
        Braid("a").label()
        PriorScales()
        Braid("a").label()

    assert walks.counted(walks.files_entered(there_and_back)) == (2, 3)


def test_helpers_do_not_count():
    for file, is_one in {
        "braidbandit/_checks.py": True,
        "fusion/_files.py": True,
        "braidbandit/bandit/linalg.py": True,
        "braidbandit/__init__.py": False,
        "braidbandit/bandit/settings.py": False,
        "fusion/braid/model.py": False,
    }.items():
        assert walks.is_helper(walks.Path(file)) == is_one, file
