"""Predictions from profiles beside what braids come to."""

from pathlib import Path

import bench_profile
import pytest
import tiny
import torch

from braidbandit import Catalogue


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_each_arm_has_what_was_predicted_and_what_it_came_to(tmp_path, monkeypatch):
    """On two tiny models and three of their arms: only that it runs and adds up."""
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "cache"))
    whole = bench_profile.choose_braids
    few = lambda cards: Catalogue(cards, [*whole(cards)][::4])  # noqa: E731
    monkeypatch.setattr(bench_profile, "choose_braids", few)
    folders = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    threads = torch.get_num_threads()
    try:
        found = bench_profile.rows(folders, converted=True)
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 3
    for row in found:
        assert row["engine"] == "transformers"
        assert row["ms"] > 0
        assert row["time_of_predicted"] == pytest.approx(
            row["ms"] / row["predicted_ms"], rel=0.01
        )
        assert row["memory_of_predicted"] == pytest.approx(
            row["mb"] / row["predicted_mb"], rel=0.01, abs=0.01
        )
    assert found[0]["arm"] in bench_profile.table(found)
