import json

import numpy as np
import pytest

from braidbandit.state import read_state, write_state


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
    assert len(list(saved.iterdir())) == 2


def test_a_crash_before_the_manifest_leaves_the_old_state(saved, monkeypatch):
    import braidbandit.state as state

    write = state._write

    def crash(path, blob):
        if path.name == "manifest.json":
            raise OSError("disk full")
        write(path, blob)

    monkeypatch.setattr(state, "_write", crash)
    with pytest.raises(OSError, match="disk full"):
        write_state(saved, {"price": 0.9}, {"a": np.zeros(9)})
    manifest, arrays = read_state(saved)
    assert manifest["price"] == 0.1
    assert arrays["a"].tolist() == [0, 1, 2]


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
