"""Files are replaced whole or not at all, and read line by line."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit._files import (
    WRITING,
    cut_to_whole_lines,
    damaged,
    parsed_lines,
    read_lines,
    replacing,
    write_atomic,
)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_replaced_once_all_is_written(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with replacing(path) as file:
        file.write(b"aft")
        assert path.read_bytes() == b"before"
        file.write(b"er")
        [beside] = set(names(tmp_path)) - {"a"}
        assert beside.startswith(WRITING)
    assert path.read_bytes() == b"after"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_has_changed(tmp_path, error):
    path = tmp_path / "a"
    write_atomic(path, b"before")

    def break_off():
        with replacing(path) as file:
            file.write(b"half of what")
            raise error

    with pytest.raises(error):
        break_off()
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a"]


def test_a_disk_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_atomic(path, b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"after")
    assert (path.read_bytes(), names(tmp_path)) == (b"before", ["a"])
    write_atomic(path, b"after", durably=False)  # does not wait for the disk
    assert path.read_bytes() == b"after"


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "a", b"x")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_who_may_read_it(tmp_path):
    """Only its owner, unless more is said; and never more than the umask allows."""
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "own", b"x")
        with replacing(tmp_path / "shared", mode=0o666) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / f).stat().st_mode) for f in ("own", "shared")]
    assert modes == [0o600, 0o640]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(values), st.booleans())
def test_lines_come_back_as_they_were_written(rows, ascii_only):
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    found = list(enumerate(rows, start=1))
    assert list(parsed_lines(lines)) == found
    assert list(parsed_lines(line.encode() for line in lines)) == found


def test_blank_lines_count_but_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n[2]')
    assert list(read_lines(path)) == [(1, {"a": 1}), (4, [2])]
    assert list(read_lines(path, only_whole=True)) == [(1, {"a": 1})]


@pytest.mark.parametrize("line", [b'{"a": ', b"\xff\xfe\xfa", b"[" * 100_000])
def test_a_damaged_line_is_named_and_those_before_it_are_given(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n\n2\n" + line + b"\n3\n")
    found = []
    with pytest.raises(ValueError, match=f"^line 4 of {path} is damaged: .*; mend it$"):
        found.extend(value for _, value in read_lines(path, advice="; mend it"))
    assert found == [1, 2]


def test_a_reader_goes_no_further_than_it_is_asked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" * 100_000 + b"damaged\n")
    reader = read_lines(path)
    assert next(reader) == (1, 1)
    reader.close()


def test_the_error_says_where_it_was_if_that_is_known(tmp_path):
    assert str(damaged(3, None, KeyError("a"))) == "line 3 is damaged: KeyError('a')"
    assert str(damaged(3, tmp_path, KeyError("a"), "; why")) == (
        f"line 3 of {tmp_path} is damaged: KeyError('a'); why"
    )


@pytest.mark.parametrize(
    ("content", "left"),
    [(b"", b""), (b"half", b""), (b"1\n", b"1\n"), (b"1\n\n2", b"1\n\n")],
)
def test_half_a_line_at_the_end_is_cut_off(tmp_path, content, left):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    path.chmod(0o444 if content == left else 0o644)  # what is whole is only read
    cut_to_whole_lines(path)
    assert path.read_bytes() == left
