try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from braidbandit.cli.machine.settings_text import settings_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXT, st.floats(0, 1e9), st.booleans())
def test_whatever_a_name_has_in_it_is_read_back(name, price, flag):
    card = {"model_name": name, "price": {"input": price, "output": 0.0}, "x": flag}
    text = settings_text([card, {"model_name": "b"}], {"folder": name}, Path("/x"))
    read = tomllib.loads(text)
    assert read == {"learning": {"folder": name}, "pool": [card, {"model_name": "b"}]}


def test_paths_below_the_file_are_written_from_there(tmp_path):
    pool = [
        {"model_name": "a", "source": str(tmp_path / "models" / "a.gguf")},
        {"model_name": "b", "source": "/elsewhere/b.gguf"},
        {"model_name": "c", "source": "org/c", "adapter": str(tmp_path / "c")},
        {"model_name": "d", "source": str(tmp_path), "endpoint": "http://h/v1"},
    ]
    read = tomllib.loads(settings_text(pool, {}, tmp_path))["pool"]
    assert [card["source"] for card in read] == [
        "models/a.gguf",
        "/elsewhere/b.gguf",
        "org/c",
        str(tmp_path),
    ]
    assert read[2]["adapter"] == "c"
