"""Commands around one decision: recommend, explain, feedback, table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from braidbandit.cli.shell.options import Config, Folder, Json, number, weights
from braidbandit.cli.shell.output import note, show
from braidbandit.cli.shell.output import table as table_of
from braidbandit.cli.shell.place import Place, place_of
from braidbandit.cli.shell.progress import progress, waiting

if TYPE_CHECKING:
    from braidbandit.ledger.records import Decision
    from braidbandit.recommender.recommender import BraidRecommender

Identity = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Of a decision, or how it begins; 'last' is the newest."
    ),
]


_Text = Annotated[
    str, typer.Argument(metavar="TASK", help="The prompt; - reads standard input.")
]
_Kind = Annotated[
    str | None, typer.Option("--type", help="Such as code, medical or creative.")
]
_Complexity = Annotated[
    float | None, typer.Option(callback=number(0, 1), help="From 0, easy, to 1.")
]
_Capability = Annotated[
    list[str] | None, typer.Option(help="That is needed; may be given again.")
]
_ComputeBudget = Annotated[
    float | None,
    typer.Option(
        callback=number(0, 1), help="From 0, the cheapest arms only, to 1, all."
    ),
]
_LatencyMs = Annotated[
    float | None,
    typer.Option(callback=number(0), help="Longest time that an answer may take."),
]
_Memory = Annotated[
    float | None, typer.Option(callback=number(0), help="Most bytes of weights.")
]
_Prefer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WEIGHT",
        help="What counts: quality, latency or compute, each in an option of its own, "
        "such as --prefer quality=1 --prefer latency=0.2.",
    ),
]
_AccuracyTarget = Annotated[
    float | None,
    typer.Option(callback=number(0, 1), help="Quality that would do, from 0 to 1."),
]
_Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Id of an arm not to choose; again for more."),
]
_OnlyShow = Annotated[
    bool, typer.Option("--dry-run", help="Explain only; nothing is recorded.")
]


def recommend(
    text: _Text,
    kind: _Kind = None,
    complexity: _Complexity = None,
    capability: _Capability = None,
    compute_budget: _ComputeBudget = None,
    latency_ms: _LatencyMs = None,
    memory: _Memory = None,
    prefer: _Prefer = None,
    accuracy_target: _AccuracyTarget = None,
    exclude: _Exclude = None,
    only_show: _OnlyShow = False,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Choose the model, or the braid of models, for a task.

    The decision is recorded with an id, so that feedback can teach what it was worth.
    No model that answers is loaded.
    """
    from braidbandit.catalogue.limits import Budget

    place = place_of(folder, config)
    task = _task(text, kind, complexity, capability)
    options: dict[str, Any] = {
        "compute_budget": _budget_of(place, compute_budget),
        "budget": Budget(memory=memory, latency_ms=latency_ms),
        "excluded": exclude or (),
        "preference": weights(prefer or []),
        "accuracy_target": accuracy_target,
    }
    with waiting("opening the agent, which loads what reads the task"):
        agent = place.open_agent()
    with agent:
        if only_show:
            explanation = agent.explain(task, **options)
            show(explanation.to_dict(), str(explanation))
            return
        decision = agent.forward(task, **options)
    show(
        {"folder": place.folder, **_shown(decision)},
        str(decision),
        f"decision {decision.id}",
        f"afterwards: braidbandit feedback {decision.id[:8]} 4/5",
    )


