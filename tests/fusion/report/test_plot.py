import sys
from importlib import import_module

import matplotlib
import pytest

from fusion.report import plot as module
from fusion.report.plot import plot


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_picture_of_every_kind_of_file(rows, tmp_path, ending, start):
    file = tmp_path / f"report.{ending}"
    plot(rows, file)
    assert file.read_bytes().startswith(start)


def test_every_row_is_one_point_of_its_kind_the_best_at_the_top(
    rows, tmp_path, monkeypatch
):
    made = []
    figure = module.Figure

    def noted(**options):
        made.append(figure(**options))
        return made[0]

    monkeypatch.setattr(module, "Figure", noted)
    plot(rows, tmp_path / "report.png")
    [axes] = made[0].axes
    found = {
        bars.get_label(): sorted(zip(*bars.lines[0].get_data(), strict=True))
        for bars in axes.containers
    }
    assert found == {
        "strand alone": [(1.5, 0), (1.5, 1)],
        "control": [(pytest.approx(0.1), 5), (pytest.approx(1.15), 2)],
        "braid": [(pytest.approx(0.87), 4), (pytest.approx(0.925), 3)],
    }
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[-1] == "a + b (shuffled), router, final+output"


def test_it_leaves_the_callers_way_to_draw_alone(rows, tmp_path):
    before = matplotlib.get_backend()
    plot(rows, tmp_path / "report.png")
    assert matplotlib.get_backend() == before


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "fusion.report.plot")
    with pytest.raises(ImportError, match=r"braidbandit\[plot\]"):
        import_module("fusion.report.plot")
