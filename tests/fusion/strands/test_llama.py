"""What is used of llama.cpp: a head in the numbers of its file, and its refusals."""

import gc
import sys
import weakref

import gguf
import ggufs
import numpy as np
import pytest
import tiny
import torch

from fusion.strands import llama
from fusion.strands.llama import Head, api, stored
from fusion.strands.native_strand import NativeStrand


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    api.cache_clear()
    with pytest.raises(ImportError, match=r"braidbandit\[native\].*native=False"):
        api()


def test_the_gradient_of_a_head_is_that_of_its_weights(native):
    strand = native["llama"]
    states = torch.randn(3, strand.width, requires_grad=True)
    strand.logits(states).square().sum().backward()
    weight, bias = strand.head_rows(torch.arange(strand.vocab_size))
    assert bias is None
    wanted = 2 * (states @ weight.T) @ weight
    assert torch.allclose(states.grad, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_a_quantised_head_is_multiplied_as_it_is(tmp_path, kind):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    file = ggufs.write(tmp_path / "model.gguf", "llama", kind=kind)
    strand = NativeStrand("quantised", file, tiny.tiny_tokenizer("llama"))
    ids = ggufs.ids_of("llama")
    states = strand.run(ids, taps=["final"])["final"]
    weight, _ = strand.head_rows(torch.arange(strand.vocab_size))
    wanted, logits = states @ weight.T, strand.logits(states)
    assert (logits - wanted).abs().max() < 0.02 * wanted.abs().max()
    exact = tiny.tiny_strand("llama").head.weight
    assert (weight - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_head_tells_of_each_state_what_it_tells_of_it_alone(native):
    """Few are multiplied one by one, many at once."""
    head = native["llama"].head
    states = torch.randn(9, native["llama"].width)
    alone = torch.cat([head(state[None]) for state in states])
    assert torch.equal(head(states[:3]), alone[:3])
    assert torch.allclose(head(states), alone, rtol=1e-3, atol=1e-4)


def test_a_head_is_where_llama_cpp_has_it(native, monkeypatch):
    """Or in the file, where llama.cpp does not tell, to the same bits."""
    strand = native["llama"]
    shared = stored(strand.file, ["output.weight", "token_embd.weight"])
    assert strand.weights.having(shared).weights is strand.weights
    assert strand.memory == strand.weights.size
    of_library = llama.ggml

    def older(name):
        if "get_tensor" in name:
            raise ImportError("it has no such function")
        return of_library(name)

    monkeypatch.setattr(llama, "ggml", older)
    mapped = strand.weights.having(shared)
    assert mapped is shared
    assert mapped.memory == mapped.bytes.nbytes > 0
    states = torch.randn(2, strand.width)
    assert torch.equal(Head(mapped)(states), strand.head(states))


def test_a_matrix_that_llama_cpp_has_in_another_order_stays_in_the_file(native):
    strand = native["llama"]
    matrix = stored(strand.file, ["token_embd.weight"])
    other = np.array(matrix.bytes)
    other[-1, -1] ^= 1
    assert strand.weights.having(matrix._replace(bytes=other)).weights is None
    assert strand.weights.having(matrix._replace(bytes=other[1:])).weights is None
    assert strand.weights.having(matrix._replace(name="nothing")).weights is None


def test_a_head_keeps_the_memory_that_it_reads(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    file = ggufs.write(tmp_path / "model.gguf", "llama")
    strand = NativeStrand("it", file, tiny.tiny_tokenizer("llama"))
    head, states = strand.head, torch.randn(1, strand.width)
    wanted = head(states)
    weights = weakref.ref(strand.weights)
    del strand
    gc.collect()
    assert weights() is not None
    assert torch.equal(head(states), wanted)
    del head
    gc.collect()
    assert weights() is None


@pytest.mark.parametrize("alignment", [8, 32])
def test_a_head_may_begin_anywhere_in_its_file(tmp_path, alignment):
    """ggml takes no matrix that begins between two of its lines."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    writer = gguf.GGUFWriter(tmp_path / "head.gguf", "llama")
    writer.add_custom_alignment(alignment)
    weight = np.arange(24, dtype=np.float32).reshape(3, 8)
    writer.add_tensor("before", np.zeros(2, np.float32))  # eight bytes
    writer.add_tensor("output.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    matrix = stored(tmp_path / "head.gguf", ["output.weight"])
    assert np.array_equal(matrix.bytes, weight.view(np.uint8))
    assert isinstance(matrix.bytes, np.memmap) == (alignment == 32)
    found = Head(matrix)(torch.eye(8))
    assert torch.equal(found, torch.from_numpy(weight.T.copy()))
