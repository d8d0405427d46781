import json
import sqlite3
from contextlib import closing

import pytest
from programs import run
from toy_embedder import embed

from braidbandit import BraidRecommender, Catalogue, TaskEncoder
from braidbandit.cli.machine.doctor.policy import check_encoder, check_policy
from braidbandit.cli.shell.exits import Exit


def edit(folder, **changes):
    file = folder / "policy" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_whole_policy(folder):
    assert check_policy(folder.parent / "none").level == "ok"
    found = check_policy(folder)
    assert found.level == "ok"
    assert "arms" in found.found


@pytest.mark.parametrize("name", ["manifest.json", "arrays-*.safetensors"])
def test_a_damaged_policy(folder, name):
    (file,) = (folder / "policy").glob(name)
    file.write_bytes(file.read_bytes()[:-20])
    found = check_policy(folder)
    assert found.level == "error"
    assert "damaged" in found.found
    assert found.fix.startswith(f"rm -r {folder / 'policy'}")


def test_the_fix_for_a_damaged_policy_is_one(folder):
    import shutil

    shutil.rmtree(folder / "policy")
    run("recommend", "Sort a list")
    assert run("state", "inspect")["policy"]["updates"] == 3


def test_a_policy_of_a_newer_version(folder):
    edit(folder, format=99)
    found = check_policy(folder)
    assert (found.level, found.fix) == (
        "error",
        "pip install --upgrade braidbandit",
    )


def test_an_encoder_of_another_state(folder):
    assert check_encoder(folder, "words").level == "ok"
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE decisions SET body = json_set(body, '$.encoder_hash', 'f00d') "
            "WHERE sequence <= 2"
        )
    found = check_encoder(folder, "words")
    assert found.level == "error"
    assert "2 decisions of the ledger were made with another encoder (f00d)" in (
        found.found
    )
    assert "state inspect" in found.fix


def test_another_encoder_in_the_settings(folder):
    settings = folder.parent / "braid.toml"
    settings.write_text(settings.read_text().replace('"words"', '"other/encoder"'))
    found = check_encoder(folder, "other/encoder")
    assert found.level == "error"
    assert "'other/encoder'" in found.found
    assert "set it back to 'words'" in found.fix
    assert run("recommend", "x", code=Exit.REFUSED)["error"]


def test_an_encoder_of_ones_own(tmp_path):
    catalogue = Catalogue.build(["a", "b"], layer_sets=("output",))
    own = BraidRecommender(catalogue, TaskEncoder(embedder=embed))
    own.save(tmp_path / "policy")
    found = check_encoder(tmp_path)
    assert found.level == "warning"
    assert "from Python" in found.fix


def test_the_model_of_an_encoder(tmp_path):
    assert check_encoder(tmp_path, "words").level == "ok"
    found = check_encoder(tmp_path, "nobody/has-this-encoder")
    assert found.level in ("warning", "error")  # by whether its library is installed
    assert found.fix
