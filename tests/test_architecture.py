"""The pages on architecture say what is so."""

import ast
import re
import sys

import house
import pytest

sys.path.insert(0, str(house.ROOT / "docs"))

import draw_architecture

PAGE = draw_architecture.PAGE.read_text("utf-8")
GLOSSARY = (house.ROOT / "docs/glossary.md").read_text("utf-8")


def test_the_picture_is_of_now():
    assert PAGE == draw_architecture.page(PAGE), "run python docs/draw_architecture.py"


def test_every_folder_has_its_line():
    known = [folder for folders in house.FOLDERS.values() for folder in folders]
    assert set(draw_architecture.WHAT) == set(known)


def test_files_that_are_named_are_there():
    named = set(re.findall(r"`((?:braidbandit|fusion|tests|docs)/[\w/.]*)`", PAGE))
    assert len(named) > 20
    missing = [name for name in sorted(named) if not (house.ROOT / name).exists()]
    assert not missing, f"docs/architecture.md names {missing}"


@pytest.mark.parametrize(
    ("name", "file"),
    re.findall(r"`(\w+)`(?:\s+(?:and\s+`\w+`\s+)?of)\s+`([\w/]+\.py)`", PAGE),
)
def test_what_is_named_of_a_file_is_in_it(name, file):
    tree = ast.parse((house.ROOT / file).read_text("utf-8"))
    found = {getattr(node, "name", getattr(node, "id", "")) for node in ast.walk(tree)}
    assert name in found


def test_the_glossary_is_short():
    words = re.findall(r"^\| (\w+) \|", GLOSSARY, re.M)[1:]
    assert len(words) == len(set(words)) <= 20
