import pytest
import torch

from fusion.report.arms import BRAID, CALIBRATED, MIXTURE, PRODUCT, STRAND, arms
from fusion.report.controls import ProductOfExperts, Shuffled
from fusion.report.questions import Asked

ASKED = [
    Asked(i, "a", "calibration", f"{i}: what\nAnswer:", (" dog", " rain"), i % 2,
          (" dog", " rain")[i % 2], key=str(i))
    for i in range(14)
]  # fmt: skip
WRITTEN = Asked(20, "b", "calibration", "6 * 7 =", reference=" 42")
TESTED = Asked(21, "b", "calibration", "def one():")


def test_arms_of_two_and_of_three_strands():
    two = list(arms(["a", "b"], ["router", "attention"], ["output", "final"]))
    kinds = [arm.kind for arm in two]
    assert kinds.count(STRAND) == 2
    assert kinds.count(CALIBRATED) == 4
    assert kinds.count(MIXTURE) == kinds.count(PRODUCT) == 2
    assert kinds.count(BRAID) == 2 * (1 + 2) * 2
    three = list(arms(["a", "b", "c"], ["router"], ["output"], ["text"]))
    donors = [tuple(a.config.donors) for a in three if a.kind == BRAID]
    assert donors[:3] == [("b",), ("c",), ("b", "c")]
    assert len(donors) == 9
    assert all(sum(a.config.shares) == pytest.approx(1) for a in three)
    assert len({arm.label for arm in (*two, *three[3:])}) > len(two)


def test_what_no_objective_changes_is_there_once():
    found = [
        arm.label
        for arm in arms(["a", "b"], ["learned_weighted", "router"], ["output"])
        if arm.kind == BRAID and arm.config.anchor == "a"
    ]
    assert found == [
        "a + b, learned_weighted, output, text",
        "a + b, router, output, text",
        "a + b, router, output, choice",
    ]


def named(strands):
    known = {name: strands[name] for name in ("llama", "gemma")}
    return [*known.values(), *map(Shuffled, known.values())]


def test_only_a_product_of_experts_pools_logarithms(strands):
    for arm in arms(["llama", "gemma"], ["router"], ["output"], ["text"]):
        model = arm.build(named(strands))
        assert isinstance(model, ProductOfExperts) is (arm.kind == PRODUCT)
        assert model.config is not arm.config


def test_the_control_of_an_arm_has_shuffled_donors(strands):
    *_, arm = arms(["llama", "gemma"], ["router"], ["final+output"], ["choice"])
    control = arm.shuffled
    assert control.config.donors == ["llama (shuffled)"]
    assert control.config.fusion_layers == arm.config.fusion_layers
    assert control.label == "gemma + llama (shuffled), router, final+output, choice"
    assert isinstance(control.build(named(strands)).donors[0], Shuffled)


@pytest.mark.parametrize("objective", ["text", "choice"])
def test_an_arm_is_trained_on_what_its_objective_can_use(
    strands, tmp_path, monkeypatch, objective
):
    given = []

    def noted(model, texts, **options):
        given.append((list(texts), options["objective"]))

    monkeypatch.setattr("fusion.report.arms.calibrate", noted)
    known = list(arms(["llama", "gemma"], ["router"], ["output"], [objective]))
    for arm in known:
        model = arm.build(named(strands))
        arm.calibrate(model, [*ASKED, WRITTEN, TESTED], tmp_path, 0, False)
    assert len(given) == sum(arm.objective is not None for arm in known) == 4
    [texts, told] = given[0]
    assert told == objective
    if objective == "text":
        assert texts[0] == "0: what\nAnswer: dog"
        assert texts[-1] == "6 * 7 = 42"
        assert len(texts) == 15
    else:
        assert len(texts) == 14
        assert texts[1] == {
            "prompt": "1: what\nAnswer:",
            "choices": (" dog", " rain"),
            "answer": 1,
        }


def test_what_is_not_trained_stays_as_it_is(strands, tmp_path):
    for arm in arms(["llama", "gemma"], ["router"], ["output"], ["text"]):
        if arm.kind in (STRAND, MIXTURE, PRODUCT):
            model = arm.build(named(strands))
            before = {k: v.clone() for k, v in model.state_dict().items()}
            arm.calibrate(model, ASKED, tmp_path, 0, False)
            after = model.state_dict()
            assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not list(tmp_path.iterdir())
