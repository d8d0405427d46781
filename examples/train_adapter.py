"""Train an adapter (LoRA) on texts of your own, on a CPU, and use it as a strand.

    python examples/train_adapter.py texts.jsonl
    python examples/train_adapter.py texts.txt --base models/my-base --out adapters/mine

The texts are JSON lines with "text", or with "prompt" and "reference" (the loss then
counts the reference only), or plain text. The loss on texts that are held out is told
before and after. A run that was stopped, by whatever, goes on where it was. What is
written to --out is a strand of its own, beside its base and other adapters of it::

    fusion.Pool({"mine": {"source": base, "adapter": "adapters/mine"}})["mine"]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from fusion import Pool, Strand

STATE = "training.safetensors"
RESULT = "training.json"
WARM_UP = 10  # steps until the full rate
SETTINGS = ("base", "rank", "alpha", "targets", "steps", "batch", "length", "rate",
            "held_out", "seed")  # fmt: skip


class Piece(NamedTuple):
    """Tokens that are read at once, and which of them are learnt."""

    ids: list[int]
    counts: list[bool]


def main() -> None:
    options = read_options()
    texts = read_texts(options.texts)
    if len(texts) < 2:
        sys.exit(
            f"{options.texts} holds {len(texts)} texts; give two or more, as some are "
            "held out"
        )
    every = max(2, round(1 / options.held_out))
    try:
        strand = Pool({"base": options.base}, native=False)["base"]
        cut = [pieces(strand, text, options.length) for text in texts]
    except ValueError as error:
        sys.exit(str(error))
    held_out = [piece for found in cut[::every] for piece in found]
    training = [p for i, found in enumerate(cut) if i % every for p in found]
    for what, found in (("to train on", training), ("held out", held_out)):
        if not found:
            sys.exit(f"no text {what} has two tokens or more; give longer ones")
    run = Run(strand, training, held_out, options)
    try:
        run.train()
    except KeyboardInterrupt:
        sys.exit(f"\nstopped; {run.saved} steps are saved: run the same again to go on")
    run.finish()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train an adapter (LoRA) on texts of your own, on a CPU.",
        epilog="A run that was stopped goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("texts", type=Path, help="JSON lines, or plain text")
    parser.add_argument(
        "--base",
        default="SmolLM2-135M-Instruct",
        help="a folder, a GGUF file, a hub id or a packaged model",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("adapter"), help="folder of the adapter"
    )
    parser.add_argument("--steps", type=int, default=60, help="of the optimiser")
    parser.add_argument("--batch", type=int, default=4, help="pieces of text a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a piece")
    parser.add_argument("--rate", type=float, default=5e-4, help="of learning")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16, help="alpha / rank is a scale")
    parser.add_argument(
        "--targets",
        default="all-linear",
        help="which layers: all-linear, or names with commas between them",
    )
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="share of the texts"
    )
    parser.add_argument("--save-every", type=int, default=10, help="steps")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    options = parser.parse_args()
    if not options.texts.is_file():
        parser.error(f"no such file: {options.texts}")
    least = {"steps": 1, "batch": 1, "length": 8, "rank": 1, "alpha": 1,
             "save_every": 1}  # fmt: skip
    for name, low in least.items():
        if getattr(options, name) < low:
            parser.error(
                f"--{name.replace('_', '-')} must be at least {low}, received "
                f"{getattr(options, name)}"
            )
    if not 0 < options.held_out <= 0.5:
        parser.error(
            f"--held-out is above 0 and at most 0.5, received {options.held_out}"
        )
    if not options.rate > 0:
        parser.error(f"--rate is above 0, received {options.rate}")
    return options


# ---- texts ----


def read_texts(file: Path) -> list[tuple[str, str]]:
    """What is read first, often nothing, and what is learnt, of every text."""
    whole = file.read_text("utf-8-sig")
    if file.suffix not in (".jsonl", ".json"):
        parts = [part.strip("\n") for part in whole.split("\n\n")]
        return [("", part) for part in parts if part.strip()]
    texts = []
    for number, line in enumerate(whole.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "text" in row:
                found = ("", row["text"])
            else:
                found = (f"{row['prompt']}\n", row["reference"])
            if not isinstance(found[1], str) or not found[1].strip():
                raise TypeError(f"{found[1]!r} is no text")
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(
                f"{file}, line {number}: {type(error).__name__}: {error}; expected an "
                'object with "text", or with "prompt" and "reference"'
            )
        texts.append(found)
    return texts


def pieces(strand: Strand, text: tuple[str, str], length: int) -> list[Piece]:
    """One text in tokens, cut after so many of them."""
    first, then = text
    ids = strand.tokens.encode(first + then)
    begin = len(first.encode())
    counts = [int(end) > begin for end in strand.tokens.ends(ids)]
    end = strand.tokenizer.eos_token_id
    if first and end is not None:  # an answer ends somewhere, a text may go on
        ids, counts = [*ids, end], [*counts, True]
    found = []
    # The last token of a piece is the first of the next one, which it foretells.
    for at in range(0, max(1, len(ids) - 1), length - 1):
        piece = Piece(ids[at : at + length], counts[at : at + length])
        if any(piece.counts[1:]):
            found.append(piece)
    return found


def batch_of(chosen: Sequence[Piece]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their mask, and what is to be foretold, with -100 for the rest."""
    longest = max(len(piece.ids) for piece in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, piece in enumerate(chosen):
        n = len(piece.ids)
        ids[row, :n] = torch.tensor(piece.ids)
        mask[row, :n] = 1
        labels[row, :n] = ids[row, :n].where(torch.tensor(piece.counts), -100)
    labels[:, 0] = -100
    return ids, mask, labels


def loss_of(model: Any, chosen: Sequence[Piece]) -> tuple[Tensor, int]:
    """Sum of the loss of some pieces in nats, and of how many tokens it is."""
    ids, mask, labels = batch_of(chosen)
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    wanted = labels[:, 1:]
    at = wanted != -100
    # The head is most of the work: only where something counts.
    logits = model.get_output_embeddings()(hidden[:, :-1][at])
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    loss = nn.functional.cross_entropy(logits.float(), wanted[at], reduction="sum")
    return loss, int(at.sum())


# ---- training ----


class Run:
    """A run, as far as it has come.

    Parameters
    ----------
    strand : Strand
        The base; the adapter is put on its model.
    training, held_out : list of Piece
    options : Namespace
    """

    def __init__(
        self,
        strand: Strand,
        training: list[Piece],
        held_out: list[Piece],
        options: argparse.Namespace,
    ) -> None:
        try:
            from peft import LoraConfig
            from peft.functional import inject_adapter_in_model
        except ImportError:
            sys.exit("an adapter needs peft: pip install 'braidbandit[adapters]'")
        self.training, self.held_out, self.options = training, held_out, options
        targets = options.targets
        base = Path(options.base).expanduser()
        self.config = LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            target_modules=targets if targets == "all-linear" else targets.split(","),
            base_model_name_or_path=str(base.absolute() if base.exists() else base),
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(options.seed)
        try:
            self.model = inject_adapter_in_model(self.config, strand.model, "default")
        except ValueError as error:
            sys.exit(f"--targets {targets}: {error}")
        self.weights = {
            name: p for name, p in self.model.named_parameters() if p.requires_grad
        }
        self.optimiser = torch.optim.AdamW(self.weights.values(), options.rate)
        told = {name: getattr(options, name) for name in SETTINGS}
        told["texts"] = hashlib.sha256(str((training, held_out)).encode()).hexdigest()
        self.told = json.loads(json.dumps(told))
        self.saved, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.before: float | None = None
        self._resume()

    def train(self) -> None:
        """Go on until all steps are made."""
        if self.before is None:
            self.before = self.measure("held-out loss before")
            self._save()
        steps, started = self.options.steps, time.perf_counter()
        before = self.seconds
        bar = tqdm(range(self.saved, steps), "training", steps, initial=self.saved)
        for step in bar:
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate(step)
            chosen = [self.training[i] for i in self._chosen(step)]
            loss, count = loss_of(self.model, chosen)
            (loss / count).backward()
            nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.losses.append(loss.item() / count)
            bar.set_postfix(loss=f"{self.losses[-1]:.3f}")
            if (step + 1) % self.options.save_every == 0 or step + 1 == steps:
                self.seconds = before + time.perf_counter() - started
                self._save()

    def finish(self) -> None:
        """Write the adapter, and tell what it is worth."""
        from peft.functional import get_peft_model_state_dict

        out = self.options.out
        found = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        tensors = {f"base_model.model.{k}": v.contiguous() for k, v in found.items()}
        after = self.measure("held-out loss after")
        result = {**self.told, "before": self.before, "after": after,
                  "seconds": round(self.seconds, 1), "losses": self.losses}  # fmt: skip
        written = out / f".{RESULT}"
        written.write_text(json.dumps(result, indent=1))
        os.replace(written, out / RESULT)
        written = out / ".adapter_model.safetensors"
        save_file(tensors, written, metadata={"format": "pt"})
        os.replace(written, out / "adapter_model.safetensors")
        self.config.inference_mode = True
        self.config.save_pretrained(out)
        size = sum(p.numel() for p in self.weights.values())
        print(
            f"held-out loss: {self.before:.3f} before, {after:.3f} after (nats a token)"
        )
        print(
            f"{len(self.training)} pieces of text, {self.options.steps} steps in "
            f"{self.seconds / 60:.1f} minutes, {size:,} weights"
        )
        source = {"source": self.options.base, "adapter": str(out)}
        print(f"The adapter is {out}; as a strand: fusion.Pool({{'mine': {source}}})")

    @torch.no_grad()
    def measure(self, label: str) -> float:
        """The loss on what is held out, in nats a token."""
        size = self.options.batch
        sums, counts = 0.0, 0
        starts = range(0, len(self.held_out), size)
        for at in tqdm(starts, label, leave=False):
            loss, count = loss_of(self.model, self.held_out[at : at + size])
            sums, counts = sums + loss.item(), counts + count
        return sums / counts

    def _rate(self, step: int) -> float:
        """The rate of a step: up at first, then slowly down to nothing."""
        steps = self.options.steps
        up = (step + 1) / min(WARM_UP, steps)
        down = (steps - step) / max(1, steps - WARM_UP)
        return self.options.rate * min(1.0, up, down)

    def _chosen(self, step: int) -> list[int]:
        """Which pieces a step reads: told by the seed and the step alone."""
        found, size = [], self.options.batch
        for place in range(step * size, (step + 1) * size):
            epoch, at = divmod(place, len(self.training))
            generator = torch.Generator().manual_seed(self.options.seed * 1009 + epoch)
            found.append(
                int(torch.randperm(len(self.training), generator=generator)[at])
            )
        return found

    def _save(self) -> None:
        """Write all that the run needs to go on, in one file, whole or not at all."""
        self.saved = len(self.losses)
        tensors = {f"weight.{name}": p.detach() for name, p in self.weights.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value for key, value in state.items()}
        told = {"settings": self.told, "before": self.before, "losses": self.losses,
                "seconds": self.seconds}  # fmt: skip
        out = self.options.out
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / f".{STATE}", metadata={"told": json.dumps(told)})
        os.replace(out / f".{STATE}", out / STATE)

    def _resume(self) -> None:
        """Go on from what is saved, if it is of the same run."""
        file = self.options.out / STATE
        if not file.exists():
            return
        try:
            with safe_open(file, "pt") as opened:
                told = json.loads(opened.metadata()["told"])
            tensors = load_file(file)
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            sys.exit(f"cannot read {file}: {error}; remove it to begin anew")
        differ = [k for k in self.told if self.told[k] != told["settings"].get(k)]
        if differ:
            sys.exit(
                f"{file.parent} holds a run that differs in {differ}; give the same, "
                f"another --out, or remove {file} to begin anew"
            )
        with torch.no_grad():
            for name, p in self.weights.items():
                p.copy_(tensors[f"weight.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "optimiser":
                i, what = rest.split(".")
                state.setdefault(int(i), {})[what] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.before, self.losses = told["before"], told["losses"]
        self.saved, self.seconds = len(self.losses), told["seconds"]


if __name__ == "__main__":
    main()
