"""Strands are measured by what braids ask of them."""

import pytest
import tiny

from fusion.braid.speed import measure


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_number_is_a_time(strands, family):
    speed = measure(strands[family], repeats=2)
    assert min(speed) >= 0
    told = (speed.prompt_tokens_per_s, speed.body_seconds, speed.head_seconds)
    assert min(told) > 0
    assert speed.mixing_seconds > 0


def test_a_native_strand_is_measured_the_same_way(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import ggufs

    strand = ggufs.native_strand(tmp_path, "llama", "native")
    assert measure(strand, repeats=2).body_seconds > 0


def test_reads_are_as_many_as_are_told(strands, monkeypatch):
    """A prompt and 12 tokens by the strand itself, and again in a braid."""
    strand, lengths = strands["gpt2"], []
    run = strand.run

    def counted(ids, **options):
        lengths.append(ids.shape[1])
        return run(ids, **options)

    monkeypatch.setattr(strand, "run", counted)
    measure(strand, repeats=2)
    assert lengths == 2 * [96, 96, *[1] * 24]


def test_no_text_beyond_its_positions_is_read(strands, monkeypatch):
    strand, read = strands["llama"], []
    monkeypatch.setattr(strand, "positions", 20)
    run = strand.run
    monkeypatch.setattr(
        strand, "run", lambda ids, **o: read.append(ids.shape[1]) or run(ids, **o)
    )
    measure(strand, repeats=2)
    assert max(read) == 8


@pytest.mark.parametrize("repeats", [1, 0, -3])
def test_one_repeat_only_warms_up(strands, repeats):
    with pytest.raises(ValueError, match="at least 2"):
        measure(strands["llama"], repeats)


def test_a_strand_of_few_positions_is_refused(strands, monkeypatch):
    monkeypatch.setattr(strands["llama"], "positions", 12)
    with pytest.raises(ValueError, match="too few to be timed"):
        measure(strands["llama"])
