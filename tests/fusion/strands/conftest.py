"""Strands that llama.cpp runs."""

import pytest


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """A strand of each family, and a second llama."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import ggufs

    folder = tmp_path_factory.mktemp("gguf")
    made = {f: ggufs.native_strand(folder, f, f) for f in ggufs.FAMILIES}
    made["llama-2"] = ggufs.native_strand(folder, "llama", "llama-2", seed=7)
    return made