def explain(
    decision: Identity,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Tell why a decision was made, and how it looks now.

    What was recorded then is exact. What is expected now comes from the saved policy
    and what was learnt since.
    """
    from braidbandit.cli.decisions.explaining import best_rows, now_of, recorded
    from braidbandit.cli.decisions.naming import decision_id_in

    place = place_of(folder, config)
    with place.open_ledger() as ledger:
        found = recorded(ledger, decision_id_in(ledger, decision))
        policy = _up_to_date(place, ledger)
    now = None if policy is None else now_of(policy, found.decision)
    labels = {} if policy is None else _labels(policy)
    rows = best_rows(found, labels)
    made = found.decision
    said = "no feedback yet" if found.outcome is None else f"{found.outcome.reward:g}"
    show(
        {**found.to_dict(), "now": None if now is None else now.to_dict()},
        f"decision {made.id} of {made.created_at[:19]}: {made}",
        f"feedback: {said}",
        "",
        table_of(("", "arm", "score then", ""), rows),
        *([] if now is None else ["", "As it looks now:", str(now)]),
    )


def feedback(
    decision: Identity,
    rating: Annotated[
        str | None,
        typer.Argument(help="4/5, 80%, 0.8, up, down, yes or no. Not with --retract."),
    ] = None,
    revise: Annotated[
        bool, typer.Option("--revise", help="Replace what was said before.")
    ] = False,
    retract: Annotated[
        bool, typer.Option("--retract", help="Take back what was said before.")
    ] = False,
    latency_ms: Annotated[
        float | None, typer.Option(callback=number(0), help="What the answer took.")
    ] = None,
    source: Annotated[str, typer.Option(help="Who says so.")] = "user",
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Tell how good the answer to a decision was.

    It is in the ledger when this returns; the same again counts once. An agent or a
    service learns it with the next decision or feedback.
    """
    from braidbandit.cli.decisions.naming import decision_id_in
    from braidbandit.cli.decisions.rating import rate, take_back
    from braidbandit.cli.decisions.stars import read_rating
    from braidbandit.ledger.records import Outcome

    if retract == (rating is not None):
        raise typer.BadParameter("give a rating such as 4/5, or --retract")
    reward = None if rating is None else read_rating(rating)
    place = place_of(folder, config)
    with place.open_ledger() as ledger:
        found = decision_id_in(ledger, decision)
        if reward is None:
            said = take_back(place, ledger, found)
        else:
            outcome = Outcome(found, reward, latency_ms, source=source)
            said = rate(place, ledger, outcome, revise=revise)
    worth = "none, it waits again" if said.reward is None else f"{said.reward:g}"
    show(
        {
            "id": found,
            "arm": said.decision.braid.id,
            "reward": said.reward,
            "change": said.change,
        },
        f"{said.change}: {said.decision.braid.label()}, reward {worth}",
    )


def table(
    kinds: Annotated[
        bool, typer.Option("--kinds", help="Mean reward by kind of task, too.")
    ] = False,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show every arm: how often it was chosen, and how well it did."""
    from braidbandit.cli.decisions.arms import records_of

    place = place_of(folder, config)
    with place.open_ledger() as ledger:
        policy, counts = _up_to_date(place, ledger), ledger.counts()
        steps = counts["decisions"] + counts["outcomes"]
        with progress("reading the ledger", steps) as advance:
            records = records_of(ledger, policy, advance)
    named = sorted({kind for r in records for kind in r.kinds}) if kinds else []
    columns = ["arm", "chosen", "rated", "mean", "+-", "expected", "cost", *named, ""]
    rows: list[list[Any]] = []
    for r in records:
        means = [_mean(r.kinds.get(kind)) for kind in named]
        known = [r.decisions, len(r.rewards), r.mean, r.error, r.expected, r.cost]
        rows.append([r.label, *known, *means, f"unfit: {r.unfit}" if r.unfit else ""])
    show(
        {"folder": place.folder, **counts, "arms": [r.to_dict() for r in records]},
        table_of(columns, rows),
        f"{counts['decisions']} decisions, {counts['outcomes']} rated, "
        f"{counts['pending']} waiting for feedback",
    )


def _task(
    text: str,
    kind: str | None,
    complexity: float | None,
    capabilities: list[str] | None,
) -> dict[str, Any] | str:
    if text == "-":
        text = sys.stdin.read()
    said = {"type": kind, "complexity": complexity, "capabilities": capabilities}
    given = {key: value for key, value in said.items() if value is not None}
    return {"text": text, **given} if given else text


def _budget_of(place: Place, given: float | None) -> float:
    if given is not None or place.settings is None:
        return 1.0 if given is None else given
    return place.settings.learning.compute_budget


def _shown(decision: Decision) -> dict[str, Any]:
    return {
        "id": decision.id,
        "arm": decision.braid.id,
        "label": decision.braid.label(),
        "models": list(decision.braid.strands),
        "recipe": decision.braid.recipe(),
        "reason": decision.sentence,
        "propensity": decision.propensity,
        "expected_quality": decision.expected_quality,
        "uncertainty": decision.uncertainty,
        "relative_cost": decision.relative_cost,
    }


def _labels(policy: BraidRecommender) -> dict[str, str]:
    return dict(zip(policy.arm_ids_, policy.arm_model_.labels, strict=True))


def _mean(rewards: list[float] | None) -> float | None:
    return sum(rewards) / len(rewards) if rewards else None


def _up_to_date(place: Place, ledger: Any) -> BraidRecommender | None:
    """Return the saved policy with what the ledger has beyond it; it is not saved."""
    try:
        policy = place.load_policy()
        return None if policy is None else policy.sync(ledger)
    except (ValueError, OSError) as error:
        note(f"the saved policy is left out: {error}")
        return None
