"""Kinds of task, by hand."""

import numpy as np

from braidbandit import Braid, Outcome, TaskEncoder
from braidbandit.service.dashboard.kinds import Kind, kind_by, kinds


class Made:
    """As much of a decision as is looked at."""

    def __init__(self, arm, kind="code", x=(), encoder_hash="e"):
        self.braid, self.kind, self.x = Braid(arm), kind, x
        self.encoder_hash = encoder_hash


def test_kinds_by_hand():
    a, b = Braid("a").id, Braid("b").id
    decided = [(Made("a"), Outcome("d", 1.0)), (Made("a"), None)]
    decided += [(Made("b"), Outcome("d", 0.5))] * 5 + [(Made("a"), None)] * 5
    decided += [(Made("b", "maths"), None)]
    code, maths = kinds(decided, lambda decision: decision.kind)
    assert code == Kind("code", 12, a, 7 / 12, 1.0, 1, b, 0.5)
    assert maths == Kind("maths", 1, b, 1.0, None, 0, None, None)
    assert kinds([], lambda decision: decision.kind) == ()


def test_a_stated_kind_is_read_from_the_features():
    def embed(texts):
        return np.eye(4)[[len(text) % 4 for text in texts]]

    encoder = TaskEncoder(embedder=embed, n_components=2)
    encoder.fit(["a", "bb", "ccc", "dddd"])
    kind_of = kind_by(encoder, "e")
    x = encoder.transform([{"text": "sort", "type": "code"}, {"text": "sort"}])
    assert kind_of(Made("a", x=tuple(x[0]))) == "code"
    assert kind_of(Made("a", x=tuple(x[1]))) == "unclear"
    assert kind_of(Made("a", x=(), encoder_hash="another")) == "unclear"
