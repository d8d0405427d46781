import os

import pytest

from braidbandit import ModelCard
from braidbandit.cli.machine.doctor.memory import (
    available_memory,
    bytes_of,
    check_memory,
)


def test_too_little_memory_for_a_file(tmp_path):
    """A file with holes: as large as it says, on a disk that is not."""
    file = tmp_path / "huge.gguf"
    file.touch()
    os.truncate(file, 2**43)
    found = check_memory([ModelCard("huge", source=str(file))])
    assert found.level == "error"
    assert "huge takes about" in found.found
    assert "fewer bits a weight" in found.fix


def test_one_model_fits_and_two_do_not():
    cards = [ModelCard(name, memory=6 * 10**9) for name in "ab"]
    assert check_memory(cards[:1], available=10 * 10**9).level == "ok"
    both = check_memory(cards, available=10 * 10**9)
    assert both.level == "warning"
    assert "13.5 GB" in both.found
    assert check_memory(cards, available=20 * 10**9).level == "ok"


def test_bytes_by_what_is_known(tmp_path):
    assert bytes_of(ModelCard("a", memory=7)) == 7
    assert bytes_of(ModelCard("a", parameters=10)) == 40
    assert bytes_of(ModelCard("nowhere")) == 0
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    (tmp_path / "other.bin").write_bytes(bytes(50))
    assert bytes_of(ModelCard("a", source=str(tmp_path))) == 100


def test_served_models_take_none():
    price = {"input": 0.0, "output": 0.0}
    card = ModelCard("a", endpoint="http://127.0.0.1:1/v1", price=price)
    assert check_memory([card], available=1).level == "ok"


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="no /proc here")
def test_what_is_free_is_at_most_what_there_is():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= whole
