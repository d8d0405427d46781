"""The number type of a machine: measured, kept, measured anew elsewhere."""

import json

import pytest
import tiny
import torch

from fusion import BraidConfig, BraidedLLM, Pool
from fusion.report.__main__ import main
from fusion.strands import machine


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What a machine would measure, and how often it did."""
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path))
    rates, calls = {"float32": 100.0, "bfloat16": 300.0}, []
    monkeypatch.setattr(machine, "_rates", lambda: calls.append(1) or dict(rates))
    return rates, calls, tmp_path / "machine.json"


def test_the_faster_type_is_taken_with_the_reason(measured):
    rates, _, file = measured
    found = machine.fastest_dtype()
    assert found.dtype is torch.bfloat16
    assert found.reason.startswith("bfloat16: ")
    assert "100 tokens" in found.reason
    assert "300 in bfloat16" in found.reason
    file.unlink()
    rates["bfloat16"] = 50.0
    assert machine.fastest_dtype().dtype is torch.float32


def test_rounding_has_to_be_worth_it(measured):
    rates, _, file = measured
    for half, wanted in ((119.0, torch.float32), (120.0, torch.bfloat16)):
        rates["bfloat16"] = half
        assert machine.fastest_dtype().dtype is wanted
        file.unlink()


def test_it_is_measured_once(measured):
    _, calls, _ = measured
    assert machine.fastest_dtype() == machine.fastest_dtype()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "",
        lambda kept: "[]",
        lambda kept: "null",
        lambda kept: json.dumps({**kept, "tokens_per_s": {"float32": 1}}),
        lambda kept: json.dumps({**kept, "machine": ["elsewhere", "2.0", 64]}),
    ],
)
def test_a_damaged_file_or_one_of_another_machine_is_made_anew(measured, damage):
    _, calls, file = measured
    wanted = machine.fastest_dtype()
    whole = file.read_text()
    file.write_text(damage(json.loads(whole)))
    assert machine.fastest_dtype() == wanted
    assert len(calls) == 2
    assert file.read_text() == whole


def test_it_works_where_nothing_can_be_kept(measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "file" / "below"))
    assert machine.fastest_dtype().dtype is torch.bfloat16


@pytest.fixture
def homeless(monkeypatch):
    """A user without a home folder, and nothing that names another one."""

    def no_home(path):
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    monkeypatch.delenv("BRAIDBANDIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_it_works_without_a_home(measured, homeless):
    assert machine.fastest_dtype().dtype is torch.bfloat16


def test_models_in_folders_need_no_home(homeless, tmp_path):
    folder = str(tiny.tiny_folder("llama", tmp_path / "m"))
    pool = Pool({"m": folder})
    assert pool.facts("m")["quantisation"] is None
    assert BraidedLLM(BraidConfig(anchor="m"), pool=pool).anchor.source == folder
    with pytest.raises(RuntimeError, match="set BRAIDBANDIT_CACHE to a folder"):
        assert pool.cache_dir


def test_a_report_with_a_store_needs_no_home(homeless, tmp_path, monkeypatch, capsys):
    command = "fusion.report.__main__"
    monkeypatch.setattr(f"{command}.rows_for", lambda *given: [str(given[6])])
    monkeypatch.setattr(f"{command}.packaged_texts", lambda: ([], []))
    folder = str(tiny.tiny_folder("llama", tmp_path / "m"))
    given = ["--models", folder, "--dtype", "float32", "--json"]
    main([*given, "--store", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == [str(tmp_path)]


def test_both_types_are_measured_for_real():
    random = torch.random.get_rng_state()
    rates = machine._rates()
    assert set(rates) == {"float32", "bfloat16"}
    assert min(rates.values()) > 0
    assert torch.equal(torch.random.get_rng_state(), random)
