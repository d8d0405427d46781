"""Features of calibration text, and the loss that fusers are trained on.

The language-model loss needs the whole vocabulary, and for a 270 M model with 262k
tokens the head is most of the work. Two things make it cheap: strands are frozen, so
their states are computed once; and of the partition function only the part that
training can move much is recomputed,

    Z' = sum_{v in C} exp l'_v + (Z - sum_{v in C} exp l_v) * r
    r  = sum_{v in R} exp l'_v / sum_{v in R} exp l_v

with l the frozen strand's logits, l' the fused ones, Z the frozen partition function,
C the targets and the 32 most likely tokens of every position in the step, and R a
fresh random sample of the vocabulary. Without r, mass that leaks to other tokens costs
nothing, and most of what training seems to gain is not there. What is reported is
always the exact loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .cache import DonorStates
from .strand import Strand, Tap

TOP = 32
RANDOM = 4096
CHUNK = 128


@dataclass
class TextFeatures:
    """What one strand makes of one text of T tokens."""

    ids: Tensor  # (T,)
    ends: np.ndarray  # (T,) bytes completed
    hidden: Tensor  # (T, width) after the final norm
    log_z: Tensor  # (T,) log partition function
    top: Tensor  # (T, TOP) most likely next tokens

    @property
    def targets(self) -> Tensor:
        return self.ids[1:]


@torch.no_grad()
def read_text(strand: Strand, text: str) -> TextFeatures:
    """One pass of a strand over a text."""
    ids = strand.tokens.encode(text)
    batch = torch.tensor([ids], device=strand.device)
    hidden = strand.run(batch, taps=["final"])["final"][0]
    log_z, top = [], []
    for part in hidden.split(CHUNK):
        logits = strand.logits(part).float()
        # log_softmax and a difference: much faster than logsumexp on a wide head.
        log_z.append(logits[:, 0] - logits.log_softmax(-1)[:, 0])
        top.append(logits.topk(min(TOP, logits.shape[-1]), sorted=False).indices)
    ends = strand.tokens.ends(ids)
    return TextFeatures(batch[0], ends, hidden, torch.cat(log_z), torch.cat(top))


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


def same_end(anchor: TextFeatures, donor: TextFeatures) -> np.ndarray:
    """Positions (T,) where both strands have read exactly the same bytes."""
    return np.isin(anchor.ends, donor.ends)


def candidate_loss(
    strand: Strand, fused: Sequence[Tensor], texts: Sequence[TextFeatures]
) -> Tensor:
    """Mean loss (nats per token) of fused states (T, width), one per text."""
    hidden = torch.cat([f[:-1] for f in fused])
    before = torch.cat([t.hidden[:-1] for t in texts])
    targets = torch.cat([t.targets for t in texts])
    log_z = torch.cat([t.log_z[:-1] for t in texts])
    top = torch.cat([t.top[:-1].flatten() for t in texts])
    candidates, where = torch.unique(torch.cat([targets, top]), return_inverse=True)
    others = torch.randint(strand.vocab_size, (RANDOM,), device=hidden.device)
    bias = getattr(strand.head, "bias", None)

    def logits(states: Tensor, tokens: Tensor) -> Tensor:
        rows = strand.head.weight[tokens]
        out = states.to(rows.dtype) @ rows.T
        out = (out if bias is None else out + bias[tokens]).float()
        return strand.cap(out)

    with torch.no_grad():
        covered = logits(before, candidates).logsumexp(-1)
        tail = log_z + torch.log1p(-(covered - log_z).exp().clamp(max=1 - 1e-6))
        tail = tail - logits(before, others).logsumexp(-1)
    new = logits(hidden, candidates)
    tail = tail + logits(hidden, others).logsumexp(-1)
    log_z_new = torch.logaddexp(new.logsumexp(-1), tail)
    picked = new.gather(1, where[: len(targets), None])[:, 0]
    return (log_z_new - picked).mean()


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
    """AdamW over groups of texts, keeping the epoch that is best on held-out texts.

    Stops at the first epoch that is no better. The state before training counts as
    an epoch, so a module never ends worse than it began. Returns that best loss.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    generator = np.random.default_rng(seed)

    def score() -> float:
        with torch.no_grad():
            parts = [held_out[i : i + group] for i in range(0, len(held_out), group)]
            return float(np.mean([float(loss(part)) for part in parts]))

    def snapshot() -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in module.state_dict().items()}

    best, kept = score(), snapshot()
    steps = epochs * math.ceil(len(training) / group)
    # Large steps first, none at the end: with this little text it overfits otherwise.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 1 - i / steps)
    with tqdm(total=steps, desc=label, disable=not progress, leave=False) as bar:
        for _ in range(epochs):
            order = generator.permutation(training).tolist()
            for i in range(0, len(order), group):
                optimiser.zero_grad()
                loss(order[i : i + group]).backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                schedule.step()
                bar.update()
            now = score()
            if not now < best - 1e-4:
                break
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
    gram += penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
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
