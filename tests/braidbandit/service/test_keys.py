"""Keys are told apart by their hashes, and short ones are none."""

import pytest

from braidbandit.service.keys import LOCAL, Caller, Keys, hash_key, new_key
from braidbandit.service.settings import KEY_VARIABLE, KeySettings


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_without_keys_everybody_is_local():
    keys = Keys([])
    assert not keys
    assert keys.caller(None) is LOCAL
    assert LOCAL.may("admin")


def test_whose_key_it_is():
    mine, other = new_key(), new_key()
    keys = Keys(
        [
            KeySettings(name="mine", hash=hash_key(mine), roles=["feedback"]),
            KeySettings(name="other", hash=hash_key(other), roles=["admin"]),
        ]
    )
    caller = keys.caller(mine)
    assert caller == Caller("mine", frozenset({"feedback"}))
    assert caller.may("feedback")
    assert not caller.may("generate")
    assert keys.caller(other).may("generate")
    for wrong in (None, "", mine[:-1], mine + " ", "é" * 40, "\ud800" * 40):
        assert keys.caller(wrong) is None
    assert mine not in repr(keys)
    assert hash_key(mine) not in repr(keys)


def test_a_key_in_the_environment_may_do_everything(monkeypatch):
    key = new_key()
    monkeypatch.setenv(KEY_VARIABLE, key)
    keys = Keys([])
    assert keys.caller(key).may("admin")
    assert keys.caller(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(ValueError, match="at least 32"):
        Keys([])


def test_keys_differ_and_are_long():
    assert new_key() != new_key()
    assert len(new_key()) >= 32
    with pytest.raises(ValueError, match="31"):
        hash_key("k" * 31)
