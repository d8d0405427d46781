"""The latest embeddings are in memory, within a bound; more of them are in a file."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.tasks.embedding_cache import EmbeddingCache
from braidbandit.tasks.embedding_file import NAME


def key(number):
    return f"{number:032x}"


def vector(number, width=4):
    return np.arange(width) + float(number)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_those_that_were_not_used_for_longest_go_first(steps):
    """Against a list that is read by hand: three of 32 bytes fit into 100."""
    cache, used = EmbeddingCache(memory_bytes=100), []
    for is_kept, number in steps:
        if is_kept:
            cache.keep({key(number): vector(number)})
        else:
            found = cache.find([key(number)])
            assert set(found) == ({key(number)} if number in used else set())
            if not found:
                continue
            np.testing.assert_array_equal(found[key(number)], vector(number))
        used = [*(other for other in used if other != number), number][-3:]
        assert len(cache) == len(used)


def test_a_batch_of_which_some_are_kept_is_not_held_whole():
    batch = np.ones((1000, 4))
    cache = EmbeddingCache()
    cache.keep({key(0): batch[0]})
    kept = cache.find([key(0)])[key(0)]
    assert kept.base is None
    batch[0] = 7.0
    assert kept.tolist() == [1.0] * 4


def test_what_left_memory_is_found_in_the_file(tmp_path):
    cache = EmbeddingCache(tmp_path, 2**20, memory_bytes=100)
    for number in range(20):
        cache.keep({key(number): vector(number)})
    assert len(cache) == 3
    found = cache.find([key(number) for number in range(21)])
    assert {k: v.tolist() for k, v in found.items()} == {
        key(number): vector(number).tolist() for number in range(20)
    }
    assert len(cache) == 3
    cache.forget()
    assert len(cache) == 0
    assert key(0) in cache.find([key(0)])


def test_one_larger_than_memory_is_not_kept_there():
    cache = EmbeddingCache(memory_bytes=100)
    cache.keep({key(0): vector(0), key(1): vector(1, width=50)})
    assert len(cache) == 0
    assert cache.find([key(0), key(1)]) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_child_go_on_after_a_fork(tmp_path):
    cache = EmbeddingCache(tmp_path, 2**20)
    cache.keep({key(0): vector(0)})
    child = os.fork()
    for step in range(30):
        number = 1 + 2 * step + (child == 0)
        cache.keep({key(number): vector(number)})
    if child == 0:
        fine = set(cache.find([key(0), key(2)])) == {key(0), key(2)}
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(cache.find([key(n) for n in range(61)])) == [
        key(n) for n in range(61)
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_a_call_leaves_the_child_free(tmp_path):
    """Another thread of the parent holds the lock for good in the child."""
    cache = EmbeddingCache(tmp_path, 2**20)
    stop = threading.Event()

    def work():
        number = 0
        while not stop.is_set():
            number += 1
            cache.keep({key(number): vector(number)})

    thread = threading.Thread(target=work)
    thread.start()
    codes = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            cache.keep({key(10**9): vector(1)})
            os._exit(0 if key(10**9) in cache.find([key(10**9)]) else 1)
        codes.append(os.waitpid(child, 0)[1])
    stop.set()
    thread.join()
    assert codes == [0] * 10
    assert (tmp_path / NAME).exists()
