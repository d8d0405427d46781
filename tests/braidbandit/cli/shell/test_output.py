import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from braidbandit.cli.machine.doctor.finding import ok
from braidbandit.cli.shell.output import as_json, table

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_whatever_is_found_is_one_document(value):
    json.loads(as_json(value), parse_constant=pytest.fail)


def test_numbers_of_numpy_paths_and_records():
    data = {
        "n": np.int64(3),
        "x": np.float64("nan"),
        "at": Path("a"),
        "f": ok("a", "b"),
    }
    assert json.loads(as_json(data)) == {
        "n": 3,
        "x": None,
        "at": "a",
        "f": {"name": "a", "level": "ok", "found": "b", "fix": ""},
    }


def test_a_table_shows_text_as_it_is_and_nothing_for_none():
    out = Console(file=io.StringIO(), width=60)
    out.print(table(("arm", "mean"), [("[bold]a[/]", 0.25), ("b", None)]))
    lines = out.file.getvalue().splitlines()
    assert lines[1].split() == ["[bold]a[/]", "0.250"]
    assert lines[2].split() == ["b"]
