"""GGUF files, or their tokenizers, converted once to what transformers can load."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .._files import making
from .loading import load, load_model, no_bars

_LOG = logging.getLogger(__name__)


def converted(file: Path, cache: Path) -> Path:
    """The folder in ``cache`` that a GGUF file is converted to, made where it is not.

    Found by the file's content: models of one shape come as files of one name and size.
    """
    target = cache / "strands" / f"{file.stem}-{digest_of(file)[:12]}"
    if not target.exists():
        _convert(file, target)
    return target


def tokenizer_of(file: Path, cache: Path) -> Any:
    """The tokenizer in a GGUF file, converted once to a folder in ``cache``."""
    target = cache / "tokenizers" / f"{file.stem}-{digest_of(file)[:12]}"
    if not target.exists():
        _LOG.info("converting the tokenizer of %s, once ...", file.name)
        with _alone(file) as (folder, where):
            tokenizer = load(AutoTokenizer, folder, str(file), **where)
        _keep(target, tokenizer.save_pretrained)
    return load(AutoTokenizer, str(target), str(file))


def digest_of(file: Path) -> str:
    """Hash of a file's content, kept as long as the file looks the same."""
    found = file.stat()
    stamp = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return _digest(file.resolve(), stamp)


@lru_cache
def _digest(file: Path, stamp: tuple[int, ...]) -> str:
    """Hash of a file's content; read again when its stamp has changed."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(2**24):
            digest.update(part)
    return digest.hexdigest()


@no_bars()
def _convert(file: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a folder of safetensors."""
    _LOG.info("converting %s to safetensors, once (20 to 60 s) ...", file.name)
    model, tokenizer = _read(file)
    # The loaded model still calls itself quantised and refuses to be saved.
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(
        type(model.config).from_dict(settings), dtype=torch.float32
    )
    plain.load_state_dict(model.state_dict())
    _keep(target, plain.save_pretrained, tokenizer.save_pretrained)


def _keep(target: Path, *parts: Callable[[Path], Any]) -> None:
    """Make a folder of some parts, unless another process was faster."""
    try:
        with making(target) as folder:
            for save in parts:
                save(folder)
    except OSError:
        if not target.exists():
            raise


@contextmanager
def _alone(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A folder with a file by itself, and how transformers is told of it.

    What lies beside a file is not told by its hash.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / file.name).symlink_to(file.resolve())
        except OSError:  # Windows may refuse links
            shutil.copyfile(file, Path(folder) / file.name)
        yield folder, {"gguf_file": file.name}


def _read(file: Path) -> tuple[Any, Any]:
    """The model in a file and its tokenizer."""
    with _alone(file) as (folder, where):
        tokenizer = load(AutoTokenizer, folder, str(file), **where)
        model = load_model(folder, str(file), dtype=torch.float32, **where)
    return model, tokenizer
