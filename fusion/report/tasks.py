"""How often arms answer right: ``python -m fusion.report --tasks FILE.jsonl``.

Which braid, which calibrated strand of each set, which pool: all are picked on
calibration questions that nothing was trained on, and judged on the test.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..braid.model import BraidedLLM
from ..calibration.texts import MIN_TEXTS
from ..judging.choices import RULES
from ..strands.strand import Strand
from .answers import Answer, Answers
from .arms import (
    BRAID,
    CALIBRATED,
    MIXTURE,
    OBJECTIVES,
    PRODUCT,
    STRAND,
    Arm,
    arms,
    single_arms,
)
from .controls import Shuffled
from .paired import accuracy, mean_of_sets, over_sets, paired
from .questions import Asked, parted

_LOG = logging.getLogger(__name__)

Right = dict[str, list[float]]  # by set, how right each question is
PER_SET = "best calibrated strand of each set"


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    Attributes
    ----------
    models : sequence of str
        At least two.
    strategies, places, objectives : sequence of str
    rule : str
        By which arms are picked and compared; one of `choices.RULES`.
    same_cost : str or None
        A model that stands beside the braids, and in none.
    prompted_only : bool
        Leave out the likelihood without the prompt, which is half of the work.
    every : bool
        Score all arms on the test, not only those that were picked and the controls.
    seed : int
    """

    models: Sequence[str]
    strategies: Sequence[str] = ("router",)
    places: Sequence[str] = ("output", "final", "final+output")
    objectives: Sequence[str] = OBJECTIVES
    rule: str = "byte"
    same_cost: str | None = None
    prompted_only: bool = False
    every: bool = False
    seed: int = 0

    @property
    def rules(self) -> tuple[str, ...]:
        """Those by which the test is told."""
        return tuple(
            rule
            for rule in RULES
            if rule != "unprompted" or not self.prompted_only or rule == self.rule
        )


@dataclass
class Bench:
    """Arms that are built and calibrated, and their answers.

    Attributes
    ----------
    strands : dict of Strand by name
    training : list of Asked
    store : Path
    answers : Answers
    seed : int
    progress : bool
    """

    strands: dict[str, Strand]
    training: list[Asked]
    store: Path
    answers: Answers
    seed: int
    progress: bool

    def built(self, wanted: Sequence[Arm]) -> dict[Arm, BraidedLLM]:
        """Arms as models, calibrated."""
        strands: dict[str, Any] = dict(self.strands)
        strands |= {s.name: s for s in map(Shuffled, self.strands.values())}
        models = {}
        for i, arm in enumerate(wanted):
            _LOG.info("%d of %d: %s", i + 1, len(wanted), arm.label)
            names = (arm.config.anchor, *arm.config.donors)
            models[arm] = arm.build([strands[name] for name in names])
            arm.calibrate(
                models[arm], self.training, self.store, self.seed, self.progress
            )
        return models

    def right(
        self,
        models: Mapping[Arm, BraidedLLM],
        questions: Sequence[Asked],
        label: str,
        rules: Sequence[str],
    ) -> dict[str, dict[Arm, Right]]:
        """By rule, how right the answers of each arm are."""
        unprompted = "unprompted" in rules
        found = self.answers.of(list(models.values()), questions, label, unprompted)
        return {
            rule: {
                arm: _right(answers, questions, rule)
                for arm, answers in zip(models, found, strict=True)
            }
            for rule in rules
        }


def report(bench: Bench, plan: Plan, questions: Sequence[Asked]) -> dict[str, Any]:
    """Accuracies of arms, and paired differences of the best braid to every control.

    Parameters
    ----------
    bench : Bench
        With the strands of the plan.
    plan : Plan
    questions : sequence of Asked

    Returns
    -------
    dict
        What ``--json`` prints.
    """
    bench.training, picking, test = parted(questions)
    _tell_repeats([*bench.training, *picking], test)
    objectives = _possible(plan.objectives, bench.training)
    mine = list(arms(plan.models, plan.strategies, plan.places, objectives))
    beside = [] if plan.same_cost is None else [plan.same_cost]
    others = list(single_arms(beside, objectives))
    models = bench.built([*mine, *others])
    seen = bench.right(models, picking, "questions to pick by", (plan.rule,))
    at_picking = seen[plan.rule]
    picked = Picked.of({arm: at_picking[arm] for arm in mine})
    control = picked.braid.shuffled
    models |= bench.built([control])
    chosen = [*picked.arms(mine), control, *_best_of_each(others, at_picking)]
    if plan.every:
        chosen = list(models)
    tested = bench.right(
        {arm: models[arm] for arm in chosen}, test, "test questions", plan.rules
    )
    return {
        "rule": plan.rule,
        "questions": {
            "calibration": len(bench.training),
            "picking": len(picking),
            "test": len(test),
        },
        "arms": [
            {
                "label": arm.label,
                "kind": arm.kind,
                "picking": accuracy(at_picking[arm]) if arm in at_picking else None,
                "test": {rule: accuracy(right[arm]) for rule, right in tested.items()},
            }
            for arm in chosen
        ],
        "braid": picked.braid.label,
        "strand of each set": {name: arm.label for name, arm in picked.strands.items()},
        "differences": _differences(
            picked, [control, *(arm for arm in others if arm in chosen)], tested, plan
        ),
        "questions per minute and arm": bench.answers.speed.per_minute,
    }


