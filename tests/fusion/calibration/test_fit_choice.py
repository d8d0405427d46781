import math

import pytest
import tiny
import torch

from fusion import calibrate
from fusion.calibration.fit_choice import Choice, fit_choice, loss_of_choice
from fusion.calibration.store import CalibrationStore
from fusion.judging.choices import Question, target_logs

WORDS = [" dog", " strand sleeps", " party", " rain in Spain", " doctor"]
ASKED = [
    Choice(
        f"{tiny.CALIBRATION_TEXTS[i % 12][:30]} {i}\nAnswer:",
        (WORDS[i % 5], WORDS[(i + 1) % 5], WORDS[(i + 2) % 5]),
        i % 3,
    )
    for i in range(24)
]
GIVEN = [{"prompt": q.prompt, "choices": q.options, "answer": q.answer} for q in ASKED]


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def mean_loss(model, asked):
    """Of the choice, exactly: with the whole vocabulary."""
    losses = []
    with torch.no_grad():
        for choice in asked:
            question = Question(choice.prompt, choice.options)
            at, states = question.positions(model.anchor), question.states(model)
            logs = target_logs(
                at,
                lambda part, states=states: model.head(states, (slice(None), part)),
            )
            losses.append(float(loss_of_choice(at, logs, choice.answer)))
    return sum(losses) / len(losses)


def test_the_loss_by_hand(strands):
    """Two options of 2 and 4 bytes, so 3 on average, with -2 and -6 nats."""
    at = Question("Q:", (" a", " b c")).positions(strands["llama"])
    at.n_bytes[:] = [2, 4]
    logs = torch.zeros(len(at.targets))
    for option, total in enumerate((-2.0, -6.0)):
        logs[at.option == option] = total / at.counts[option]
    scores = [-2 / 2 * 3, -6 / 4 * 3]
    chosen = math.log(math.exp(scores[0]) + math.exp(scores[1])) - scores[0]
    wanted = chosen + 2 / at.counts[0]
    assert float(loss_of_choice(at, logs, 0)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("names", "layers", "parts"),
    [
        (("llama",), ("final",), ["final-choice"]),
        (("llama", "gemma"), ("final",), ["final-choice"]),
        (("gemma", "llama"), ("output",), ["gate-choice"]),
        (("llama", "gemma"), ("final", "output"), ["final-choice", "gate-choice"]),
    ],
)
def test_training_lowers_the_loss_of_what_it_trains_on(braid, names, layers, parts):
    model = braid(*names, layers=layers, std=0)
    store = CalibrationStore([q.text for q in ASKED], None, 0, False)
    numbers = store.held_out[1::2] if "output" in layers else store.training
    mine = [ASKED[i] for i in numbers]
    before, others = mean_loss(model, mine), state(model)
    fit_choice(store, model, ASKED, epochs=3)
    assert mean_loss(model, mine) < before
    assert store.trained == parts
    changed = {
        k for k, v in model.state_dict().items() if not torch.equal(v, others[k])
    }
    known = ("fusers.final.", "mixer.gate.")
    assert changed
    assert all(name.startswith(known) for name in changed)


def test_parts_come_from_the_store(braid, tmp_path):
    kind = {"layers": ("final", "output"), "std": 0}
    first, again = braid("llama", "gemma", **kind), braid("llama", "gemma", **kind)
    done = calibrate(
        first, GIVEN, store=tmp_path, objective="choice", epochs=1, progress=False
    )
    assert {"final-choice", "gate-choice"} <= set(done.trained)
    found = calibrate(
        again, GIVEN, store=tmp_path, objective="choice", epochs=1, progress=False
    )
    assert found.trained == ()
    assert {"final-choice", "gate-choice"} <= set(found.reused)
    assert (found.bits_before, found.bits_after) == (done.bits_before, done.bits_after)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    # On text alone it is another braid; its parts are there too.
    text = braid("llama", "gemma", **kind)
    other = calibrate(
        text, [q.text for q in ASKED], store=tmp_path, epochs=1, progress=False
    )
    assert not any("choice" in part for part in (*other.trained, *other.reused))
    assert not torch.equal(text.mixer.gate.weight, first.mixer.gate.weight)


def test_a_budget_takes_whole_questions(braid):
    model = braid("llama", layers=("final",), std=0)
    tokens = sum(len(model.anchor.tokens.read(q.text)) for q in ASKED)
    found = calibrate(
        model,
        GIVEN,
        budget=int(0.8 * tokens),
        objective="choice",
        epochs=1,
        progress=False,
    )
    assert found.tokens < 0.8 * tokens


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"choices": [" a"]}, ValueError, "question 3 has the prompt"),
        ({"choices": " a"}, ValueError, "question 3 has the prompt"),
        ({"choices": [" a", " a"]}, ValueError, "none of them empty or equal"),
        ({"choices": [" a", ""]}, ValueError, "none of them empty or equal"),
        ({"prompt": ""}, ValueError, "question 3 has the prompt ''"),
        ({"answer": 3}, ValueError, "the answer of question 3 is 3"),
        ({"answer": True}, ValueError, "the answer of question 3 is True"),
        ("a text", TypeError, "question 3 is 'a text'"),
        ({"prompt": None, "choice": 1}, ValueError, "question 3 has the prompt None"),
    ],
)
def test_questions_of_another_shape_change_nothing(braid, change, kind, says):
    model = braid("llama", layers=("final",))
    before = state(model)
    bad = {**GIVEN[3], **change} if isinstance(change, dict) else change
    with pytest.raises(kind, match=says):
        calibrate(
            model,
            [*GIVEN[:3], bad, *GIVEN[4:]],
            objective="choice",
            progress=False,
        )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_is_no_question_is_refused(braid):
    model = braid("llama", layers=("final",))
    with pytest.raises(KeyError, match="expected 'prompt', 'choices' and 'answer'"):
        calibrate(model, [{"prompt": "a"}] * 12, objective="choice")
    with pytest.raises(ValueError, match="received 3 questions"):
        calibrate(model, GIVEN[:3], objective="choice")
    with pytest.raises(ValueError, match="objective is 'answers'"):
        calibrate(model, GIVEN, objective="answers")
    with pytest.raises(ValueError, match=r"fuses decoder layers \[1\]"):
        calibrate(braid("llama", "gemma", layers=(1,)), GIVEN, objective="choice")


def test_a_vocabulary_in_part_tells_nearly_what_all_of_it_tells(strands):
    """Where all tokens are active, the cheap loss is the exact one."""
    llama = strands["llama"]
    store = CalibrationStore([q.text for q in ASKED], None, 0, False)
    at = Question(ASKED[0].prompt, ASKED[0].options).positions(llama)
    softmax = store.sampled_softmax(llama, at.targets)
    exact = target_logs(at, lambda part: llama.logits(at.hidden[part]))
    found = softmax.log_probs(at.hidden.float(), at.place, at.targets)
    assert torch.allclose(found, exact, atol=1e-4)
    assert store.sampled_softmax(llama) is store.sampled_softmax(llama)
