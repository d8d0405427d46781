from pathlib import Path

import pytest

from fusion.strands.sources import Source, read_source


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("base", Source("base")),
        (Path("models/base"), Source("models/base")),
        ({"source": "base", "adapter": None}, Source("base")),
        ({"source": "base", "adapter": Path("a/b")}, Source("base", "a/b")),
        ({"adapter": "a/b"}, Source("legal", "a/b")),  # a name is its own source
    ],
    ids=str,
)
def test_a_source_comes_back_from_how_it_is_told(given, found):
    assert read_source("legal", given) == found
    assert read_source("legal", found.told()) == found


def test_a_plain_source_is_told_as_text():
    assert Source("base").told() == "base"
    assert Source("base", "a").told() == {"source": "base", "adapter": "a"}


def test_what_is_no_setting_of_a_source_is_refused():
    given = {"source": "base", "trust_remote_code": True, "revision": "main"}
    with pytest.raises(ValueError, match="'trust_remote_code'.*no code"):
        read_source("legal", given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "the source of 'legal' is text or a path.*received 3"),
        ("", "the source of 'legal'"),
        ({"source": "base", "adapter": ["a"]}, "the adapter of 'legal'"),
        ({"source": "base", "adapter": ""}, "the adapter of 'legal'"),
    ],
    ids=str,
)
def test_what_is_no_text_is_refused(given, says):
    with pytest.raises(TypeError, match=says):
        read_source("legal", given)
