"""The loss that fusers are trained on, with a cheap sum over the vocabulary.

The language-model loss needs the whole vocabulary, and for a model of 270 M weights
with 262k tokens the head is most of the work. So the partition function is summed over
the tokens that matter, and estimated from a sample over all others. What calibration
reports is always the exact loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..strands.strand import Strand
from .features import TextFeatures

ACTIVE = 4096
SAMPLED = 2048
POSITIONS = 2048  # that decide which tokens matter
CHUNK = 128  # positions per call of the head


@torch.no_grad()
def mean_distribution(
    strand: Strand, texts: Sequence[TextFeatures], seed: int
) -> Tensor:
    """The strand's next-token distribution, averaged over positions of the texts.

    Parameters
    ----------
    strand : Strand
    texts : sequence of TextFeatures
        Of this strand.
    seed : int
        Of the draw of positions, where there are more than `POSITIONS`.

    Returns
    -------
    Tensor (V,)
        Probabilities.
    """
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

    Attributes
    ----------
    active : Tensor, int64
        The tokens A, in ascending order.
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
        self.rows = strand.head_rows(self.active)

    def _logits(self, hidden: Tensor, rows: tuple[Tensor, Tensor | None]) -> Tensor:
        out = nn.functional.linear(hidden.to(rows[0].dtype), *rows)
        return self.strand.cap(out.float())

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over some positions.

        Parameters
        ----------
        hidden : Tensor (N, width)
            Fused states.
        targets : Tensor (N,), int64
            The tokens that come next.

        Returns
        -------
        Tensor ()
            In nats per token.
        """
        return nn.functional.cross_entropy(self._some(hidden), self.where[targets])

    def log_probs(self, hidden: Tensor, place: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of N tokens, several of which may be asked at one place.

        Parameters
        ----------
        hidden : Tensor (U, width)
            Fused states.
        place : Tensor (N,), int64
            Behind which of them each token comes.
        targets : Tensor (N,), int64
            Among the ``targets`` that the loss was made for.

        Returns
        -------
        Tensor (N,)
            In nats.
        """
        logs = self._some(hidden).log_softmax(-1)
        return logs[place, self.where[targets]]

    def _some(self, hidden: Tensor) -> Tensor:
        """Logits of the active tokens and, weighted by its draw, of a sample."""
        logits = self._logits(hidden, self.rows)
        if len(self.active) < len(self.rest):
            drawn = torch.multinomial(self.rest, self.sampled, replacement=True)
            others = self._logits(hidden, self.strand.head_rows(drawn))
            others = others - (self.sampled * self.rest[drawn]).log()
            logits = torch.cat([logits, others], dim=-1)
        return logits
