"""What is used of llama.cpp: its weights, its contexts, and its arithmetic for a head.

A context decodes tokens up to the states after the final norm and stops there: the head
of a large vocabulary is as much work as all layers of a small model, and what a braid
asks of it is its own fused state, for few positions.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

_LOG = logging.getLogger(__name__)
EXTRA = "llama-cpp-python"
_ALIGNED = 32  # bytes; ggml ends the process where a matrix begins elsewhere
BUFFER = 2**26  # bytes of logits that a context makes room for
_ERROR = 4  # a level of ggml's log
# States from which on one product of all takes less than a product of each: ggml's
# kernels for few at once read 8-bit weights slower than those for one.
_MANY = 8
# What llama.cpp calls the states after the final norm, without and with embeddings.
_NORMS = (b"result_norm", b"result_embd_pooled")


@cache
def api() -> Any:
    """The low-level interface of llama-cpp-python, with its log in ours.

    Raises
    ------
    ImportError
        Where it is not installed.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise ImportError(
            "a GGUF file is run as it is by llama-cpp-python, which is not installed: "
            "pip install 'braidbandit[native]' (it compiles for some minutes and needs "
            "a C++ compiler), or convert it: Pool(..., native=False)"
        ) from error
    llama_cpp.llama_log_set(_tell, ctypes.c_void_p())
    return llama_cpp


_errors: list[str] = []


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _tell(level: int, text: bytes, _data: Any) -> None:
    line = text.decode(errors="replace").strip()
    if level == _ERROR:
        _errors.append(line)
        del _errors[:-8]
    if line:
        _LOG.debug("%s", line)


class _Parameters(ctypes.Structure):
    """Of a ggml context."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class _Reading(ctypes.Structure):
    """Of a GGUF file that is opened."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_P, _SIZE, _I64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ggml_init": (_P, _Parameters),
    "ggml_free": (None, _P),
    "ggml_new_tensor_2d": (_P, _P, ctypes.c_int, _I64, _I64),
    "ggml_get_data": (_P, _P),
    "ggml_get_name": (ctypes.c_char_p, _P),
    "ggml_nbytes": (_SIZE, _P),
    # llama_model::get_tensor, which has no name in C.
    "_ZNK11llama_model10get_tensorEPKc": (_P, _P, ctypes.c_char_p),
    "ggml_mul_mat": (_P, _P, _P, _P),
    "ggml_new_graph": (_P, _P),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_graph_compute_with_ctx": (ctypes.c_int, _P, _P, ctypes.c_int),
    "ggml_graph_overhead": (_SIZE,),
    "ggml_tensor_overhead": (_SIZE,),
    "ggml_backend_cpu_buffer_from_ptr": (_P, _P, _SIZE),
    "ggml_backend_tensor_alloc": (ctypes.c_int, _P, _P, _P),
    "gguf_init_from_file": (_P, ctypes.c_char_p, _Reading),
    "gguf_free": (None, _P),
    "gguf_find_tensor": (_I64, _P, ctypes.c_char_p),
    "gguf_get_data_offset": (_SIZE, _P),
    "gguf_get_tensor_offset": (_SIZE, _P, _I64),
    "gguf_get_tensor_size": (_SIZE, _P, _I64),
    "gguf_get_tensor_type": (ctypes.c_int, _P, _I64),
    "gguf_get_tensor_ne": (ctypes.POINTER(_I64), _P, _I64),
}


@lru_cache(maxsize=len(_SIGNATURES))
def ggml(name: str) -> Any:
    """A function of the libraries that llama.cpp is made of."""
    folder = Path(api().__file__).parent / "lib"
    for kind in ("ggml", "ggml-base", "ggml-cpu", "llama"):
        for file in sorted(folder.glob(f"*{kind}.*")):
            try:
                function = getattr(ctypes.CDLL(str(file)), name)
            except (AttributeError, OSError):
                continue
            function.restype, *arguments = _SIGNATURES[name]
            function.argtypes = arguments
            return function
    raise ImportError(
        f"{EXTRA} in {folder} has no {name}; install 0.3.36 or a newer one"
    )


class Stored(NamedTuple):
    """A matrix as a GGUF file has it.

    Attributes
    ----------
    name : str
    kind : int
        Of quantisation, as ggml numbers them.
    rows, width : int
    bytes : ndarray (rows, bytes of a row) of uint8
    weights : Weights or None
        Whose memory this is, where it is llama.cpp's.
    """

    name: str
    kind: int
    rows: int
    width: int
    bytes: np.ndarray
    weights: Weights | None = None

    @property
    def memory(self) -> int:
        """Bytes beside those that llama.cpp has."""
        return 0 if self.weights else self.bytes.nbytes


