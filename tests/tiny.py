"""Tiny real models of six families with real tokenizers, built in milliseconds.

The families differ as real ones do: "llama", "gpt2" and "qwen2" have byte-level BPE
with different merges, "opt" the same with a token in front of the text; "gemma" a
SentencePiece-style BPE with byte fallback and a token in front of the text, and "neox"
one that writes a space in front, as Llama 2 does. Widths, depths and vocabularies all
differ. Weights are random with a large spread, so that a wrong token, position or mask
shows in the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fusion import Strand

FAMILIES = ("llama", "gemma", "gpt2")
MORE_FAMILIES = ("qwen2", "opt", "neox")  # for the battery only
VOCABULARY = 400

# Different text per family, so that one text is cut differently by each.
TEXTS = {
    "llama": [
        "def add(a, b):\n    return a + b\n",
        "for i in range(10):\n    print(i)\n",
        "class Point:\n    def __init__(self, x, y):\n        self.x = x\n",
        "The quick brown fox jumps over the lazy dog. The dog sleeps.",
        "Braids are made of strands, and strands of shorter strands.",
        "你好，世界。这是一个测试。",
        "Emoji: 😀 😁 🎉 🚀",
    ],
    "gemma": [
        "The rain in Spain stays mainly in the plain, they say.",
        "A patient presents with fever and cough; what is the diagnosis?",
        "return the sum of the values in the list",
        "import numpy as np\nnp.sum(x, axis=0)\n",
        "世界你好，今天天气很好。",
        "Party time 🎉🎉",
        "She sells sea shells by the sea shore in the other town.",
    ],
    "gpt2": [
        "print(sum(range(10)))\nreturn None\n",
        "It was the best of times, it was the worst of times.",
        "Call me Ishmael. Some years ago, never mind how long precisely.",
        "こんにちは世界。日本語の文章です。",
        "🚀🚀 to the moon 🌙",
        "if x == 1: return x\nelse: return -x\n",
    ],
    "qwen2": [
        "今天天气很好，我们去公园。",
        "const add = (a, b) => a + b;\nreturn sum(xs);\n",
        "She asked whether the other dog had eaten the sandwich.",
    ],
    "opt": [
        "Whether or not the strands are sleeping, the party goes on.",
        "def mean(values):\n    return sum(values)\n",
        "😀 🎉 and so on and so forth",
    ],
    "neox": [
        "a braid of strands, a strand of threads, a thread of fibres",
        "return other; print sums; def function of xs",
        "the the then there these",
    ],
}

# What the tests feed: the four kinds of text that have caught alignment bugs.
CODE = "def mean(xs):\n    return sum(xs) / len(xs)\n"
PROSE = "The other strand reads the sentence, then the dog sleeps."
EMOJI = "café 😀😁 party 🎉👩‍🚀 end"
CJK = "你好，世界。天气很好 日本語テスト"
SAMPLES = {"code": CODE, "prose": PROSE, "emoji": EMOJI, "cjk": CJK}


def _byte_level(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _sentence_piece(texts: list[str], in_front: bool = False) -> Tokenizer:
    """Byte fallback and U+2581 for the space; rare characters are left to bytes.

    Without ``in_front`` a token starts the text, with it a space, as Llama 2 has it.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    # Merges stay within a word, as in models whose training text was split.
    trained.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 260, limit_alphabet=60, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    state = trained.get_vocab()
    learned = sorted(state, key=lambda token: state[token])
    merges = _merges(trained)
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokens = [*special, *(f"<0x{b:02X}>" for b in range(256)), *learned]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    if in_front:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.post_processor = _start_with("<bos>", tokens.index("<bos>"))
    return tokenizer


def _start_with(token: str, number: int) -> Any:
    return processors.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token} $B",
        special_tokens=[(token, number)],
    )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]


def _check_family(family: str) -> None:
    known = FAMILIES + MORE_FAMILIES
    if family not in known:
        raise ValueError(f"unknown family {family!r}; expected one of {known}")


@cache
def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A small real fast tokenizer; the same object every time."""
    _check_family(family)
    if family in ("gemma", "neox"):
        return PreTrainedTokenizerFast(
            tokenizer_object=_sentence_piece(TEXTS[family], family == "neox"),
            bos_token="<bos>",
            eos_token="<eos>",
            pad_token="<pad>",
            unk_token="<unk>",
            clean_up_tokenization_spaces=False,
        )
    tokenizer = _byte_level(TEXTS[family])
    if family == "opt":
        tokenizer.post_processor = _start_with(
            "<|end|>", tokenizer.token_to_id("<|end|>")
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )


def handmade(tokens: str, words: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of the tokens that are listed, for sums by hand.

    Each is made of the longest earlier token that it begins with and what is left of
    it, the earlier pairs first; "_" is a space, and "<...>" a special token. With
    ``words`` a text is split before the space of each word, as GPT-2 does.

    Examples
    --------
    >>> handmade("a b ab _ _a").tokenize("ab a")
    ['ab', 'Ġa']
    """
    names = [name.replace("_", "\u0120") for name in tokens.split()]
    merges = []
    for n, name in enumerate(names):
        known = [t for t in names[:n] if name.startswith(t) and name[len(t) :] in names]
        if len(name) > 1 and known:
            longest = max(known, key=len)
            merges.append((longest, name[len(longest) :]))
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    special = [name for name in names if name.startswith("<")]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=special,
        clean_up_tokenization_spaces=False,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def small(family: str, **changes: Any) -> dict[str, Any]:
    """Settings of a small model that reads with the family's tokenizer."""
    return {
        "vocab_size": len(tiny_tokenizer(family)),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
        **changes,
    }