def _possible(objectives: Sequence[str], training: Sequence[Asked]) -> list[str]:
    """Those for which there is enough to train on."""
    counts = {
        "text": sum(bool(asked.reference) for asked in training),
        "choice": sum(bool(asked.choices) for asked in training),
    }
    found = [name for name in objectives if counts[name] >= MIN_TEXTS]
    if not found:
        raise ValueError(
            f"there are {counts} calibration questions to train on for {objectives}; "
            f"give at least {MIN_TEXTS} with a right answer as text, beside every "
            f"third, which is kept for picking"
        )
    return found


@dataclass(frozen=True)
class Picked:
    """What was picked on calibration questions.

    Attributes
    ----------
    braid : Arm
    strands : dict of Arm by set
        The calibrated strand that is best on each set.
    calibrated : list of Arm
        Of each strand, the objective that is best for it.
    pools : list of Arm
        The best output mixture, and the best product of experts.
    """

    braid: Arm
    strands: dict[str, Arm]
    calibrated: list[Arm]
    pools: list[Arm]

    @classmethod
    def of(cls, seen: Mapping[Arm, Right]) -> Picked:
        """Pick by how right each arm is on some questions; the first of equals."""
        calibrated = {arm: r for arm, r in seen.items() if arm.kind == CALIBRATED}
        sets = list(next(iter(seen.values())))
        return cls(
            _best(seen, BRAID),
            {
                name: max(calibrated, key=lambda arm: accuracy(seen[arm])[name])
                for name in sets
            },
            _best_of_each(list(calibrated), seen),
            [_best(seen, kind) for kind in (MIXTURE, PRODUCT)],
        )

    def arms(self, known: Sequence[Arm]) -> list[Arm]:
        """All that are compared: plain strands, and what was picked, each once."""
        plain = [arm for arm in known if arm.kind == STRAND]
        more = [*self.calibrated, *self.strands.values(), *self.pools, self.braid]
        return list(dict.fromkeys([*plain, *more]))


def _best(seen: Mapping[Arm, Right], kind: str) -> Arm:
    mine = [arm for arm in seen if arm.kind == kind]
    return max(mine, key=lambda arm: mean_of_sets(seen[arm]))


def _best_of_each(known: Sequence[Arm], seen: Mapping[Arm, Right]) -> list[Arm]:
    """Plain strands, and of each strand the calibration that is best."""
    plain = [arm for arm in known if arm.kind == STRAND]
    best: dict[str, Arm] = {}
    for arm in (arm for arm in known if arm.kind == CALIBRATED):
        other = best.setdefault(arm.config.anchor, arm)
        if mean_of_sets(seen[arm]) > mean_of_sets(seen[other]):
            best[arm.config.anchor] = arm
    return [*plain, *best.values()]


def _right(answers: Sequence[Answer], questions: Sequence[Asked], rule: str) -> Right:
    found: Right = {}
    for answer, asked in zip(answers, questions, strict=True):
        found.setdefault(asked.set, []).append(answer.right(asked, rule))
    return found


def _differences(
    picked: Picked,
    beside: Sequence[Arm],
    right: Mapping[str, Mapping[Arm, Right]],
    plan: Plan,
) -> list[dict[str, Any]]:
    """The picked braid less each arm that it is compared with.

    ``beside`` are arms that are in no pick; ``right`` is by rule.
    """
    sets = list(picked.strands)
    plain = [
        arm for arm in right[plan.rule] if arm.kind == STRAND and arm not in beside
    ]
    against: dict[str, Mapping[str, Arm]] = {
        arm.label: dict.fromkeys(sets, arm) for arm in (*plain, *picked.calibrated)
    }
    against[PER_SET] = picked.strands
    for arm in (*picked.pools, *beside):
        against[arm.label] = dict.fromkeys(sets, arm)
    rows: list[dict[str, Any]] = []
    for label, arm_of in against.items():
        by_rule: dict[str, Any] = {}
        for rule, of in right.items():
            mine = of[picked.braid]
            other = {name: of[arm_of[name]][name] for name in mine}
            by_rule[rule] = {
                "mean": asdict(over_sets(mine, other)),
                "sets": {
                    name: asdict(paired(mine[name], other[name])) for name in mine
                },
            }
        rows.append({"against": label, **by_rule[plan.rule], "by_rule": by_rule})
    return rows


def _tell_repeats(known: Sequence[Asked], test: Sequence[Asked]) -> None:
    """Log how many test questions stand among those of the calibration."""
    prompts = {asked.prompt for asked in known}
    again = [asked.line for asked in test if asked.prompt in prompts]
    if again:
        _LOG.warning(
            "%d test questions have the prompt of a calibration question: lines %s",
            len(again),
            again[:10],
        )


def strands_of_plan(pool: Mapping[str, Strand], plan: Plan) -> dict[str, Strand]:
    """The strands of a plan, loaded.

    Raises
    ------
    ValueError
        For fewer than two models, or one that stands beside itself.
    """
    if len(set(plan.models)) < 2:
        raise ValueError(f"received the models {list(plan.models)}; give at least two")
    if plan.same_cost in plan.models:
        raise ValueError(
            f"{plan.same_cost!r} is among the models; --same-cost is another one that "
            "the braids are compared with"
        )
    names = [*plan.models, *([] if plan.same_cost is None else [plan.same_cost])]
    torch.manual_seed(plan.seed)
    return {name: pool[name] for name in names}
