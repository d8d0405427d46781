"""Files of weights, whole and damaged in every way that a copy can be."""

import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from braidbandit.cli.machine.doctor.files import damage_of


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": np.ones((4, 4), np.float32), "b": np.ones(3)}, file, {"x": "y"})
    return file


def gguf(file, tensors=2, version=3):
    """Write a file as llama.cpp has them: pairs of all kinds, then tensors."""

    def text(value):
        return struct.pack("<Q", len(value)) + value

    pairs = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"llama.block_count") + struct.pack("<II", 4, 2),
        text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"),
        text(b"scores") + struct.pack("<IIQff", 9, 6, 2, 0.5, 1.5),
        text(b"flag") + struct.pack("<IB", 7, 1),
    ]
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs)) + b"".join(pairs)
    for n in range(tensors):
        head += text(b"t%d" % n) + struct.pack("<IQQIQ", 2, 4, 4, 0, 64 * n)
    file.write_bytes(head + bytes(64 * tensors + 32))
    return file


def test_whole_files(weights, tmp_path):
    assert damage_of(weights) is None
    assert damage_of(gguf(tmp_path / "a.gguf")) is None
    other = tmp_path / "notes.txt"
    other.write_text("x")
    assert damage_of(other) is None


def test_a_copy_that_was_cut_off(weights, tmp_path):
    whole = weights.read_bytes()
    for length in (0, 4, 20, len(whole) - 1):
        weights.write_bytes(whole[:length])
        assert damage_of(weights), length
    weights.write_bytes(whole + b"x")
    assert "its header says" in damage_of(weights)
    file = gguf(tmp_path / "a.gguf")
    whole = file.read_bytes()
    for length in (0, 3, 10, 60, len(whole) - 150, len(whole) - 100):
        file.write_bytes(whole[:length])
        assert damage_of(file), length


def test_other_content(weights, tmp_path):
    weights.write_bytes(struct.pack("<Q", 4) + b"nope")
    assert "makes no sense" in damage_of(weights)
    weights.write_bytes(struct.pack("<Q", 2) + b"[]")
    assert "makes no sense" in damage_of(weights)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"<html>404 not found</html>")
    assert "no GGUF file" in damage_of(file)
    assert "version 9" in damage_of(gguf(file, version=9))


def test_a_file_that_may_not_be_read(shared, somebody):
    file = gguf(shared / "a.gguf")
    file.chmod(0)
    with somebody():
        assert "cannot be read" in damage_of(file)


@pytest.mark.parametrize("seed", range(20))
def test_damage_never_raises(tmp_path, seed):
    """Whatever is in a header, the answer is text or None."""
    rng = np.random.default_rng(seed)
    file = gguf(tmp_path / "a.gguf")
    content = bytearray(file.read_bytes())
    for place in rng.integers(4, 200, size=6):
        content[place] = rng.integers(256)
    file.write_bytes(bytes(content))
    assert damage_of(file) is None or isinstance(damage_of(file), str)
