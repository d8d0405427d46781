"""The packaged data: complete, well formed, and readable by the encoder."""

from collections import Counter
from itertools import pairwise

import pytest
from toy_embedder import embed

from braidbandit import TaskEncoder
from braidbandit.tasks.encoder import TYPES
from braidbandit.tasks.packaged import calibration_texts, load_tasks, without_answer


def test_every_domain_has_as_many_tasks_and_both_splits():
    counts = Counter((task["type"], task["split"]) for task in load_tasks())
    domains = {domain for domain, _ in counts}
    assert len(domains) == 7
    assert domains < set(TYPES)
    assert all(counts[d, "train"] == 18 and counts[d, "test"] == 6 for d in domains)


def test_splits_are_disjoint_and_whole():
    train, test = load_tasks("train"), load_tasks("test")
    prompts = [task["prompt"] for task in train + test]
    assert len(set(prompts)) == len(prompts) == len(load_tasks())
    assert len({task["id"] for task in load_tasks()}) == len(prompts)


def test_tasks_are_what_the_encoder_reads():
    tasks = [without_answer(task) for task in load_tasks()]
    features = TaskEncoder(embedder=embed, n_components=4).fit(tasks).transform(tasks)
    assert features.shape[0] == 168


def test_no_calibration_text_is_a_task():
    tasks = load_tasks()
    texts = calibration_texts()
    assert not {t["prompt"] for t in texts} & {t["prompt"] for t in tasks}
    assert not {t["reference"] for t in texts} & {t["reference"] for t in tasks}
    assert {text["domain"] for text in texts} == {task["type"] for task in tasks}


def test_a_part_of_the_calibration_texts_keeps_every_domain():
    few = calibration_texts(per_domain=3)
    assert set(Counter(text["domain"] for text in few).values()) == {3}
    domains = [text["domain"] for text in few]
    assert sum(a != b for a, b in pairwise(domains)) == 6  # grouped, in file order


@pytest.mark.parametrize("task", [t for t in load_tasks() if "tests" in t][:4])
def test_code_references_pass_their_own_tests(task):
    names: dict[str, object] = {}
    exec(task["reference"], names)
    exec(task["tests"], names)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="split"):
        load_tasks("validation")
    with pytest.raises(ValueError, match="per_domain"):
        calibration_texts(per_domain=0)


@pytest.mark.parametrize("read", [load_tasks, calibration_texts])
def test_whoever_changes_what_was_read_changes_no_other(read):
    before = read()
    for row in read():
        row.clear()
    assert read() == before


def test_an_agent_sees_no_answer():
    """Not under any key, and none of the reference in the prompt."""
    for row in load_tasks():
        seen = without_answer(row)
        assert set(seen) == {"prompt", "type", "complexity", "capabilities"}
        assert all(seen[key] == row[key] for key in seen)
        assert row["reference"] not in seen["prompt"]


def test_what_is_known_of_a_task_is_well_formed():
    for row in load_tasks():
        assert row["prompt"].strip() == row["prompt"]
        assert row["reference"].strip()
        assert 0 <= row["complexity"] <= 1
        assert len(row["capabilities"]) >= 1
        assert ("tests" in row) == (row["type"] == "code")
        assert ("answer" in row) == (row["type"] == "maths")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_is_a_part_of_the_whole_in_its_order(split):
    assert load_tasks(split) == [t for t in load_tasks() if t["split"] == split]


@pytest.mark.parametrize("per_domain", [1, 25, 26, 10**6])
def test_texts_of_each_domain_are_its_first(per_domain):
    whole = calibration_texts()
    taken = calibration_texts(per_domain=per_domain)
    for domain in {text["domain"] for text in whole}:
        of_whole = [text for text in whole if text["domain"] == domain]
        of_taken = [text for text in taken if text["domain"] == domain]
        assert of_taken == of_whole[:per_domain]


@pytest.mark.parametrize("value", ["Train", "", 1, True])
def test_a_split_is_named_exactly(value):
    with pytest.raises(ValueError, match="split is 'train', 'test' or None, received"):
        load_tasks(value)


@pytest.mark.parametrize("value", [0, -3])
def test_at_least_one_text_of_each_domain(value):
    with pytest.raises(ValueError, match=f"at least 1, received {value}"):
        calibration_texts(per_domain=value)