def stored(file: Path, names: Sequence[str]) -> Stored:
    """The first of some matrices that a GGUF file has.

    Raises
    ------
    ValueError
        When it cannot be read, or has none of them.
    """
    opened = ggml("gguf_init_from_file")(str(file).encode(), _Reading(True, None))
    if not opened:
        raise ValueError(f"{file} is no whole GGUF file; fetch it anew")
    try:
        found = {n: ggml("gguf_find_tensor")(opened, n.encode()) for n in names}
        name, at = next(((n, i) for n, i in found.items() if i >= 0), (None, -1))
        if name is None:
            raise ValueError(f"{file} has none of the tensors {list(names)}")
        kind = ggml("gguf_get_tensor_type")(opened, at)
        width, rows = ggml("gguf_get_tensor_ne")(opened, at)[:2]
        size = ggml("gguf_get_tensor_size")(opened, at)
        start = ggml("gguf_get_data_offset")(opened)
        start += ggml("gguf_get_tensor_offset")(opened, at)
    finally:
        ggml("gguf_free")(opened)
    if start + size > file.stat().st_size:
        raise ValueError(f"{file} ends before its tensors do; fetch it anew")
    # Mapped: the system has these pages once, for all processes.
    data = np.memmap(file, np.uint8, "r", start, (rows, size // rows))
    if data.ctypes.data % _ALIGNED:  # a file whose own alignment is less than ggml's
        copy = torch.empty(data.shape, dtype=torch.uint8).numpy()
        copy[:] = data
        data = copy
    return Stored(name, kind, rows, width, data)


class _Buffer(threading.local):
    """Memory that is used again, each thread's own."""

    memory = np.empty(0, np.uint8)

    def of(self, size: int) -> np.ndarray:
        """So many bytes or more."""
        if len(self.memory) < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory


class Head:
    """An LM head in the numbers of its file, multiplied by ggml.

    Parameters
    ----------
    matrix : Stored
    """

    def __init__(self, matrix: Stored) -> None:
        self.matrix = matrix
        overhead = 2 * ggml("ggml_tensor_overhead")()
        self._context = ggml("ggml_init")(_Parameters(overhead, None, True))
        self._weight = ggml("ggml_new_tensor_2d")(
            self._context, matrix.kind, matrix.width, matrix.rows
        )
        place = matrix.bytes.ctypes.data
        buffer = ggml("ggml_backend_cpu_buffer_from_ptr")(place, matrix.bytes.nbytes)
        ggml("ggml_backend_tensor_alloc")(buffer, self._weight, place)
        self._buffer = _Buffer()

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) in float32 of states (n, width); their gradient flows back."""
        found: torch.Tensor = _Product.apply(hidden, self)  # type: ignore[no-untyped-call]
        return found

    def multiply(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same without a gradient."""
        states = np.ascontiguousarray(hidden.detach().float().cpu().numpy())
        most = max(BUFFER // (4 * self.matrix.rows), 1) if len(states) >= _MANY else 1
        out = torch.empty(len(states), self.matrix.rows)
        for low in range(0, len(states), most):
            self._multiply(states[low : low + most], out[low : low + most])
        return out

    def _multiply(self, states: np.ndarray, out: torch.Tensor) -> None:
        # What it computes with, and the states in a type of its own.
        size = 4 * (2 * states.size + out.numel()) + 2**16 * len(states)
        size += ggml("ggml_graph_overhead")() + 4 * ggml("ggml_tensor_overhead")()
        size += 2**20
        memory = self._buffer.of(size)
        context = ggml("ggml_init")(_Parameters(len(memory), memory.ctypes.data, False))
        try:
            x = ggml("ggml_new_tensor_2d")(context, 0, *states.shape[::-1])
            ctypes.memmove(ggml("ggml_get_data")(x), states.ctypes.data, states.nbytes)
            y = ggml("ggml_mul_mat")(context, self._weight, x)
            graph = ggml("ggml_new_graph")(context)
            ggml("ggml_build_forward_expand")(graph, y)
            threads = torch.get_num_threads()
            ggml("ggml_graph_compute_with_ctx")(context, graph, threads)
            place = ggml("ggml_get_data")(y)
            ctypes.memmove(out.data_ptr(), place, 4 * out.numel())
        finally:
            ggml("ggml_free")(context)

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """The rows (n, width) of some tokens in float32."""
        from gguf import GGMLQuantizationType, dequantize

        kind = GGMLQuantizationType(self.matrix.kind)
        table = self.matrix.bytes[tokens.cpu().numpy()]
        if kind.name in ("F32", "F16"):
            table = table.view(np.dtype(kind.name.replace("F", "float")))
        return torch.from_numpy(dequantize(table, kind).astype(np.float32))


class _Product(torch.autograd.Function):
    """A head as a step of what torch differentiates."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: Head) -> torch.Tensor:
        ctx.head, ctx.dtype = head, hidden.dtype
        return head.multiply(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), head = gradients, ctx.head
        found = gradient.new_zeros(len(gradient), head.matrix.width)
        for low in range(0, head.matrix.rows, 2**14):
            at = torch.arange(low, min(low + 2**14, head.matrix.rows))
            found += gradient[:, at] @ head.rows(at)
        return found.to(ctx.dtype), None


class Weights:
    """A model that llama.cpp has loaded; contexts share it.

    Parameters
    ----------
    file : Path
    at_once : bool
        Whether to put weights in the order that is fastest for this machine, which
        takes a while; they are there without.

    Raises
    ------
    ValueError
        When llama.cpp cannot read it.
    """

    def __init__(self, file: Path, at_once: bool = True) -> None:
        llama = api()
        llama.llama_backend_init()
        settings = llama.llama_model_default_params()
        settings.use_extra_bufts = at_once
        # Read, not mapped: in the order for this machine they are in memory anyway.
        modes = llama.LLAMA_LOAD_MODE_MMAP, llama.LLAMA_LOAD_MODE_NONE
        settings.load_mode = modes[at_once]
        if at_once and llama.llama_supports_gpu_offload():
            settings.n_gpu_layers = -1
        del _errors[:]
        self._mapped = not at_once
        self.pointer = llama.llama_model_load_from_file(str(file).encode(), settings)
        if not self.pointer:
            why = "; ".join(_errors) or "no reason given"
            raise ValueError(
                f"llama.cpp cannot load {file}: {why}; fetch it anew if it was cut "
                f"off, install a newer {EXTRA} for a new architecture, or convert it: "
                "Pool(..., native=False)"
            )
        weakref.finalize(self, llama.llama_model_free, self.pointer)

    @property
    def vocab_size(self) -> int:
        vocabulary = api().llama_model_get_vocab(self.pointer)
        return int(api().llama_vocab_n_tokens(vocabulary))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(api().llama_model_size(self.pointer))

    @property
    def parameters(self) -> int:
        return int(api().llama_model_n_params(self.pointer))

    @property
    def width(self) -> int:
        return int(api().llama_model_n_embd(self.pointer))

    def having(self, matrix: Stored) -> Stored:
        """A matrix of the file where llama.cpp has it in memory already.

        Or as it is, where llama.cpp does not tell, or has it in another order or on a
        GPU.
        """
        if api().llama_supports_gpu_offload():
            return matrix
        try:
            find = ggml("_ZNK11llama_model10get_tensorEPKc")
        except ImportError:
            return matrix
        tensor, size = find(self.pointer, matrix.name.encode()), matrix.bytes.nbytes
        place = ggml("ggml_get_data")(tensor) if tensor else None
        if not place or place % _ALIGNED or ggml("ggml_nbytes")(tensor) != size:
            return matrix
        here = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(place))
        here = here.reshape(matrix.bytes.shape)
        rows = range(0, matrix.rows, 2**12)
        parts = (slice(i, i + 2**12) for i in rows)
        same = self._mapped or all(  # of one file: nothing to compare, or to read
            np.array_equal(here[part], matrix.bytes[part]) for part in parts
        )
        return matrix._replace(bytes=here, weights=self) if same else matrix

    def setting(self, key: str) -> str | None:
        """A value of the file's metadata, ``{}`` in its key for the architecture."""
        if "{}" in key:
            key = key.format(self.setting("general.architecture"))
        buffer = ctypes.create_string_buffer(2**10)
        size = api().llama_model_meta_val_str(
            self.pointer, key.encode(), buffer, len(buffer)
        )
        return None if size < 0 else buffer.value.decode(errors="replace")


def most_at_once(vocab_size: int) -> int:
    """How many tokens a context reads at once: it has room for the logits of all."""
    return max(16, min(256, BUFFER // (4 * vocab_size)))


class _Stop:
    """Stops what llama.cpp computes at the states after the final norm.

    It is asked at every operation, so names are only asked for where it was last. Apart
    from its context, which would never be freed if this held it.
    """

    def __init__(self) -> None:
        self._norms: dict[int, int] = {}  # by how many tokens are read at once
        self._tokens = self._wanted = self._left = 0
        self._stopped = False

    def begin(self, tokens: int, whole: bool) -> None:
        """So many tokens are read now, and the head too if ``whole``."""
        wanted = sys.maxsize if whole else self._norms.get(tokens, 0)
        self._tokens, self._wanted, self._left = tokens, wanted, wanted
        self._stopped = False

    def end(self) -> None:
        """They were read."""
        if not self._stopped:
            # The head was run too, for nothing: the norm may be somewhere else.
            self._norms.pop(self._tokens, None)

    def visit(self, tensor: int, asking: bool, _data: Any) -> bool:
        """Whether to look at an operation, or else, having seen it, to go on."""
        self._left -= 1
        if self._left > 0 or not asking:
            return False
        if ggml("ggml_get_name")(tensor) not in _NORMS:
            return False
        self._norms[self._tokens] = self._wanted - self._left
        self._stopped = True
        return True


class Context:
    """Keys and values of sequences of tokens, in one context of llama.cpp.

    Parameters
    ----------
    weights : Weights
    size : int
        How many tokens it has room for.
    sequences : int
        How many ways the text may branch.
    stops : bool
        Whether it can stop before the head; asked for every operation, which takes a
        few per cent of a small model's time.
    """

    def __init__(
        self, weights: Weights, size: int, sequences: int = 1, stops: bool = True
    ) -> None:
        llama = api()
        self.weights, self.size = weights, size
        self.most = most_at_once(weights.vocab_size)
        settings = llama.llama_context_default_params()
        settings.n_ctx = size
        settings.n_batch = settings.n_ubatch = self.most
        settings.n_seq_max = sequences
        settings.pooling_type = llama.LLAMA_POOLING_TYPE_NONE
        settings.embeddings = True
        settings.kv_unified = settings.swa_full = True
        settings.no_perf = True
        # Kept, as llama.cpp calls it.
        self._stop = _Stop()
        self._watch = llama.ggml_backend_sched_eval_callback(self._stop.visit)
        if stops:
            settings.cb_eval = self._watch
        self.pointer = llama.llama_init_from_model(weights.pointer, settings)
        if not self.pointer:
            raise MemoryError(
                f"llama.cpp has no memory for a context of {size} tokens: "
                f"{'; '.join(_errors) or 'no reason given'}; give shorter text"
            )
        self._batch = llama.llama_batch_init(self.most, 0, sequences)
        self._memory = llama.llama_get_memory(self.pointer)
        # After its context: what is registered last is called first.
        weakref.finalize(self, llama.llama_batch_free, self._batch)
        weakref.finalize(self, llama.llama_free, self.pointer)

    def decode(
        self,
        tokens: Sequence[int],
        places: Sequence[int],
        sequences: Sequence[Sequence[int]],
        whole: bool = False,
    ) -> torch.Tensor:
        """Read tokens; return their states (n, width), or (n, V) logits if ``whole``.

        Parameters
        ----------
        tokens, places : sequence of int
            What is read, and how many tokens are before each.
        sequences : sequence of sequence of int
            Which sequences each belongs to, and so which tokens it sees.
        whole : bool
            Go on through the head.

        Raises
        ------
        RuntimeError
            When llama.cpp cannot go on.
        """
        llama, batch = api(), self._batch
        width = self.weights.vocab_size if whole else self.weights.width
        out = torch.empty(len(tokens), width)
        threads = torch.get_num_threads()
        llama.llama_set_n_threads(self.pointer, threads, threads)
        for low in range(0, len(tokens), self.most):
            part = range(low, min(low + self.most, len(tokens)))
            batch.n_tokens = len(part)
            for i, n in enumerate(part):
                batch.token[i], batch.pos[i] = tokens[n], places[n]
                batch.n_seq_id[i] = len(sequences[n])
                for k, number in enumerate(sequences[n]):
                    batch.seq_id[i][k] = number
                batch.logits[i] = 1
            self._stop.begin(len(part), whole)
            code = llama.llama_decode(self.pointer, batch)
            self._stop.end()
            if code:
                raise RuntimeError(
                    f"llama.cpp cannot read {len(tokens)} tokens (code {code}): "
                    f"{'; '.join(_errors) or 'no reason given'}"
                )
            get = llama.llama_get_logits if whole else llama.llama_get_embeddings
            place = ctypes.cast(get(self.pointer), ctypes.c_void_p)
            rows = out[low : low + len(part)]
            ctypes.memmove(rows.data_ptr(), place, 4 * rows.numel())
        return out

    def remove(self, sequence: int, start: int, end: int = -1) -> bool:
        """Take tokens back from a sequence, or with -1 from all of them."""
        remove = api().llama_memory_seq_rm
        return bool(remove(self._memory, sequence, start, end))

    def branch(self, source: int, target: int, start: int, end: int) -> None:
        """Let a sequence see what another one sees."""
        api().llama_memory_seq_cp(self._memory, source, target, start, end)

    def clear(self) -> None:
        """Forget everything."""
        api().llama_memory_clear(self._memory, False)

    def copy(self, other: Context) -> None:
        """Take over the first sequence of another context, in place of all here."""
        llama = api()
        self.clear()
        size = llama.llama_state_seq_get_size(other.pointer, 0)
        data = (ctypes.c_uint8 * size)()
        llama.llama_state_seq_get_data(other.pointer, data, size, 0)
        if not llama.llama_state_seq_set_data(self.pointer, data, size, 0):
            raise RuntimeError("llama.cpp cannot copy what it has read")
