"""The agent in a few steps, on two small real models.

    python examples/meta_braiding.py --folder demo-output    # after `make demo`
    python examples/meta_braiding.py                         # from nothing: slower

With the folder of the demo the agent starts with what it learnt there.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from braidbandit import MetaBraider
from braidbandit.recommender.objectives import quality_from_bits
from braidbandit.tasks.packaged import calibration_texts
from fusion import BraidedLLM, bits_per_byte

POOL = [
    {"model_name": "SmolLM2-135M-Instruct", "domain": "general", "role": "instruction"},
    {"model_name": "gemma-3-270m", "domain": "general", "role": "knowledge"},
]
ANSWER = """def insertion_sort(items):
    result = []
    for item in items:
        place = len(result)
        while place and result[place - 1] > item:
            place -= 1
        result.insert(place, item)
    return result
"""
WRITING: dict[str, Any] = {
    "max_new_tokens": 40,
    "do_sample": False,
    "repetition_penalty": 1.2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="keep everything here, and resume from it"
    )
    parser.add_argument(
        "--texts",
        type=int,
        help="calibration texts per domain: fewer are faster (default: all, or what "
        "the folder was calibrated with)",
    )
    options = parser.parse_args()
    if options.texts is not None and options.texts < 1:
        parser.error(f"--texts must be at least 1, received {options.texts}")
    quiet()
    texts = calibration_texts(options.texts) if options.texts else None
    with MetaBraider(POOL, folder=options.folder, calibration_texts=texts) as agent:
        walk(agent)
        platform(agent)
        small_budget(agent)
        ratings(agent)
        by_hand(agent)


def walk(agent: MetaBraider) -> None:
    print("1. A task goes in, text comes out, a measurement comes back")
    task = {"type": "code", "complexity": 0.7}
    decision = agent.forward(task)
    print(f"   {decision}")
    braided = agent.create_braided_model(decision)
    while decision.braid.id in agent.catalogue.unfit:  # training made it no better
        decision = agent.forward(task)
        print(f"   {decision}")
        braided = agent.create_braided_model(decision)
    prompt = "Write a sorting function\n"
    show(braided.generate(prompt, **WRITING))
    # Measured as in the demo: bits per byte of a good answer, against one model alone.
    bits = bits_per_byte(braided, prompt, ANSWER)
    alone = bits_per_byte(agent.strands["gemma-3-270m"], prompt, ANSWER)
    performance = quality_from_bits(bits, alone)
    agent.learn_from_feedback(task, decision, performance, source="example")
    print(f"   performance {performance:.3f}; ledger: {agent.ledger.counts()}")


def platform(agent: MetaBraider) -> None:
    print("\n2. A query on the platform that touches three domains")
    text = (
        "Does our glucose-monitoring app count as a medical device under EU "
        "law, and what must its source code documentation contain?"
    )
    capabilities = ["medical", "legal", "code"]
    task = {"text": text, "complexity": 0.9, "capabilities": capabilities}
    print(agent.explain(task))  # what it would choose; forward(task) chooses


def small_budget(agent: MetaBraider) -> None:
    print("\n3. The same agent with little compute")
    for budget in (1.0, 0.3):
        decision = agent.forward("Summarise this paragraph in one line.", budget)
        print(
            f"   compute_budget={budget}: {decision.braid.label()}, relative cost "
            f"{decision.relative_cost:.2f}, {sum(decision.eligible)} arms allowed"
        )


def ratings(agent: MetaBraider) -> None:
    print("\n4. Ratings of 1 to 5 stars are feedback, too")
    # An agent of its own: example ratings have no place among real measurements.
    encoder = agent.recommender.encoder_
    with MetaBraider(POOL, layer_sets=("output",), encoder=encoder) as fresh:
        rate(fresh)


def rate(agent: MetaBraider) -> None:
    task = {"text": "Write a haiku about braids.", "type": "creative"}
    before = agent.recommender.n_updates_
    for rating in (2, 3, 5, 4, 5):
        decision = agent.forward(task)
        agent.learn_from_feedback(task, decision, rating / 5)
        print(
            f"   {'*' * rating:<5} expected {decision.expected_quality:.3f} from "
            f"{decision.braid.label()}"
        )
    print(f"   learnt {agent.recommender.n_updates_ - before} ratings")


def by_hand(agent: MetaBraider) -> None:
    print("\n5. A braid written down by hand")
    manual = BraidedLLM(
        model_configs=[
            {"model_name": "SmolLM2-135M-Instruct", "role": "instruction"},
            {"model_name": "gemma-3-270m", "role": "knowledge"},
        ],
        fusion_strategy="learned_weighted",
        fusion_layers=["output"],  # mixes what both would say next: needs no training
        pool=agent.strands,  # already loaded; without a pool it loads its own
    )
    show(manual.generate("The three things to know about braiding are", **WRITING))


def show(text: str) -> None:
    print("   | " + text.strip().replace("\n", "\n   | "))


def quiet() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
