"""Files are written whole or not at all, and read line by line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion._files import json_lines, making, replacing, write_atomic

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def contents(folder):
    return {f.name: f.read_text() for f in folder.iterdir()}


def interrupted(opened):
    """Write half of what there is to write, and stop."""
    with opened as work:
        (work / "a").write_text("half")
        raise KeyboardInterrupt


def overtaken(target):
    """Write a folder while another process writes one of that name."""
    with making(target) as work:
        (work / "a").write_text("mine")
        target.mkdir()
        (target / "a").write_text("theirs")


def test_files_of_a_folder_are_replaced_together_and_others_stay(tmp_path):
    (tmp_path / "old").write_text("stays")
    (tmp_path / "a").write_text("before")
    with replacing(tmp_path) as work:
        (work / "a").write_text("after")
        (work / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "before"
    assert contents(tmp_path) == {"old": "stays", "a": "after", "b": "new"}


def test_after_an_error_no_file_has_changed(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        interrupted(replacing(tmp_path))
    assert contents(tmp_path) == {"a": "before"}


def test_a_folder_appears_once_all_is_there(tmp_path):
    target = tmp_path / "deep" / "made"
    with making(target) as work:
        (work / "a").write_text("whole")
        assert not target.exists()
    assert contents(target) == {"a": "whole"}
    assert list(target.parent.iterdir()) == [target]


def test_after_an_error_there_is_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(making(tmp_path / "made"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_made_meanwhile_is_left_as_it_is(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(OSError, match="made"):
        overtaken(target)
    assert contents(target) == {"a": "theirs"}


@pytest.mark.parametrize("content", ["café\n", b"\x00\xff"])
def test_one_file_is_written_with_the_folders_above_it(tmp_path, content):
    file = tmp_path / "deep" / "file"
    write_atomic(file, "before")
    write_atomic(file, content)
    wanted = content.encode() if isinstance(content, str) else content
    assert file.read_bytes() == wanted
    assert list(file.parent.iterdir()) == [file]


def test_a_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "written", "")
    modes = {f.stat().st_mode for f in tmp_path.iterdir()}
    assert len(modes) == 1


@given(rows=st.lists(JSON), ascii_only=st.booleans())
def test_lines_come_back_with_their_numbers(tmp_path_factory, rows, ascii_only):
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    # A blank line between any two.
    file.write_text("\n\n".join(lines), encoding="utf-8")
    assert json_lines(file) == [(2 * i + 1, row) for i, row in enumerate(rows)]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("[1]\n", encoding="utf-8-sig")
    assert json_lines(file) == [(1, [1])]


def test_a_damaged_line_is_named_or_ends_what_is_read(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('[1]\n{"half": \n[3]\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: "):
        json_lines(file)
    assert json_lines(file, as_far_as_whole=True) == [(1, [1])]


@pytest.mark.parametrize("torn", [b"\xff\xfe", b"[2, \x80", b"\0\0\0", b"[2"])
def test_a_torn_line_spoils_no_other(tmp_path, torn):
    """What a power failure leaves may be no text at all."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"[1]\n" + torn)
    assert json_lines(file, as_far_as_whole=True) == [(1, [1])]
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
        json_lines(file)
