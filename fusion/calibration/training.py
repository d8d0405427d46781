"""Features of calibration text, and the loss that fusers are trained on.

The language-model loss needs the whole vocabulary, and for a 270 M model with 262k
tokens the head is most of the work. Two things make it cheap: strands are frozen, so
their states are computed once; and the partition function is a sum over the tokens
that matter, plus an importance-sampled sum over the rest (`SampledSoftmax`). What is
reported is always the exact loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..braid.cache import DonorStates
from ..strands.strand import Strand, Tap

ACTIVE = 4096
SAMPLED = 2048
POSITIONS = 2048  # that decide which tokens matter
CHUNK = 128
BATCH = 2048  # tokens


@dataclass
class TextFeatures:
    """What one strand makes of one text of T tokens."""

    ids: Tensor  # (T,)
    ends: np.ndarray  # (T,) bytes completed
    hidden: Tensor  # (T, width) after the final norm

    @property
    def targets(self) -> Tensor:
        return self.ids[1:]


@torch.no_grad()
def read_texts(
    strand: Strand,
    texts: Sequence[str],
    *,
    anchor: Strand | None = None,
    label: str = "",
    progress: bool = False,
) -> list[TextFeatures]:
    """One pass of a strand over texts, in batches of about the same length.

    Of an ``anchor`` it is a donor: it reads what the anchor's tokens write. Padding on
    the right: a causal model reads the text before it as it would alone.
    """
    encoded = [(anchor or strand).tokens.read_with_ends(text)[0] for text in texts]
    if anchor is not None:
        encoded = [strand.tokens.of_anchor(anchor.tokens, ids) for ids in encoded]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    found: dict[int, TextFeatures] = {}
    options = {"desc": label, "disable": not progress, "leave": False}
    with tqdm(total=len(texts), **options) as bar:
        while len(found) < len(texts):
            batch = order[len(found) : len(found) + 1]
            for i in order[len(found) + 1 :]:
                apart = {strand.is_long(len(encoded[j])) for j in (i, batch[0])}
                if (len(batch) + 1) * len(encoded[i]) > BATCH or len(apart) > 1:
                    break
                batch.append(i)
            rows = [torch.tensor(encoded[i], device=strand.device) for i in batch]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            hidden = strand.run(padded, taps=["final"])["final"]
            for i, ids, states in zip(batch, rows, hidden, strict=True):
                ends = strand.tokens.ends(encoded[i])
                found[i] = TextFeatures(ids, ends, states[: len(ids)].clone())
            bar.update(len(batch))
    return [found[i] for i in range(len(texts))]


def donor_view(
    anchor: TextFeatures, donor: TextFeatures, states: Tensor
) -> DonorStates:
    """The donor beside the anchor's positions, both reading the whole text.

    Cheaper than following the growing text as serving does (`cache.walk`), and the
    same but for the few positions where later text changes the donor's tokens.
    """
    last = np.searchsorted(donor.ends, anchor.ends, side="right") - 1
    index = torch.from_numpy(last).to(states.device)
    visible = torch.arange(len(donor.ids), device=states.device) <= index[:, None]
    return DonorStates(states[None], index[None], visible[None])


@torch.no_grad()
def mean_distribution(
    strand: Strand, texts: Sequence[TextFeatures], seed: int
) -> Tensor:
    """The strand's next-token distribution (V,), averaged over sampled positions."""
    hidden = torch.cat([t.hidden for t in texts])
    generator = torch.Generator().manual_seed(seed)
    at = torch.randperm(len(hidden), generator=generator)[:POSITIONS]
    total = torch.zeros(strand.vocab_size, device=hidden.device)
    for part in hidden[at].split(CHUNK):
        total += strand.logits(part).float().softmax(-1).sum(0)
    return total / len(at)


