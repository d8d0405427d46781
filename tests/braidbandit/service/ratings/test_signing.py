"""Tokens hold for one decision of one folder."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.service.ratings.signing import VARIABLE, Signer


def test_a_folder_keeps_its_secret(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    token = Signer.of_folder(tmp_path).token("d")
    assert Signer.of_folder(tmp_path).signed("d", token)
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert not Signer.of_folder(tmp_path / "other").signed("d", token)
    file.write_bytes(b"short")
    with pytest.raises(ValueError, match="damaged"):
        Signer.of_folder(tmp_path)


def test_a_secret_in_the_environment_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "s" * 32)
    token = Signer.of_folder(tmp_path).token("d")
    assert not list(tmp_path.iterdir())
    assert Signer.of_folder(tmp_path).signed("d", token)
    assert "s" * 8 not in repr(Signer.of_folder(tmp_path))
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ValueError, match="at least 32"):
        Signer.of_folder(tmp_path)


@given(st.text(), st.text(), st.text())
def test_only_the_token_of_a_decision_is_taken(decision, other, junk):
    signer = Signer(b"1" * 32)
    token = signer.token(decision)
    assert signer.signed(decision, token)
    assert signer.signed(other, token) == (other == decision)
    assert not signer.signed(decision, junk)
    # A text is no decision: its fingerprint is no token.
    assert not signer.signed(decision, signer.fingerprint(decision))
