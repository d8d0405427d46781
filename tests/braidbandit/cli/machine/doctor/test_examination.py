import pytest

from braidbandit import ModelCard
from braidbandit.cli.machine.doctor.examination import cache_folder, checks_of
from braidbandit.cli.machine.doctor.finding import Finding


def names(cards, folder):
    return [check().name for check in checks_of(folder, cards, "words")]


def test_only_what_applies_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "cache"))
    price = {"input": 0.0, "output": 0.0}
    served = ModelCard("s", endpoint="http://127.0.0.1:9/v1", price=price)
    local = ModelCard("l", parameters=10)
    assert not {"cache", "packages [full]"} & set(names([served], tmp_path))
    assert "packages [endpoints]" not in names([local], tmp_path)
    both = names([served, local], tmp_path)
    assert both[-2:] == ["model s", "model l"]
    assert len(set(both)) == len(both)


def test_every_check_gives_a_finding_with_a_fix_or_is_well(tmp_path):
    for check in checks_of(tmp_path, [ModelCard("nowhere")]):
        found = check()
        assert isinstance(found, Finding)
        assert bool(found.fix) == (found.level != "ok")


@pytest.mark.parametrize("variable", ["BRAIDBANDIT_CACHE", "XDG_CACHE_HOME", None])
def test_the_cache_is_that_of_fusion(variable, tmp_path, monkeypatch):
    pool = pytest.importorskip("fusion.strands.pool", exc_type=ImportError)
    for name in ("BRAIDBANDIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == pool.default_cache()
