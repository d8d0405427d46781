"""Braids of tiny strands, built on demand."""

import pytest
import tiny
import torch

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.conformance import randomise
from fusion.strands.pool import Pool

# Tiny tensors: a second thread only waits, badly so when the other core is busy.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def strands():
    """One strand per family and two more llamas; frozen, so all tests share them."""
    families = tiny.FAMILIES + tiny.MORE_FAMILIES
    made = [tiny.tiny_strand(f, seed=i) for i, f in enumerate(families)]
    made += [tiny.tiny_strand("llama", f"llama-{n}", seed=7 + n) for n in (2, 3)]
    return {s.name: s for s in made}


@pytest.fixture(scope="session")
def adapted(tmp_path_factory):
    """A base, three adapters on it, and another model, in one pool."""
    pytest.importorskip("peft", reason="the extra named adapters is not installed")
    folder = tmp_path_factory.mktemp("adapted")
    base = tiny.tiny_folder("llama", folder / "base")
    sources = {"base": base, "gemma": tiny.tiny_folder("gemma", folder / "gemma", 1)}
    settings = ({}, {"target_modules": "all-linear"}, {"use_dora": True})
    for n, given in enumerate(settings):
        path = tiny.tiny_adapter(folder / f"adapter-{n}", n, **given)
        sources[f"adapter-{n}"] = {"source": base, "adapter": path}
    return Pool(sources)


@pytest.fixture
def braid(strands):
    """Build a braid: ``braid("llama", "gemma", layers=["final"], strategy=...)``."""

    def build(
        anchor,
        *donors,
        layers=("final",),
        strategy="router",
        shares=None,
        fuse="always",
        std=0.1,
    ):
        if shares is None:
            shares = [0.6, *([0.4 / len(donors)] * len(donors))] if donors else [1.0]
        config = BraidConfig(anchor, donors, shares, layers, strategy, fuse=fuse)
        model = BraidedLLM(config, list(strands.values()))
        return randomise(model, seed=0, std=std) if std else model

    return build