def tiny_model(family: str, seed: int = 0) -> Any:
    """A small random model of the family, in eval mode; same seed, same weights."""
    _check_family(family)
    tokenizer = tiny_tokenizer(family)
    common = {
        # More rows than tokens for one, as models padded for speed have.
        "vocab_size": len(tokenizer) + (5 if family == "llama" else 0),
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with _seeded(seed):
        return _BUILDERS[family](common).eval()


def _llama(common: dict[str, Any]) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            **common,
        )
    )


def _gemma(common: dict[str, Any]) -> Any:
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=8,  # shorter than the tests' texts, so that it matters
            layer_types=["sliding_attention", "full_attention"] * 3,
            **common,
        )
    )


def _gpt2(common: dict[str, Any]) -> Any:
    positions = common.pop("max_position_embeddings")
    sizes = {"n_embd": 40, "n_layer": 3, "n_head": 4, "n_positions": positions}
    return GPT2LMHeadModel(GPT2Config(**sizes, **common))


def _qwen2(common: dict[str, Any]) -> Any:
    return Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            **common,
        )
    )


def _opt(common: dict[str, Any]) -> Any:
    common["init_std"] = common.pop("initializer_range")
    return OPTForCausalLM(
        OPTConfig(
            hidden_size=36,
            word_embed_proj_dim=36,
            ffn_dim=50,
            num_hidden_layers=3,
            num_attention_heads=4,
            **common,
        )
    )


def _neox(common: dict[str, Any]) -> Any:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            **common,
        )
    )


_BUILDERS = {
    "llama": _llama,
    "gemma": _gemma,
    "gpt2": _gpt2,
    "qwen2": _qwen2,
    "opt": _opt,
    "neox": _neox,
}


def tiny_strand(family: str, name: str | None = None, seed: int = 0) -> Strand:
    """A strand around `tiny_model`; its name is the family unless told otherwise."""
    return Strand(name or family, tiny_model(family, seed), tiny_tokenizer(family))


def long_rope_strand(turn: int, name: str = "phi3", seed: int = 0) -> Strand:
    """A Phi-3 that reads texts of more than ``turn`` tokens with other positions."""
    tokenizer = tiny_tokenizer("qwen2")
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": turn,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
    }
    sizes = small("qwen2", num_hidden_layers=3, num_key_value_heads=2)
    config = Phi3Config(
        **sizes,
        max_position_embeddings=512,
        original_max_position_embeddings=turn,
        rope_parameters=rope,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    with _seeded(seed):
        return Strand(name, Phi3ForCausalLM(config).eval(), tokenizer)


def tiny_folder(family: str, path: str | Path, seed: int = 0) -> Path:
    """Save model and tokenizer to a folder, as a download would look."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tiny_model(family, seed).save_pretrained(path)
    tiny_tokenizer(family).save_pretrained(path)
    return path


def tiny_adapter(path: str | Path, seed: int = 0, family: str = "llama", **settings):
    """Save an adapter of `tiny_model` with random weights, as peft does.

    LoRA of queries and values by default; ``kind`` names another class of peft, and
    ``model`` is another base, which is changed.
    """
    import peft
    from peft.functional import get_peft_model_state_dict, inject_adapter_in_model
    from safetensors.torch import save_file

    path = Path(path)
    kind = getattr(peft, settings.pop("kind", "LoraConfig"))
    base = settings.pop("model", None) or tiny_model(family)
    spread = settings.pop("spread", 0.1)
    settings.setdefault("target_modules", ["q_proj", "v_proj"])
    config = kind(base_model_name_or_path=f"tiny-{family}", **settings)
    with _seeded(seed):
        model = inject_adapter_in_model(config, base, "default")
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += spread * torch.randn_like(weight)
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{k}": v.contiguous() for k, v in found.items()}
    save_file(tensors, path / "adapter_model.safetensors")
    config.save_pretrained(path)
    return path


_WORDS = (
    "the dog sleeps and the cat reads a book about strands of other strands".split()
)
# As few texts as can be calibrated on, no two alike.
CALIBRATION_TEXTS = [
    f"{_WORDS[i % 5]} {' '.join(_WORDS[i % 3 :: 2])} {text}"
    for i, text in enumerate([*SAMPLES.values()] * 3)
]

# Prompt and reference of two domains, as a report reads them.
SPLIT_TEXTS = [
    {"domain": d, "split": s, "prompt": f"{t[:9]}{i}\u2028", "reference": t[9:]}
    for d, t in (("prose", PROSE), ("code", CODE))
    for i, s in enumerate(["calibration"] * 8 + ["test"] * 2)
]