class SampledSoftmax:
    """The language-model loss with a cheap partition function.

    ``Z = sum_{v in A} exp l_v + sum_{v in R} exp l_v / (|R| q_v)`` with A the active
    tokens (all targets, and the most likely ones on average) and R a fresh sample of
    the other tokens, drawn from q, their average distribution: an unbiased estimate,
    so mass that leaks to any token costs what it should. Importance sampling as in
    Bengio and Senecal, "Quick training of probabilistic neural nets by importance
    sampling", AISTATS 2003.

    Parameters
    ----------
    strand : Strand
        Whose head and vocabulary.
    mean : Tensor (V,)
        From `mean_distribution`.
    targets : Tensor, int64
        Every token that will be asked for.
    active, sampled : int
        How many tokens are always counted (besides the targets), and |R|.
    """

    def __init__(
        self,
        strand: Strand,
        mean: Tensor,
        targets: Tensor,
        active: int = ACTIVE,
        sampled: int = SAMPLED,
    ) -> None:
        self.strand, self.sampled = strand, sampled
        most = mean.topk(min(active, len(mean))).indices
        self.active = torch.unique(torch.cat([most, targets]))
        self.where = torch.full_like(mean, -1, dtype=torch.long)
        self.where[self.active] = torch.arange(len(self.active), device=mean.device)
        rest = mean + 1e-8  # a token that is never likely can still be drawn
        rest[self.active] = 0.0
        self.rest = rest / rest.sum().clamp(min=1e-30)
        self.rows = self._head(self.active)

    def _head(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        head = self.strand.head
        bias = getattr(head, "bias", None)
        return head.weight[tokens], None if bias is None else bias[tokens]

    def _logits(self, hidden: Tensor, rows: tuple[Tensor, Tensor | None]) -> Tensor:
        out = nn.functional.linear(hidden.to(rows[0].dtype), *rows)
        return self.strand.cap(out.float())

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean loss (nats per token) of fused states (N, width)."""
        logits = self._logits(hidden, self.rows)
        if len(self.active) < len(self.rest):
            drawn = torch.multinomial(self.rest, self.sampled, replacement=True)
            others = self._logits(hidden, self._head(drawn))
            others = others - (self.sampled * self.rest[drawn]).log()
            logits = torch.cat([logits, others], dim=-1)
        return nn.functional.cross_entropy(logits, self.where[targets])


def train(
    module: nn.Module,
    loss: Callable[[Sequence[int]], Tensor],
    training: Sequence[int],
    held_out: Sequence[int],
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    group: int = 4,
    label: str = "",
    progress: bool = True,
) -> float:
    """AdamW over groups of items, keeping the state that is best on held-out items.

    Twice an epoch the module is scored, always with the same random numbers; the
    state before training counts, so a module never ends worse than it began.
    Returns the best loss.
    """
    if not training or not held_out:
        raise ValueError(
            f"received {len(training)} items to train on and {len(held_out)} to judge "
            "by; give longer texts: one token alone predicts nothing"
        )
    parameters = [p for p in module.parameters() if p.requires_grad]
    cards = {p.device for p in parameters if p.device.type == "cuda"}
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    generator = np.random.default_rng(seed)

    def score() -> float:
        with torch.no_grad(), torch.random.fork_rng(devices=cards):
            torch.manual_seed(seed)
            starts = range(0, len(held_out), group)
            parts = [held_out[i : i + group] for i in starts]
            total = sum(float(loss(part)) * len(part) for part in parts)
        return total / len(held_out)

    def snapshot() -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in module.state_dict().items()}

    best, kept = score(), snapshot()
    per_epoch = math.ceil(len(training) / group)
    steps = epochs * per_epoch
    # Large steps first, none at the end: with this little text it overfits otherwise.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 1 - i / steps)
    order = np.concatenate([generator.permutation(training) for _ in range(epochs)])
    for step in tqdm(range(steps), desc=label, disable=not progress, leave=False):
        epoch, part = divmod(step, per_epoch)
        low = epoch * len(training) + part * group
        high = min(low + group, (epoch + 1) * len(training))
        optimiser.zero_grad()
        loss(order[low:high].tolist()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if part + 1 in (per_epoch, per_epoch // 2):
            now = score()
            if now < best:
                best, kept = now, snapshot()
    module.load_state_dict(kept)
    return best


@torch.no_grad()
def ridge(x: Tensor, y: Tensor, penalty: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias of the ridge map from rows of x to rows of y.

    The penalty is relative to the mean variance of x's columns.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> weight, bias = ridge(x, 3 * x + 1, penalty=0.0)
    >>> round(weight.item(), 4), round(bias.item(), 4)
    (3.0, 1.0)
    """
    x, y = x.double(), y.double()
    mx, my = x.mean(0), y.mean(0)
    cx, cy = x - mx, y - my
    gram = cx.T @ cx
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, cx.T @ cy).T
    return weight.float(), (my - weight @ mx).float()


@torch.no_grad()
def read_layers(
    strand: Strand, texts: Sequence[TextFeatures], taps: Sequence[Tap]
) -> list[dict[Tap, Tensor]]:
    """The strand's states at some layers, per text."""
    return [
        {tap: s[0] for tap, s in strand.run(t.ids[None], taps=taps).items()}
        for t in texts
    ]
