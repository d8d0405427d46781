import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import BraidRecommender, Catalogue, TaskEncoder
from braidbandit.tasks.packaged import load_tasks, without_answer
from braidbandit.tasks.words import WIDTH, embed_words


def test_texts_with_common_words_are_near():
    one, near, far = embed_words(["sort this list", "Sort that list!", "a love poem"])
    assert one @ near > 0.3 > one @ far


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_rows_have_length_one_or_no_word(texts):
    rows = embed_words(texts)
    assert rows.shape == (len(texts), WIDTH)
    lengths = np.linalg.norm(rows, axis=1)
    assert all(abs(n - 1) < 1e-9 or n == 0 for n in lengths)


def test_an_encoder_that_needs_no_model_tells_the_packaged_types_apart():
    train, test = load_tasks("train"), load_tasks("test")
    encoder = TaskEncoder("words").fit([without_answer(task) for task in train])
    right = [encoder.nearest_type(t["prompt"])[0] == t["type"] for t in test]
    assert np.mean(right) > 0.25  # by chance a seventh, +- 0.054


def test_it_is_saved_by_its_name_and_loaded_without_code(tmp_path):
    catalogue = Catalogue.build(["a", "b"], layer_sets=("output",))
    before = BraidRecommender(catalogue, TaskEncoder("words"), random_state=0)
    before.update(before.recommend("Sort a list"), 0.9).save(tmp_path)
    after = BraidRecommender.load(tmp_path)
    tasks = ["Sort a list", "a poem"]
    same = before.decision_function(tasks) == after.decision_function(tasks)
    assert same.all()
