"""Embeddings on disk: bounded, shared, made anew where damaged, gone when forgotten."""

import logging
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "close", "forget"]),
        st.lists(st.integers(0, 6), min_size=1, max_size=3),
    ),
    max_size=8,
)


@settings(max_examples=25)
@given(STEPS)
def test_any_steps_leave_what_a_dict_would_hold(steps):
    with tempfile.TemporaryDirectory() as name:
        file, held = EmbeddingFile(Path(name), MANY), {}
        for at, (step, numbers) in enumerate(steps):
            if step == "write":
                new = {key(n): np.array([n, at], dtype=float) for n in numbers}
                file.write(new)
                held |= new
            elif step == "close":
                file.close()
            elif step == "forget":
                forget_folder(Path(name))
                held.clear()
            asked = [key(n) for n in numbers]
            equal(file.read(asked), {k: held[k] for k in asked if k in held})
        file.close()


@pytest.mark.parametrize("day", [0, 1])
def test_what_is_found_counts_while_another_program_writes(tmp_path, monkeypatch, day):
    """Nor does it matter that its day cannot be noted, as where nobody may write."""
    monkeypatch.setattr(embedding_file, "_PATIENCE", 0.01)
    monkeypatch.setattr(embedding_file, "_today", lambda: 100)
    given_ = vectors(range(3))
    EmbeddingFile(tmp_path, MANY).write(given_)
    monkeypatch.setattr(embedding_file, "_today", lambda: 100 + day)
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        equal(EmbeddingFile(tmp_path, MANY).read(list(given_)), given_)


def test_the_day_of_use_is_noted(tmp_path, monkeypatch):
    for day, numbers in ((100, [0, 1, 2]), (101, [1]), (103, [2, 9])):
        monkeypatch.setattr(embedding_file, "_today", lambda day=day: day)
        file = EmbeddingFile(tmp_path, MANY)
        if day == 100:
            file.write(vectors(numbers))
        file.read([key(n) for n in numbers])
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        rows = db.execute("SELECT key, day FROM embeddings ORDER BY key").fetchall()
    assert [(name.hex(), day) for name, day in rows] == [
        (key(0), 100),
        (key(1), 101),
        (key(2), 103),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE theirs (x)",
        "CREATE TABLE embeddings (key BLOB, vector BLOB)",
    ],
)
def test_a_database_of_another_program_gives_way(tmp_path, statement):
    """It has the name of ours; nothing in it is taken for an embedding."""
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        db.execute(statement)
        db.commit()
    file = EmbeddingFile(tmp_path, MANY)
    assert file.read([key(0)]) == {}
    file.write(vectors([0]))
    equal(file.read([key(0)]), vectors([0]))


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA user_version = 2",
        "DROP TABLE embeddings",
        "UPDATE embeddings SET checksum = checksum + 1",
        "UPDATE embeddings SET vector = x'00'",
        "UPDATE embeddings SET vector = NULL, checksum = 0 WHERE 0",
        "DELETE FROM embeddings",
        "UPDATE embeddings SET key = x'ff' || key",
    ],
)
def test_what_somebody_changed_in_it_gives_no_wrong_number(tmp_path, change, caplog):
    given_ = vectors(range(3))
    EmbeddingFile(tmp_path, MANY).write(given_)
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        db.execute(change)
        db.commit()
    for _ in range(2):  # the first that opens it may make it anew
        file = EmbeddingFile(tmp_path, MANY)
        for name, vector in file.read(list(given_)).items():
            np.testing.assert_array_equal(vector, given_[name])
        file.write(vectors([7]))
        file.close()
    if "DROP" not in change:
        equal(EmbeddingFile(tmp_path, MANY).read([key(7)]), vectors([7]))


def test_the_vector_of_another_key_is_noticed(tmp_path):
    """Two whole rows that changed their places: each fits its sum, not its key."""
    EmbeddingFile(tmp_path, MANY).write(vectors([1, 2]))
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        one, two = (bytes.fromhex(key(n)) for n in (1, 2))
        for old, new in ((one, b"x"), (two, one), (b"x", two)):
            db.execute("UPDATE embeddings SET key = ? WHERE key = ?", (new, old))
        db.commit()
    assert EmbeddingFile(tmp_path, MANY).read([key(1), key(2)]) == {}


def test_folders_in_the_folder_do_no_harm(tmp_path):
    """Also where they are named as files of earlier versions, or as ours."""
    for name in (f"{key(1)}.npy", ".writing-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note").write_text("mine")
    EmbeddingFile(tmp_path, MANY).write(vectors([0]))
    equal(EmbeddingFile(tmp_path, MANY).read([key(0)]), vectors([0]))
    forget_folder(tmp_path)
    assert EmbeddingFile(tmp_path, MANY).read([key(0)]) == {}
    assert len(list(tmp_path.rglob("note"))) == 2


def test_a_folder_of_that_name_is_told_of_and_left_alone(tmp_path, caplog):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "note").write_text("mine")
    file = EmbeddingFile(tmp_path, MANY)
    file.write(vectors([0]))
    assert file.read([key(0)]) == {}
    forget_folder(tmp_path)
    assert (tmp_path / NAME / "note").read_text() == "mine"
    assert [record.message[:22] for record in caplog.records] == [
        "cannot keep embeddings"
    ]


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b"SQLite format 3\0" + bytes(52) + b"BrEm" + bytes(28), True),
        (b"a diary of 68 letters" + b"." * 47 + b"BrEm, and so on", False),
        (b"SQLite format 3\0" + bytes(84), False),
        (b"BrEm", False),
        (b"", False),
    ],
)
def test_a_file_is_known_by_its_whole_header(tmp_path, content, ours):
    (tmp_path / "any name").write_bytes(content)
    assert holds_embeddings(tmp_path / "any name") == ours


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (NAME, True),
        (f"{NAME}-journal", True),
        (f"{key(5)}.npy", True),
        (f"{key(5)[:-1]}.npy", False),
        (f"{key(5)}.npy.bak", False),
        (f"{key(5)[:-1]}G.npy", False),
        ("notes.npy", False),
    ],
)
def test_a_file_is_known_by_its_name(tmp_path, name, ours):
    (tmp_path / name).write_bytes(b"whatever it holds")
    assert holds_embeddings(tmp_path / name) == ours


def test_forgetting_where_there_is_nothing(tmp_path):
    forget_folder(tmp_path / "none")
    forget_folder(tmp_path)
    (tmp_path / "file").write_text("no folder")
    forget_folder(tmp_path / "file")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_threads_with_a_file_each_share_the_database(tmp_path):
    def work(start):
        file = EmbeddingFile(tmp_path, MANY)
        for number in range(start, 40, 4):
            file.write(vectors([number]))
            equal(file.read([key(number)]), vectors([number]))
        file.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    equal(
        EmbeddingFile(tmp_path, MANY).read([key(n) for n in range(40)]),
        vectors(range(40)),
    )
