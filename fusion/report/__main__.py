"""What fusing two models brings, beside every control.

Bits per byte of held-out text (prompt and reference together), by domain: each strand
alone; each strand calibrated alone, which is the matched control (the same fuser fed
the strand's own states); every strategy at every place, both ways round; and fusers
trained on a donor whose states are shuffled, the control that has a donor's size.
An interrupted report goes on where it was. With ``--carrying``, what it costs to tell
each strand's distribution in another one's tokens, with nothing trained.

With ``--tasks``, how often questions are answered right, in place of bits per byte: the
braid that answers best on calibration questions, less each strand, each strand
calibrated, the best of these for each set of questions, their output mixture and their
product of experts, untrained, the same braid with shuffled donors, and one larger model
where you name it. A line of the file has "set", "split" ("calibration" or "test"),
"prompt", and "choices" with "answer" (the index of the right one), "reference" (what is
to be written) or "tests" (code that tests what is written).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..judging.choices import RULES
from ..strands.machine import dtype_of, reuse_memory
from ..strands.pool import PACKAGED, Pool, default_cache
from .answers import Answers
from .arms import OBJECTIVES
from .carrying import carrying, carrying_table
from .controls import PLACES, STRATEGIES, plans
from .held_out import first_of_each, packaged_texts, read_texts
from .questions import first_of_each_set, read_questions, refuse, unwritable
from .rows import rows_for
from .table import table
from .tasks import Bench, Plan, report, strands_of_plan
from .tasks_table import tasks_table

_LOG = logging.getLogger("fusion.report")


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m fusion.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--texts", type=Path, help="JSON lines; default: packaged texts")
    add(
        "--tasks",
        type=Path,
        metavar="FILE.jsonl",
        help="questions: how often they are answered right, not bits per byte",
    )
    add("--models", nargs="+", default=list(PACKAGED))
    add(
        "--strategies",
        nargs="+",
        choices=STRATEGIES,
        help="default: all; with --tasks, router",
    )
    add(
        "--places",
        nargs="+",
        choices=PLACES,
        default=PLACES[:3],
        help="where to fuse; sparse: three decoder layers (default: all others)",
    )
    add("--seeds", type=int, default=1)
    add("--per-domain", type=int, help="at most so many texts of each")
    add(
        "--positions",
        type=int,
        default=1000,
        help="scored for each braid and domain, drawn at random unless there are fewer "
        "(default: %(default)s)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of strands; default: the fastest of this machine",
    )
    add(
        "--native",
        action=argparse.BooleanOptionalAction,
        help="let llama.cpp run GGUF files, or convert them; default: where it is "
        "installed, and no place is sparse",
    )
    add("--store", type=Path, help="default: calibration, in the cache folder")
    add(
        "--carrying",
        action="store_true",
        help="only what telling a strand in another one's tokens costs",
    )
    _add_tasks(found.add_argument_group("with --tasks"))
    add("--json", action="store_true", help="rows as JSON")
    add("--plot", type=Path, metavar="FILE.png", help="a picture too")
    return found


def _add_tasks(group: Any) -> None:
    add = group.add_argument
    add("--rule", choices=RULES, default=RULES[0], help="likelihood of an option")
    add("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    add("--same-cost", metavar="MODEL", help="one larger model, alone")
    add("--calibration-per-set", type=int, help="at most so many questions of a set")
    add("--test-per-set", type=int, help="at most so many questions of a set")
    add("--leave-out", action="store_true", help="pass over lines that are refused")
    add(
        "--prompted-only",
        action="store_true",
        help="leave out the likelihood without the prompt, half of the work",
    )
    add("--every-arm", action="store_true", help="on the test, not only those picked")
    add(
        "--tokens", type=int, default=128, help="written at most (default: %(default)s)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the command line; see ``--help``.
    """
    options = parser().parse_args(arguments)
    limits = ("calibration_per_set", "test_per_set", "tokens")
    for name in ("seeds", "positions", "per_domain", *limits):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = f"--{name.replace('_', '-')}"
            parser().error(f"{option} is {value}; give at least 1")
    for name in options.models:
        if options.models.count(name) > 1:
            parser().error(f"--models names {name!r} twice; give each model once")
    if options.carrying and len(options.models) < 2:
        parser().error(f"--carrying: received the models {options.models}; give two")
    draw = None
    if options.plot:  # where it cannot be drawn, say so before the work
        from .plot import plot as draw
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fusion").setLevel(logging.INFO)
    store = options.store or default_cache() / "calibration"
    torch.manual_seed(0)
    reuse_memory()
    if options.tasks:
        found = _tasks(options, store)
        print(json.dumps(found, indent=1) if options.json else tasks_table(found))
        return
    with _refusing():
        texts = read_texts(options.texts) if options.texts else packaged_texts()
    calibration, held_out = (first_of_each(part, options.per_domain) for part in texts)
    native = False if "sparse" in options.places else options.native
    pool = Pool(dtype=dtype_of(options.dtype), native=native)
    with _refusing():
        depths = {name: pool.facts(name)["layers"] for name in options.models}
    if options.carrying:
        found = carrying(pool, options.models, held_out, not options.json)
        told = [{**asdict(row), "loss": row.loss} for row in found]
        print(json.dumps(told, indent=1) if options.json else carrying_table(found))
        return
    rows = rows_for(
        pool,
        list(plans(depths, options.strategies or STRATEGIES, options.places)),
        calibration,
        held_out,
        options.seeds,
        options.positions,
        store,
        not options.json,
    )
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    if draw is not None:
        draw(rows, options.plot)


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a file or a model that was given, as of any other option."""
    try:
        yield
    except (OSError, ValueError) as error:
        parser().error(str(error))


def _tasks(options: argparse.Namespace, store: Path) -> dict[str, Any]:
    """The report on the questions of a file."""
    plan = Plan(
        options.models,
        options.strategies or ("router",),
        options.places,
        options.objectives,
        options.rule,
        options.same_cost,
        options.prompted_only,
        options.every_arm,
    )
    if "sparse" in options.places:
        parser().error("--tasks compares what is fused at final and output")
    if options.seeds != 1:
        parser().error("--tasks calibrates once: leave --seeds out")
    with _refusing():
        # First: which number type is the faster takes a while to measure.
        questions, refused = read_questions(options.tasks, options.leave_out)
        pool = Pool(dtype=dtype_of(options.dtype), native=options.native)
        strands = strands_of_plan(pool, plan)
    unwritten = unwritable(questions, list(strands.values()))
    if not options.leave_out:
        with _refusing():
            refuse(options.tasks, unwritten)
    for line, why in sorted({**refused, **unwritten}.items()):
        _LOG.warning("line %d is left out: %s", line, why)
    kept = first_of_each_set(
        [asked for asked in questions if asked.line not in unwritten],
        options.calibration_per_set,
        options.test_per_set,
    )
    answers = Answers(store / "tasks", options.tokens, not options.json)
    bench = Bench(strands, [], store, answers, plan.seed, not options.json)
    found = report(bench, plan, kept)
    return {**found, "refused": {**refused, **unwritten}}


if __name__ == "__main__":
    main()
