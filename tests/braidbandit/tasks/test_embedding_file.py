"""Embeddings on disk: bounded, shared, made anew where damaged, gone when forgotten."""

import logging
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from braidbandit.tasks import embedding_file
from braidbandit.tasks.embedding_file import (
    NAME,
    EmbeddingFile,
    forget,
    forget_folder,
    holds_embeddings,
)

MANY = 2**28


def key(number):
    return f"{number:032x}"


def vectors(numbers, width=384):
    return {key(n): np.random.default_rng(n).standard_normal(width) for n in numbers}


def equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_every_bit_is_kept(tmp_path):
    given = vectors(range(40))
    given[key(99)] = np.array([-0.0, 5e-324, 1e308, np.pi])
    EmbeddingFile(tmp_path, MANY).write(given)
    found = EmbeddingFile(tmp_path, MANY).read([*given, key(1000)])
    equal(found, given)
    assert np.signbit(found[key(99)][0])
    again = EmbeddingFile(tmp_path, MANY)
    again.write({key(0): np.ones(3)})
    equal(again.read([key(0)]), {key(0): np.ones(3)})


def test_nothing_is_made_by_looking(tmp_path):
    assert EmbeddingFile(tmp_path / "none", MANY).read([key(0)]) == {}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("width", [12, 384, 600, 5000])
@pytest.mark.parametrize("at_once", [1, 50, 2000])
def test_it_never_grows_beyond_its_limit(tmp_path, width, at_once):
    limit = 2**19
    file = EmbeddingFile(tmp_path, limit)
    enough = 3 * limit // (8 * width)
    for start in range(0, min(enough, 6000), at_once):
        batch = dict.fromkeys(map(key, range(start, start + at_once)), np.ones(width))
        file.write(batch)
        assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= limit
    last = start + at_once - 1
    assert key(last) in file.read([key(last)])
    # Most of the room is used.
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        (kept,) = db.execute("SELECT count(*) FROM embeddings").fetchone()
    assert kept * 8 * width > limit / 8


def test_what_was_not_used_for_longest_is_evicted(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_file, "_today", lambda: 100)
    file = EmbeddingFile(tmp_path, 2**20)
    file.write(vectors(range(100)))
    monkeypatch.setattr(embedding_file, "_today", lambda: 101)
    assert len(file.read([key(n) for n in range(50)])) == 50
    for n in range(100, 250):
        file.write(vectors([n]))
    assert len(file.read([key(n) for n in range(50)])) == 50
    assert len(file.read([key(n) for n in range(50, 100)])) < 50


def test_a_lower_limit_makes_the_file_smaller(tmp_path):
    EmbeddingFile(tmp_path, MANY).write(vectors(range(500)))
    assert (tmp_path / NAME).stat().st_size > 2**20
    file = EmbeddingFile(tmp_path, 2**18)
    file.write(vectors([1000]))
    assert (tmp_path / NAME).stat().st_size <= 2**18
    assert key(1000) in file.read([key(1000)])


@pytest.mark.parametrize("limit", [0, 1, 10_000])
def test_where_nothing_fits_nothing_is_kept(tmp_path, limit):
    file = EmbeddingFile(tmp_path, limit)
    file.write(vectors(range(5)))
    assert file.read([key(n) for n in range(5)]) == {}


def middle(whole, new):
    at = len(whole) // 2
    return whole[:at] + new + whole[at + len(new) :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:7],
        lambda whole: whole[:90],
        lambda whole: whole[:5000],
        lambda whole: whole[:-1],
        lambda whole: whole[:-10_000],
        lambda whole: b"PK\x03\x04" + whole[4:],
        lambda whole: whole[:100] + bytes(8000) + whole[8100:],
        lambda whole: middle(whole, bytes(20_000)),
        lambda whole: middle(whole, b"\xff" * 40_000),
        lambda whole: b"not a database at all, and of no use" * 99,
        lambda whole: whole.replace(b"BrEm", b"Else"),
    ],
)
def test_what_is_damaged_is_made_anew(tmp_path, damage):
    """Nothing that is found is wrong, and all is found once it is written again."""
    given = vectors(range(60))
    EmbeddingFile(tmp_path, MANY).write(given)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(damage(whole))
    file = EmbeddingFile(tmp_path, MANY)
    for name, vector in file.read(list(given)).items():
        np.testing.assert_array_equal(vector, given[name])
    file.write(given)
    equal(file.read(list(given)), given)


