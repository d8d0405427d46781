"""Scoring prompts of one's own on the arms, where a score tells most."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.cli.measuring.prompts import Prompt, judge_of
from braidbandit.cli.shell.progress import Progress

if TYPE_CHECKING:
    from braidbandit.evaluation.probe_plan import ProbePlan
    from braidbandit.tasks.encoder import TaskEncoder

AHEAD = 10
"""Scores for which it is said what they are expected to buy."""

Ask = Callable[[Prompt, str], float]
"""Asks a person what an answer is worth."""


class Prober:
    """Scores prompts on the arms of an agent, for it to start from.

    Parameters
    ----------
    agent : MetaBraider
    prompts : list of Prompt
    file : Path
        Of the scores: whoever stops after any of them goes on from there.
    singles : bool
        Score single models only.
    say : callable, optional
        Told what takes long: which braid is calibrated, and that one is left out.
    """

    def __init__(
        self,
        agent: MetaBraider,
        prompts: list[Prompt],
        file: Path,
        singles: bool,
        say: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.agent, self.file, self.say = agent, file, say
        self.prompts = {prompt.text: prompt for prompt in prompts}
        if len(self.prompts) < len(prompts):
            raise ValueError("some prompts are the same; give each once")
        catalogue = agent.catalogue
        if singles:
            alone = [braid for braid in catalogue if braid.is_single]
            catalogue = Catalogue(catalogue.cards.values(), alone)
        self._calibrated: set[str] = set()
        self.plan = self._planned(catalogue, agent.recommender.encoder_)

    @property
    def cells(self) -> int:
        """How many scores there can be."""
        return len(self.prompts) * int(self.plan.catalogue.mask().sum())

    def score(
        self, most: int, tokens: int, command: str | None, ask: Ask | None
    ) -> int:
        """Score up to so many more cells, the most informative first; returns how many.

        A braid is calibrated when its first cell comes up. One that is then unfit is
        left out of the plan from there on.

        Parameters
        ----------
        most : int
        tokens : int
            Most tokens of an answer.
        command : str, optional
            A program that judges.
        ask : callable, optional
            Judges what has no other judge.
        """
        done, left = 0, self.cells - self.plan.n_scored
        shown = Progress("scoring", min(most, left))
        try:
            while done < most:
                cell = self.plan.next_cell()
                if cell is None:
                    break
                task, braid = cell
                if braid.fusion_layers and braid.id not in self._calibrated:
                    shown.close()  # what calibration tells stands in its place
                    self._calibrate(braid)
                    continue  # the plan may have changed
                quality = self._quality(task, braid, tokens, command, ask)
                self.plan.record(task, braid, quality)
                done += 1
                shown.advance()
        finally:
            shown.close()
        return done

    def buys(self, n: int = AHEAD) -> tuple[int, float, float]:
        """Return how many scores come next, what they will buy, and the error of that.

        In mean quality per prompt, by choosing better; as it is expected.
        """
        coming = self.plan.forecast(n)
        return len(coming.cells), coming.gain, coming.error

    def save_table(self, file: Path) -> int:
        """Write the prompts that were scored on every arm, for ``replay``.

        Returns
        -------
        int
            How many there are.
        """
        plan = self.plan
        whole = np.flatnonzero(~np.isnan(plan.table).any(axis=1))
        tasks = [plan.tasks[row] for row in whole.tolist()]
        if len(tasks) < 2:
            raise ValueError(
                "a table for replay needs two prompts or more that are scored on every "
                "arm; score more"
            )
        texts = [Prompt(task, {}).text for task in tasks]
        with file.open("wb") as stream:
            np.savez_compressed(
                stream,
                rewards=plan.table[whole],
                embeddings=plan.encoder.embed(texts),
                arms=np.array([plan.catalogue[arm].label() for arm in plan.arm_ids]),
            )
        return len(tasks)

    def _planned(self, catalogue: Catalogue, encoder: TaskEncoder) -> ProbePlan:
        from braidbandit.evaluation.probe_plan import plan_probe

        tasks = [prompt.task for prompt in self.prompts.values()]
        return plan_probe(catalogue, tasks, encoder=encoder, path=self.file)

    def _calibrate(self, braid: Braid) -> None:
        """Calibrate a braid; where it turns out unfit, plan without it."""
        self.say(f"building {braid.label()}")
        self.agent.calibrate(braid, progress=True)
        self._calibrated.add(braid.id)
        reason = self.agent.catalogue.unfit.get(braid.id)
        if reason is not None:
            self.say(f"{braid.label()} is left out, it is unfit: {reason}")
            without = self.plan.catalogue.with_unfit(braid.id, reason)
            self.plan = self._planned(without, self.plan.encoder)

    def _quality(
        self,
        task: dict[str, Any],
        braid: Braid,
        tokens: int,
        command: str | None,
        ask: Ask | None,
    ) -> float:
        prompt = self.prompts[Prompt(task, {}).text]
        judge = judge_of(prompt, command)
        if judge is None and ask is None:
            raise ValueError(
                f"nothing judges answers to {prompt.text[:60]!r}: give it an answer, "
                "contains or tests in the file, or --judge, or --ask to rate by hand"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # unfit braids were told of
            model = self.agent.create_braided_model(braid)
        answer = model.generate(prompt.text, max_new_tokens=tokens, do_sample=False)
        if judge is not None:
            return judge(answer)
        return 0.0 if ask is None else ask(prompt, answer)


def told(n: int, gain: float, error: float) -> str:
    """Say what the next scores are expected to buy.

    Examples
    --------
    >>> told(10, 0.012, 0.001)
    'the next 10 scores are expected to buy 0.012 +- 0.001 in mean quality'
    """
    if not n:
        return "every prompt is scored on every arm"
    return (
        f"the next {n} scores are expected to buy {gain:.3f} +- {error:.3f} in mean "
        "quality"
    )
