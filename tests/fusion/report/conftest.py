"""Rows of a report that was made by hand: figures to reckon with."""

import pytest


def made(anchor, *donors, layers=(), strategy=None, bits, **more):
    control = bool(layers) and not donors or any("shuffled" in d for d in donors)
    return {
        "anchor": anchor,
        "donors": list(donors),
        "strategy": strategy,
        "layers": list(layers),
        "control": control,
        "bits_per_byte": bits,
        "mean": sum(bits.values()) / len(bits),
        "spread": 0.0125,
        "tokens_per_s": 12.34,
        "memory_mb": 543.21,
        "parity": {"same_choice": 0.995, "largest": 0.1},
        **more,
    }


@pytest.fixture
def rows():
    router = {"layers": ["final", "output"], "strategy": "router"}
    return [
        made("a", bits={"code": 2.0, "a long domain": 1.0}),
        made("b", bits={"code": 1.0, "a long domain": 2.0}, spread=None),
        made("a", layers=["final"], strategy="router",
             bits={"code": 1.5, "a long domain": 0.8}),
        made("a", "b", bits={"code": 0.9, "a long domain": 0.84}, **router),
        made("b", "a", bits={"code": 0.95, "a long domain": 0.9}, **router),
        made("a", "b (shuffled)", bits={"code": 0.1, "a long domain": 0.1},
             parity=None, **router),
    ]  # fmt: skip