def test_a_flipped_bit_is_noticed(tmp_path):
    given = vectors([1, 2])
    EmbeddingFile(tmp_path, MANY).write(given)
    whole = (tmp_path / NAME).read_bytes()
    at = whole.index(given[key(1)].tobytes())
    flipped = bytes([whole[at + 100] ^ 4])
    (tmp_path / NAME).write_bytes(whole[: at + 100] + flipped + whole[at + 101 :])
    assert list(EmbeddingFile(tmp_path, MANY).read([key(1), key(2)])) == [key(2)]


def test_it_may_be_deleted_or_replaced_at_any_time(tmp_path):
    file = EmbeddingFile(tmp_path / "kept", MANY)
    file.write(vectors([0]))
    shutil.rmtree(tmp_path / "kept")
    assert file.read([key(0)]) == {}
    file.write(vectors([1]))
    EmbeddingFile(tmp_path / "other", MANY).write(vectors([2]))
    (tmp_path / "other" / NAME).replace(tmp_path / "kept" / NAME)
    equal(file.read([key(1), key(2)]), vectors([2]))


def test_trouble_is_told_once_and_ends_no_call(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    file = EmbeddingFile(tmp_path / "file", MANY)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            file.write(vectors([number]))
            assert file.read([key(number)]) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_file_that_somebody_holds_ends_no_call(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_file, "_PATIENCE", 0.05)
    file = EmbeddingFile(tmp_path, MANY)
    file.write(vectors([0]))
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        file.close()
        file.write(vectors([1]))
        assert file.read([key(0)]) == {}
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            forget(tmp_path / NAME)
    file.write(vectors([1]))
    assert set(file.read([key(0), key(1)])) == {key(0), key(1)}


WRITER = """
import sys
from pathlib import Path
import numpy as np
from braidbandit.tasks.embedding_file import EmbeddingFile
file = EmbeddingFile(Path(sys.argv[1]), 2**28)
for number in range(int(sys.argv[2]), 200, 2):
    file.write({f"{number:032x}": np.full(384, float(number))})
"""


def test_processes_write_at_the_same_time(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)])
        for number in range(2)
    ]
    assert [writer.wait() for writer in writers] == [0] * 2
    found = EmbeddingFile(tmp_path, MANY).read([key(n) for n in range(200)])
    assert len(found) == 200
    for number in range(200):
        assert found[key(number)].tolist() == [float(number)] * 384


def test_what_is_forgotten_is_in_no_byte_of_the_folder(tmp_path):
    given = vectors(range(30))
    in_use = EmbeddingFile(tmp_path, MANY)
    in_use.write(given)
    former = tmp_path / f"{key(1)}.npy"
    np.save(former, given[key(1)])
    forget_folder(tmp_path)
    assert not former.exists()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for vector in given.values():
        assert vector[:4].tobytes() not in left
        assert vector[-4:].tobytes() not in left
    assert in_use.read(list(given)) == {}
    in_use.write(given)
    equal(EmbeddingFile(tmp_path, MANY).read(list(given)), given)


def test_what_cannot_be_emptied_is_removed(tmp_path):
    EmbeddingFile(tmp_path, MANY).write(vectors([0]))
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:300])
    (tmp_path / f"{NAME}-journal").write_bytes(b"")
    forget(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"{NAME}-journal").write_bytes(b"of a database that is gone")
    forget(tmp_path / f"{NAME}-journal")
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_known_under_any_name(tmp_path):
    EmbeddingFile(tmp_path, MANY).write(vectors([0]))
    copy = tmp_path / "of monday.db"
    shutil.copyfile(tmp_path / NAME, copy)
    with closing(sqlite3.connect(tmp_path / "mine.db")) as mine:
        mine.execute("CREATE TABLE embeddings (key BLOB)")
        mine.commit()
    (tmp_path / "short").write_bytes(b"x")
    known = {file.name for file in tmp_path.iterdir() if holds_embeddings(file)}
    assert known == {NAME, copy.name}
    forget(copy)
    assert not copy.exists()


def test_files_of_earlier_versions_go_when_the_database_is_made(tmp_path):
    np.save(tmp_path / f"{key(1)}.npy", np.ones(3))
    np.save(tmp_path / "mine.npy", np.ones(3))
    EmbeddingFile(tmp_path, MANY).write(vectors([0]))
    assert {file.name for file in tmp_path.iterdir()} == {NAME, "mine.npy"}


def test_nothing_is_unpickled(tmp_path):
    """Whoever can write to the folder can give wrong numbers, and run nothing."""
    file = EmbeddingFile(tmp_path, MANY)
    file.write(vectors([0]))
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        db.execute("UPDATE embeddings SET vector = 'text'")
        db.commit()
    assert file.read([key(0)]) == {}
