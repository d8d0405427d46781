"""Commands that measure: probe, replay, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from braidbandit.cli.shell.options import Config, Folder, Json, number
from braidbandit.cli.shell.output import note, show
from braidbandit.cli.shell.output import table as table_of
from braidbandit.cli.shell.place import place_of
from braidbandit.cli.shell.progress import waiting

if TYPE_CHECKING:
    from braidbandit.ledger.ledger import Ledger


def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="A table of rewards (.npz with rewards, embeddings and arms), such as "
            "`probe --save` writes."
        ),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Prompts to play.")] = 800,
    seeds: Annotated[int, typer.Option(min=1, help="Shuffles of the prompts.")] = 5,
    probes: Annotated[
        int | None,
        typer.Option(min=0, help="Prompts scored on all arms first; default: a fifth."),
    ] = None,
    json: Json = False,
) -> None:
    """Play a table of rewards: what would learning have earned on it?

    Every arm's reward is known there, so nothing is estimated. The policy is held
    against the arm that the first prompts speak for, and against a random choice.
    """
    from braidbandit.cli.measuring.replaying import replayed

    found = replayed(file.expanduser(), rounds, seeds, probes)
    columns = ("policy", "mean reward", "+-", "last quarter", "regret", "+-")
    rows = [
        (r.name, r.mean, r.error, r.last_quarter, r.regret, r.regret_error)
        for r in found.rows
    ]
    show(
        found.to_dict(),
        f"{found.rounds} rounds on {found.arms} arms, {found.seeds} shuffles, "
        f"{found.probes} prompts scored on all arms first",
        table_of(columns, rows),
        "regret: against the arm that is best over all rounds, known only afterwards",
    )


def compare(
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Always this arm, by id; again for more. By default every "
            "arm that was chosen often enough."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a saved policy; again for more."),
    ] = None,
    under: Annotated[
        float | None,
        typer.Option(
            callback=number(0, 1), help="Also the saved policy within this budget."
        ),
    ] = None,
    after: Annotated[
        int, typer.Option(min=0, help="Only what the ledger has beyond this number.")
    ] = 0,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Estimate from the ledger what other policies would have earned.

    Read the rows of the estimator DR. A policy looks better than it is on feedback that
    it learnt from: give --after the ledger position at which it was saved.
    """
    from braidbandit.cli.measuring.policies import policies_of
    from braidbandit.evaluation.log import Log
    from braidbandit.evaluation.offpolicy import compare as compared

    place = place_of(folder, config)
    with place.open_ledger() as ledger, waiting("estimating"):
        _check_some(ledger)
        log = Log.read(ledger, after=after)
        found = compared(policies_of(place, log, arm, policy, under), log)
    columns = ("policy", "estimator", "value", "low", "high", "rows' worth", "rows")
    rows = [
        (r.policy, r.estimator, r.value, r.low, r.high, r.effective_n, r.n)
        for r in found.rows
    ]
    show(
        found.to_dict(),
        table_of(columns, rows),
        *[f"{name}: refused, {why}" for name, why in found.refused.items()],
        f"the log itself earned {found.logged:.3f}",
    )


def _check_some(ledger: Ledger) -> None:
    if not ledger.counts()["outcomes"]:
        raise ValueError(
            "the ledger has no feedback yet; `braidbandit feedback ID 4/5` gives some"
        )


_File = Annotated[
    Path,
    typer.Argument(
        help="Your prompts: .txt with one a line, or .jsonl with prompt and one of "
        "answer, contains, tests."
    ),
]
_Most = Annotated[
    int | None, typer.Option(min=0, help="Scores to add now; by default all.")
]
_LeastGain = Annotated[
    float,
    typer.Option(
        callback=number(0), help="Stop when the next ten are expected to buy less."
    ),
]
_Singles = Annotated[
    bool, typer.Option("--singles", help="Score single models only, no braids.")
]
_Judge = Annotated[
    str | None,
    typer.Option(
        help="A program that reads prompt and answer as JSON, and prints "
        "a number from 0 to 1."
    ),
]
_Ask = Annotated[
    bool, typer.Option("--ask", help="Show answers and rate them by hand.")
]
_Tokens = Annotated[int, typer.Option(min=1, help="Most of an answer.")]
_Save = Annotated[
    Path | None, typer.Option(help="Write a table for `replay` (.npz), too.")
]


def probe(
    file: _File,
    most: _Most = None,
    least_gain: _LeastGain = 0.0,
    singles: _Singles = False,
    judge: _Judge = None,
    ask: _Ask = False,
    tokens: _Tokens = 256,
    save: _Save = None,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Score prompts of your own on the arms, and start from what that tells.

    The best thing to do first: some dozens of prompts like those that will come. Give
    all of them each time; those already scored cost nothing, so it can be stopped at
    any moment and gone on with. The most informative scores come first. A braid is
    calibrated when its first score comes up, which takes minutes to hours and is kept;
    --singles goes without. Stop a service that has the folder open before, as it would
    save over what was learnt.
    """
    from braidbandit.cli.measuring.probing import AHEAD, Prober, told
    from braidbandit.cli.measuring.prompts import judging_key, read_prompts

    by_itself = judge is None and not ask
    prompts = read_prompts(file.expanduser(), judged=by_itself)
    place = place_of(folder, config)
    scores = place.folder / "probe" / f"scores-{judging_key(judge, tokens)}.jsonl"
    with waiting("opening the agent"):
        agent = place.open_agent()
    with agent:
        prober = Prober(agent, prompts, scores, singles, note)
        if any(braid.fusion_layers for braid in prober.plan.catalogue):
            note(
                "a braid is calibrated before its first score, which may take hours; "
                "--singles goes without"
            )
        done, buys = 0, prober.buys()
        while buys[0] and buys[1] >= least_gain and (most is None or done < most):
            note(told(*buys))
            now = AHEAD if most is None else min(AHEAD, most - done)
            done += prober.score(now, tokens, judge, _asked if ask else None)
            buys = prober.buys()
        if not prober.plan.n_scored:
            raise ValueError(
                "nothing is scored yet; raise --most or lower --least-gain"
            )
        plan = prober.plan
        agent.warm_start(plan.tasks, plan.arm_ids, plan.table)
        saved = None if save is None else prober.save_table(save)
    show(
        {
            "folder": place.folder,
            "scores": scores,
            "added": done,
            "scored": prober.plan.n_scored,
            "cells": prober.cells,
            "next": {"scores": buys[0], "gain": buys[1], "error": buys[2]},
            "table": save,
            "rows": saved,
        },
        f"{done} scores added, {prober.plan.n_scored} of {prober.cells} known.",
        _means(prober),
        told(*buys),
    )


def _asked(prompt: Any, answer: str) -> float:
    """Ask a person what an answer is worth; which arm wrote it is not shown."""
    from braidbandit.cli.decisions.stars import read_rating

    typer.echo(f"\n{prompt.text}\n{'-' * 40}\n{answer}\n{'-' * 40}", err=True)
    while True:
        try:
            return read_rating(typer.prompt("worth (4/5, up, down)", err=True))
        except ValueError as error:
            typer.echo(str(error), err=True)


def _means(prober: Any) -> Any:
    """Return the mean score of each arm that has one, best first."""
    import numpy as np

    plan = prober.plan
    rows = [
        (plan.catalogue[arm].label(), int((~np.isnan(s)).sum()), float(np.nanmean(s)))
        for arm, s in zip(plan.arm_ids, plan.table.T, strict=True)
    ]
    rows.sort(key=lambda row: -row[2])
    return table_of(("arm", "scores", "mean"), rows)
