"""How much two models' answers hold together that one alone does not.

    python examples/bench_pooling.py --tasks questions.jsonl
    python examples/bench_pooling.py --tasks questions.jsonl --json

A braid of two models can only answer better where their scores of the options say more
of the right one together than those of the better model do. Here that is measured
without any braid: each model scores the options of each test question; a conditional
logit, told the right answers of other test questions of the same set, weighs the scores
of one model or of both (log-likelihood by byte and as a sum, five folds). It knows the
set and many answers, which no braid does, so it bounds what pooling may gain. Told are
its right answers with both models less those with the better one, by how many questions
it learnt from, and by how strong the better model is (noise on its scores). That a gain
is seen where there is one is shown on the better model taken twice, with two draws of
noise. The file is as for ``python -m fusion.report --tasks``; answers are kept in the
same store.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from fusion import BraidConfig, Pool
from fusion.report.answers import Answers
from fusion.report.arms import STRAND, Arm
from fusion.report.questions import Asked, first_of_each_set, read_questions, unwritable
from fusion.strands.machine import dtype_of, reuse_memory
from fusion.strands.pool import PACKAGED, default_cache

FOLDS = 5
DRAWS = 8  # of folds and of noise
LEARNT = (25, 50, 100, None)  # questions of a set; None for all of the other folds
NOISE = (0.5, 1.0, 2.0)  # over the spread of a model's scores in a question
TWICE = 1.0  # noise of the control
_PRIOR = 1.0  # precision of each weight of a logit

Array = NDArray[np.float64]


class Scores:
    """Scores of one model, (questions, options, 2), and which options there are."""

    def __init__(self, found: Array, there: NDArray[np.bool_]) -> None:
        self.there = there
        spread = np.sqrt(
            np.mean([found[i, there[i]].var(axis=0) for i in range(len(found))], axis=0)
        )
        self.of = np.where(there[:, :, None], found / spread, 0.0)

    def noisy(self, times: float, rng: np.random.Generator) -> Array:
        """The same with noise so many times as wide as they are spread."""
        drawn = rng.standard_normal((*self.of.shape[:2], 1))
        return self.of + times * drawn * self.there[:, :, None]


def fitted(x: Array, there: NDArray[np.bool_], right: NDArray[Any]) -> Array:
    """Weights of a conditional logit: softmax over a question's options of ``x w``."""
    rows = np.arange(len(right))

    def loss(w: Array) -> tuple[float, Array]:
        z = np.where(there, x @ w, -np.inf)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        p /= p.sum(axis=1, keepdims=True)
        at = np.log(np.maximum(p[rows, right], 1e-300)).sum()
        slope = np.einsum("nk,nkf->f", p, x) - x[rows, right].sum(axis=0)
        return _PRIOR * float(w @ w) / 2 - at, slope + _PRIOR * w

    found: Array = minimize(loss, np.zeros(x.shape[2]), jac=True, method="L-BFGS-B").x
    return found


class Bench:
    """Questions with their sets and right options, and the folds they lie in."""

    def __init__(
        self, questions: Sequence[Asked], there: NDArray[np.bool_], seed: int
    ) -> None:
        self.there = there
        self.right = np.array([asked.answer for asked in questions])
        self.sets = np.array([asked.set for asked in questions])
        self.rng = np.random.default_rng(seed)

    def accuracy(self, x: Array, draw: int, learnt: int | None = None) -> Array:
        """Whether each question is answered right when others were learnt from."""
        found = np.zeros(len(self.right))
        rng = np.random.default_rng(draw)  # the same folds for all that is compared
        for name in np.unique(self.sets):
            order = rng.permutation(np.flatnonzero(self.sets == name))
            folds = np.array_split(order, FOLDS)
            for i, test in enumerate(folds):
                train = np.concatenate([*folds[:i], *folds[i + 1 :]])[:learnt]
                w = fitted(x[train], self.there[train], self.right[train])
                z = np.where(self.there[test], x[test] @ w, -np.inf)
                found[test] = z.argmax(axis=1) == self.right[test]
        return found

    def mean(self, right: Array) -> dict[str, float]:
        """Mean over sets in percent, with a 95 % interval over questions."""
        parts = [100 * right[self.sets == name] for name in np.unique(self.sets)]
        mean = float(np.mean([part.mean() for part in parts]))
        error = np.sqrt(sum(p.var(ddof=1) / len(p) for p in parts)) / len(parts)
        return {
            "mean": mean,
            "low": float(mean - 1.96 * error),
            "high": float(mean + 1.96 * error),
        }

    def together(
        self,
        first: Scores,
        second: Scores,
        noise: tuple[float, float] = (0.0, 0.0),
        learnt: int | None = None,
    ) -> dict[str, Any]:
        """Right answers of each alone, and of both less the better one."""
        right = np.zeros((3, len(self.right)))
        for draw in range(DRAWS):
            pair = [
                model.noisy(times, self.rng)
                for model, times in zip((first, second), noise, strict=True)
            ]
            for i, x in enumerate((*pair, np.concatenate(pair, axis=2))):
                right[i] += self.accuracy(x, draw, learnt) / DRAWS
        better = max(right[:2], key=lambda alone: self.mean(alone)["mean"])
        return {
            "first": self.mean(right[0]),
            "second": self.mean(right[1]),
            "both less the better": self.mean(right[2] - better),
        }


