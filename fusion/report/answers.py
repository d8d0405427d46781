"""What many models say to questions, kept so that an interrupted report goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .._files import json_lines
from ..braid.model import BraidedLLM
from ..judging.choices import NEUTRAL, OptionScores, Question, option_scores
from .questions import Asked
from .scores import told


@dataclass(frozen=True)
class Answer:
    """What a model says to one question.

    Attributes
    ----------
    scores : OptionScores or None
        Of its options.
    reward : float
        Of what it wrote, where there are none.
    output : str
        What it wrote.
    """

    scores: OptionScores | None = None
    reward: float = 0.0
    output: str = ""

    def right(self, asked: Asked, rule: str) -> float:
        """How right it is, from 0 to 1; ``rule`` is one of `choices.RULES`."""
        if self.scores is None:
            return self.reward
        return float(self.scores.choice(rule) == asked.answer)


@dataclass
class Speed:
    """How long questions took that were scored now.

    Attributes
    ----------
    answers : int
        Questions times models.
    seconds : float
    """

    answers: int = 0
    seconds: float = 0.0

    def note(self, answers: int, seconds: float) -> None:
        """Count more of them."""
        self.answers += answers
        self.seconds += seconds

    @property
    def per_minute(self) -> float:
        """Questions per minute and model."""
        return 60 * self.answers / self.seconds if self.seconds else 0.0


@dataclass
class Answers:
    """Answers of models, in a folder: a file for each model, a line for each question.

    Parameters
    ----------
    folder : Path
    tokens : int
        How many are written at most where an answer is to be written.
    progress : bool
        Whether to show a progress bar.

    Attributes
    ----------
    speed : Speed
    """

    folder: Path
    tokens: int = 128
    progress: bool = False
    speed: Speed = field(default_factory=Speed)

    def of(
        self,
        models: Sequence[BraidedLLM],
        questions: Sequence[Asked],
        label: str = "",
        unprompted: bool = True,
    ) -> list[list[Answer]]:
        """The answers of each model to each question, from the folder or new.

        Parameters
        ----------
        models : sequence of BraidedLLM
        questions : sequence of Asked
        label : str
            Of the progress bar.
        unprompted : bool
            Whether options are scored without their prompt, too.

        Returns
        -------
        list of list of Answer
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [
            self.folder / f"answers-{model_key(m, self.tokens)}.jsonl" for m in models
        ]
        known = [_read(file) for file in files]
        for asked in tqdm(questions, label or "questions", disable=not self.progress):
            missing = [
                i
                for i, found in enumerate(known)
                if not _is_there(found.get(asked.key), unprompted)
            ]
            if not missing:
                continue
            started = time.monotonic()
            question = neutral = None
            if asked.choices:
                question = Question(asked.prompt, asked.choices)
                neutral = Question(NEUTRAL, asked.choices) if unprompted else None
            for i in missing:
                if question is not None:
                    answer = Answer(option_scores(models[i], question, neutral))
                else:
                    answer = self._written(models[i], asked)
                # A line is of a whole question, and written at once.
                with files[i].open("a", encoding="utf-8") as file:
                    file.write(json.dumps(_packed(asked, answer)) + "\n")
                known[i][asked.key] = answer
            self.speed.note(len(missing), time.monotonic() - started)
        return [[found[asked.key] for asked in questions] for found in known]

    def _written(self, model: BraidedLLM, asked: Asked) -> Answer:
        assert asked.judge is not None  # what has no options has a judge
        output = model.generate(
            asked.prompt, max_new_tokens=self.tokens, do_sample=False
        )
        return Answer(reward=asked.judge(asked.prompt, output), output=output)


def _is_there(answer: Answer | None, unprompted: bool) -> bool:
    if answer is None or answer.scores is None:
        return answer is not None
    return answer.scores.unprompted is not None or not unprompted


def model_key(model: BraidedLLM, tokens: int) -> str:
    """Tells models apart by all that their answers depend on."""
    digest = hashlib.sha256(json.dumps([NEUTRAL, tokens]).encode())
    told(digest, model)
    return digest.hexdigest()[:16]


def _packed(asked: Asked, answer: Answer) -> dict[str, Any]:
    if answer.scores is None:
        return {"question": asked.key, "reward": answer.reward, "output": answer.output}
    scores = answer.scores
    return {
        "question": asked.key,
        "logs": scores.logs,
        "bytes": scores.n_bytes,
        "unprompted": scores.unprompted,
    }


def _read(file: Path) -> dict[str, Answer]:
    """The whole lines of a file; what an interrupted run left behind is cut off."""
    found: dict[str, Answer] = {}
    if not file.exists():
        return found
    rows = [row for _, row in json_lines(file, as_far_as_whole=True)]
    data = file.read_bytes()
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    if not data.endswith(b"\n") or len(data.splitlines()) != len(rows):
        file.write_text(whole, encoding="utf-8")
    for row in rows:
        if "logs" in row:
            logs, sizes = tuple(row["logs"]), tuple(row["bytes"])
            free = row["unprompted"]
            free = None if free is None else tuple(free)
            found[row["question"]] = Answer(OptionScores(logs, sizes, free))
        else:
            found[row["question"]] = Answer(None, row["reward"], row["output"])
    return found
