import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

from braidbandit.recommender.state_files import read_state, write_state


@pytest.fixture
def saved(tmp_path):
    write_state(tmp_path / "s", {"price": 0.1}, {"a": np.arange(3.0)})
    return tmp_path / "s"


def edit(folder, **changes):
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_round_trip_and_replacement(saved):
    write_state(saved, {"price": 0.2}, {"a": np.arange(4.0)})
    manifest, arrays = read_state(saved)
    assert manifest["price"] == 0.2
    assert arrays["a"].tolist() == [0, 1, 2, 3]
    assert len(list(saved.glob("[!.]*"))) == 2


def test_a_crash_before_the_manifest_leaves_the_old_state(saved, monkeypatch):
    from braidbandit.recommender import state_files as state

    write = state.write_atomic

    def crash(path, blob):
        if path.name == "manifest.json":
            raise OSError("disk full")
        write(path, blob)

    monkeypatch.setattr(state, "write_atomic", crash)
    with pytest.raises(OSError, match="disk full"):
        write_state(saved, {"price": 0.9}, {"a": np.zeros(9)})
    manifest, arrays = read_state(saved)
    assert manifest["price"] == 0.1
    assert arrays["a"].tolist() == [0, 1, 2]


def test_savers_at_once_take_turns(tmp_path):
    def save(number):
        write_state(tmp_path, {"x": number}, {"a": np.full(1000, float(number))})
        manifest, arrays = read_state(tmp_path)
        return arrays["a"][0] == manifest["x"]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(save, range(40)))
    assert len(list(tmp_path.glob("arrays-*"))) == 1


def test_a_reader_without_the_lock_sees_a_state(saved, monkeypatch):
    from braidbandit.recommender import state_files as state

    def refuse(path, timeout):
        raise PermissionError(f"read-only: {path}")

    with monkeypatch.context() as patch:
        patch.setattr(state, "FileLock", refuse)
        assert read_state(saved)[0]["price"] == 0.1

    unread, check = [1], state._manifest

    def save_in_between(text, where):
        if unread:
            unread.pop()
            write_state(saved, {"price": 0.2}, {"a": np.ones(2)})
        return check(text, where)

    monkeypatch.setattr(state, "FileLock", lambda path, timeout=-1: nullcontext())
    monkeypatch.setattr(state, "_manifest", save_in_between)
    manifest, arrays = read_state(saved)
    assert (manifest["price"], arrays["a"].tolist()) == (0.2, [1.0, 1.0])


def test_reading_adds_no_file(saved, tmp_path):
    copied = shutil.copytree(saved, tmp_path / "copy")
    (copied / ".lock").unlink()
    before = sorted(copied.iterdir())
    assert read_state(copied)[0]["price"] == 0.1
    assert sorted(copied.iterdir()) == before


def test_damage_is_found(saved):
    file = next(saved.glob("*.safetensors"))
    blob = bytearray(file.read_bytes())
    blob[-1] ^= 1
    file.write_bytes(blob)
    with pytest.raises(ValueError, match="does not match"):
        read_state(saved)
    file.unlink()
    with pytest.raises(ValueError, match="no arrays file"):
        read_state(saved)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 99}, "upgrade"),
        ({"kind": "other"}, "other"),
        ({"arrays": "../arrays"}, "no arrays file"),
        ({"format": None}, "damaged"),
    ],
)
def test_bad_manifests(saved, changes, match):
    edit(saved, **changes)
    with pytest.raises(ValueError, match=match):
        read_state(saved)


def test_no_state(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        read_state(tmp_path / "nowhere")
    (saved / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_state(saved)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_state(tmp_path / "file", {}, {})