def scores_of(options: argparse.Namespace) -> tuple[list[Asked], list[Scores]]:
    """Test questions with options, and what each model says of them."""
    pool = Pool(options.models, dtype=dtype_of(options.dtype), native=options.native)
    strands = [pool[name] for name in options.models]
    questions, _ = read_questions(options.tasks, leave_out=True)
    left_out = unwritable(questions, strands)
    kept = [q for q in questions if q.choices and q.line not in left_out]
    kept = first_of_each_set(kept, None, options.per_set)
    test = [asked for asked in kept if asked.split == "test"]
    counts = Counter(asked.set for asked in test)
    if not test or min(counts.values()) < 2 * FOLDS:
        raise SystemExit(
            f"{options.tasks} has {dict(counts)} test questions with choices, by set; "
            f"{FOLDS} folds need at least {2 * FOLDS} of each"
        )
    answers = Answers(options.store / "tasks", progress=not options.json)
    arms = [Arm(STRAND, BraidConfig(strand.name)).build([strand]) for strand in strands]
    most = max(len(asked.choices) for asked in test)
    there = np.array([np.arange(most) < len(asked.choices) for asked in test])
    found = []
    for said in answers.of(arms, test, "questions", unprompted=False):
        raw = np.zeros((len(test), most, 2))
        for i, answer in enumerate(said):
            logs, sizes = np.array(answer.scores.logs), np.array(answer.scores.n_bytes)
            raw[i, : len(logs)] = np.stack([logs / sizes, logs], axis=1)
        found.append(Scores(raw, there))
    return test, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--models", nargs=2, default=list(PACKAGED))
    parser.add_argument("--per-set", type=int, help="at most so many of each")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--native", action=argparse.BooleanOptionalAction)
    parser.add_argument(
        "--store",
        type=Path,
        default=default_cache() / "calibration",
        help="where answers are kept (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    reuse_memory()
    questions, models = scores_of(options)
    bench = Bench(questions, models[0].there, options.seed)
    alone = [bench.mean(bench.accuracy(model.of, 0))["mean"] for model in models]
    best = int(np.argmax(alone))
    better, other = models[best], models[1 - best]
    found = {
        "better": options.models[best],
        "other": options.models[1 - best],
        "questions": len(questions),
        "learnt from": {
            str(n or "all"): bench.together(better, other, learnt=n) for n in LEARNT
        },
        "noise on the better": {
            str(times): bench.together(better, other, (times, 0.0)) for times in NOISE
        },
        "the better twice, with noise": bench.together(better, better, (TWICE, TWICE)),
    }
    print(json.dumps(found, indent=1) if options.json else table(found))


def table(found: dict[str, Any]) -> str:
    """The findings as text."""
    lines = [
        f"{found['questions']} test questions; {found['better']} (first) and "
        f"{found['other']} (second), right in %:",
        f"{'':<42}{'first':>7}{'second':>8}  both less the better (95 %)",
    ]
    rows = [
        *((f"learnt from {n} of a set", r) for n, r in found["learnt from"].items()),
        *(
            (f"noise of {n} on the first", r)
            for n, r in found["noise on the better"].items()
        ),
        ("the first twice, with noise", found["the better twice, with noise"]),
    ]
    for name, row in rows:
        gain = row["both less the better"]
        lines.append(
            f"{name:<42}{row['first']['mean']:>7.1f}{row['second']['mean']:>8.1f}  "
            f"{gain['mean']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
