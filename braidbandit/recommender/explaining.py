"""Put one choice into numbers that add up and into one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.choice import Choice
from braidbandit.bandit.posterior import Posterior
from braidbandit.catalogue.features import block_of
from braidbandit.recommender.arm_model import ArmLearner
from braidbandit.recommender.counterfactual import nearest_change
from braidbandit.recommender.explanation import ArmRow, Explanation, KnownTask
from braidbandit.recommender.scoring import Situation

Array = NDArray[np.float64]

_WORDS = {
    "share": "the shares of its models",
    "anchor": "its anchor",
    "pair": "how its models work together",
    "strands": "its number of models",
    "layers": "its fusion layers",
    "strategy": "its strategy",
    "control": "its own-state fuser",
    "cost": "its size",
    "gain": "how its models fared on the probe tasks",
    "arm": "its own record",
}
# Contributions to quality below this are not worth a word.
_WORTH_SAYING = 0.005
_NEAREST = 5
_DRAWS = 1000


@dataclass(frozen=True)
class ChoiceView:
    """Everything that went into one choice.

    Parameters
    ----------
    learner : ArmLearner
    now : Situation
    choice : Choice
    kind : tuple of (type, share), optional
        Type of the task and how sure that is.
    """

    learner: ArmLearner
    now: Situation
    choice: Choice
    kind: tuple[str, float] | None

    @cached_property
    def scores(self) -> Array:
        """Score of every arm before masking, shape (A,)."""
        return self.now.belief.mean + self.choice.exploration + self.now.cost_term

    def blocks(self) -> dict[str, float]:
        """Split the chosen arm's lead over the best single model by block.

        The values add up to the difference of the two expected qualities.
        """
        bandit = self.learner.bandit
        singles = self.learner.catalogue.singles
        if not len(singles):
            return {}
        best = int(singles[self.now.belief.mean[singles].argmax()])
        belief, arm = self.now.belief, self.choice.arm
        lead = (bandit.Z_[arm] - bandit.Z_[best]) * belief.mu
        blocks = {"arm": float(belief.own[arm] - belief.own[best])}
        for column in lead.nonzero()[0].tolist():
            block = block_of(bandit.columns_[column])
            blocks[block] = blocks.get(block, 0.0) + float(lead[column])
        return {block: value for block, value in blocks.items() if value}

    def sentence(self) -> str:
        """Say what was chosen, why, and what is expected of it."""
        row, belief, catalogue = (
            self.choice.arm,
            self.now.belief,
            self.learner.catalogue,
        )
        reasons = []
        # Arms that lost an early round score the same as the winner, up to rounding.
        better = self.scores > self.scores[row] + 1e-9
        if (better & self.now.eligible).any():
            reasons.append("every eligible braid is tried now and then, at random")
        if self.now.missed_target:
            reasons.append(
                f"no braid is expected to reach {self.now.limits.accuracy_target:g}"
            )
        if self.kind is not None:
            reasons.append(f"the task is {self.kind[0]}-related ({self.kind[1]:.2f})")
        leading = sorted(self.blocks().items(), key=lambda item: -item[1])[:2]
        said = [(b, v) for b, v in leading if v > _WORTH_SAYING and b in _WORDS]
        if said:
            gains = " and ".join(f"{_WORDS[b]} ({v:+.2f})" for b, v in said)
            reasons.append(f"{gains} speak for it over the best single model")
        if not reasons or np.ptp(belief.mean) < 1e-9:
            reasons.append("nothing known yet speaks for another")
        cost = catalogue.relative_costs()[row]
        return (
            f"chose {catalogue.braids[row].label()}, because "
            f"{' and '.join(reasons)}; expected quality {belief.mean[row]:.2f} "
            f"+- {belief.sd_of(row):.2f}, cost {cost:.2f} of the dearest "
            f"(probability {self.choice.propensity:.2f})"
        )

    def explanation(self) -> Explanation:
        """Return every arm's terms, and why this one."""
        catalogue, now = self.learner.catalogue, self.now
        reasons = now.reasons(catalogue)
        rows = tuple(
            ArmRow(
                arm_id=arm_id,
                label=catalogue.braids[row].label(),
                mean=float(now.belief.mean[row]),
                exploration=float(self.choice.exploration[row]),
                cost=float(now.cost_term[row]),
                mask=0.0 if now.eligible[row] else float("-inf"),
                reason=reasons[row],
                probability=float(self.choice.probabilities[row]),
                sd=float(now.belief.sd[row]),
            )
            for row, arm_id in enumerate(catalogue.ids)
        )
        prior, nearest = self.prior(), self.nearest()
        known = sum(task.contribution for task in nearest)
        return Explanation(
            arm_id=catalogue.ids[self.choice.arm],
            rows=rows,
            blocks=self.blocks(),
            sentence=self.sentence(),
            probability=self.choice.propensity,
            confidence=self.confidence(),
            costs={k: float(v[self.choice.arm]) for k, v in now.costs.items()},
            prior=prior,
            nearest=nearest,
            rest=float(now.belief.mean[self.choice.arm]) - prior - known,
            counterfactual=nearest_change(
                self.learner, now, self.scores, self.choice.arm
            ),
        )

    def confidence(self) -> float:
        """Probability that no eligible arm is better, costs counted.

        By joint draws from the posterior, the same ones every time.
        """
        draws = self.now.belief.draw(_DRAWS, np.random.default_rng(0))
        scores = np.where(self.now.eligible, draws + self.now.cost_term, -np.inf)
        return float((scores.argmax(axis=1) == self.choice.arm).mean())

    def prior(self) -> float:
        """Return the expected quality of the chosen arm before anything was learnt."""
        z = self.learner.bandit.Z_[self.choice.arm]
        return self._prior_of(z, self.now.x)

    def nearest(self) -> tuple[KnownTask, ...]:
        """Return the learnt tasks most like this one, and what each adds.

        The posterior mean is the prior mean plus, for every reward that was learnt,
        ``cov(arm, its arm) (reward - its prior mean) weight / noise^2``: an exact
        split of the arm's expected quality by observation.
        """
        learner, posterior = self.learner, self.learner.bandit.posterior_
        records = list(learner.log.learnt.values())
        if not records:
            return ()
        X = np.array([record.decision.x for record in records])
        near = _cosines(X[:, 1:], self.now.x[1:])
        arm = self.choice.arm
        here = _loading(posterior, arm, learner.bandit.Z_[arm], self.now.x)
        found = []
        for i in np.argsort(-near, kind="stable")[:_NEAREST]:
            record = records[i]
            other, z, x, _ = learner.evidence(record.decision, record.weight)
            weight = record.applied * learner.bandit.kept(record.faded)
            surprise = record.reward - self._prior_of(z, x)
            together = float(_loading(posterior, other, z, x) @ here)
            if other == arm:
                width = posterior.own_width
                own = posterior.own_covariance[arm] @ x[:width]
                together += float(self.now.x[:width] @ own)
            gain = together * weight / posterior.scales.noise**2
            found.append(
                KnownTask(
                    decision_id=record.decision.id,
                    task_hash=record.decision.task_hash,
                    label=record.decision.braid.label(),
                    reward=record.reward,
                    similarity=float(near[i]),
                    contribution=gain * surprise,
                )
            )
        return tuple(found)

    def _prior_of(self, z: Array, x: Array) -> float:
        # Only the intercepts (block 0) have a prior mean that is not zero.
        posterior = self.learner.bandit.posterior_
        return posterior.scales.mean * float(z @ (posterior.groups == 0) @ x)


def _loading(posterior: Posterior, arm: int, z: Array, x: Array) -> Array:
    """What an arm's quality on a task loads on the columns of the factor, (p,).

    The inner product of two is their covariance, but for what is the arm's alone.
    """
    rows, columns = np.nonzero(posterior.groups >= 0)
    load = (z[rows] * x[columns]) @ posterior.factor
    for slot in np.flatnonzero(posterior.seen == arm):
        load = load - x[: posterior.own_width] @ posterior.own_load[slot]
    return np.asarray(load)


def _cosines(X: Array, x: Array) -> Array:
    norms = np.linalg.norm(X, axis=1) * np.linalg.norm(x)
    return np.where(norms > 0, X @ x / np.where(norms > 0, norms, 1.0), 0.0)
