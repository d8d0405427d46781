import sqlite3

import numpy as np
import pytest
from safetensors.numpy import save_file

from braidbandit import TaskEncoder
from braidbandit.cli.machine.doctor.agent_folder import (
    check_embeddings,
    check_folder,
    check_kept,
    check_space,
)


def test_a_folder_that_can_be_written_to_or_made(tmp_path):
    assert check_folder(tmp_path).level == "ok"
    assert "will be made" in check_folder(tmp_path / "new" / "deeper").found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deeper", ["", "new/deeper"])
def test_a_folder_that_is_read_only(shared, somebody, deeper):
    shared.chmod(0o555)
    with somebody():
        found = check_folder(shared / deeper)
    assert found.level == "error"
    assert f"{shared} cannot be written to" in found.found
    assert f"chmod u+rwx {shared}" in found.fix


def test_a_ledger_that_is_read_only(shared, somebody):
    shared.chmod(0o777)
    (shared / "ledger.sqlite").write_bytes(b"")
    (shared / "ledger.sqlite").chmod(0o444)
    with somebody():
        found = check_folder(shared)
    assert found.level == "error"
    assert f"chmod u+rw {shared / 'ledger.sqlite'}" in found.fix


def test_a_file_in_the_place_of_the_folder(tmp_path):
    file = tmp_path / "braid"
    file.write_text("x")
    found = check_folder(file)
    assert (found.level, found.found) == ("error", f"{file} is a file")
    assert file.read_text() == "x"


def test_space(tmp_path):
    assert check_space(tmp_path / "new", least=1).level == "ok"
    full = check_space(tmp_path, least=2**60)
    assert full.level == "warning"
    assert "make room" in full.fix


def test_a_damaged_cache(tmp_path):
    assert check_kept("cache", tmp_path / "none").level == "ok"
    model = tmp_path / "strands" / "model-abc"
    model.mkdir(parents=True)
    file = model / "model.safetensors"
    save_file({"a": np.ones(100)}, file)
    (model / "config.json").write_text("{}")
    assert check_kept("cache", tmp_path).level == "ok"
    file.write_bytes(file.read_bytes()[:-8])
    found = check_kept("cache", tmp_path)
    assert (found.name, found.level) == ("cache", "error")
    assert str(file) in found.found
    # A converted model is made again where its folder is gone, not a file of it.
    assert found.fix.startswith(f"rm -r {model}:")


def test_damaged_trained_parts(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"lost")
    found = check_kept("trained parts", tmp_path)
    both = f"rm -r {tmp_path}/one.safetensors {tmp_path}/two.safetensors"
    assert found.fix.startswith(both)


def test_damaged_embeddings(tmp_path):
    kept = tmp_path / "embeddings"
    assert check_embeddings(tmp_path).level == "ok"

    def embed(texts):
        return [[float(len(text)), 1.0] for text in texts]

    embed.name = "lengths"
    TaskEncoder(embedder=embed, cache_dir=kept).embed([f"{n}" * n for n in range(300)])
    (file,) = kept.glob("*.sqlite")
    assert check_embeddings(tmp_path).level == "ok"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(file.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    file.write_bytes(bytes(content))
    for left in kept.glob("*-wal"):
        left.unlink()
    found = check_embeddings(tmp_path)
    assert found.level == "error"
    assert found.fix.startswith(f"rm {file}")
