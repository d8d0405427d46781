"""GGUF files converted to folders that transformers can load, once."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
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
    found = file.stat()
    stamp = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    key = _digest(file.resolve(), stamp)
    target = cache / "strands" / f"{file.stem}-{key[:12]}"
    if not target.exists():
        _convert(file, target)
    return target


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
    try:
        with making(target) as folder:
            plain.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except OSError:
        if not target.exists():  # else another process was faster
            raise


def _read(file: Path) -> tuple[Any, Any]:
    """The model in a file and its tokenizer."""
    where: dict[str, Any] = {"gguf_file": file.name}
    # By itself: what lies beside a file is not told by its hash.
    with tempfile.TemporaryDirectory() as alone:
        try:
            (Path(alone) / file.name).symlink_to(file.resolve())
        except OSError:  # Windows may refuse links
            shutil.copyfile(file, Path(alone) / file.name)
        tokenizer = load(AutoTokenizer, alone, str(file), **where)
        model = load_model(alone, str(file), dtype=torch.float32, **where)
    return model, tokenizer
