import pytest
import tiny
import torch
from torch import nn

from fusion.calibration.store import CalibrationStore, braid_key, identity
from fusion.strands.strand import Strand


def test_a_strand_that_has_changed_reads_anew(store):
    strand = tiny.tiny_strand("llama")
    assert store.features(strand)[0].hidden.dtype == torch.float32
    strand.model.to(torch.bfloat16)
    assert store.features(strand)[0].hidden.dtype == torch.bfloat16


def test_a_strand_whose_weights_have_changed_reads_anew(texts, tmp_path):
    strand = tiny.tiny_strand("llama")
    before = CalibrationStore(texts, tmp_path, 0, False).features(strand)[0].hidden
    with torch.no_grad():
        strand.model.model.norm.weight.mul_(2)
    after = CalibrationStore(texts, tmp_path, 0, False).features(strand)[0].hidden
    torch.testing.assert_close(after, 2 * before)


def test_features_are_read_once_by_a_process_and_once_by_a_folder(
    texts, tmp_path, monkeypatch
):
    read = CalibrationStore(texts, tmp_path, 0, False).features(tiny.tiny_strand("opt"))
    monkeypatch.setattr("fusion.calibration.store.compute_features", None)
    strand = tiny.tiny_strand("opt")  # the same weights in another object
    again = CalibrationStore(texts, tmp_path, 1, False).features(strand)
    assert all(
        torch.equal(a.hidden, b.hidden) for a, b in zip(read, again, strict=True)
    )
    assert CalibrationStore(texts, None, 2, False).features(strand) is again
    with pytest.raises(TypeError):  # other texts have to be read
        CalibrationStore([*texts, "x"], tmp_path, 0, False).features(strand)


def test_a_part_is_fitted_where_the_folder_does_not_have_it(texts, tmp_path):
    def fill(key, weight, folder=tmp_path, seed=0):
        store, module = CalibrationStore(texts, folder, seed, False), nn.Linear(1, 1)
        fit = lambda: module.weight.data.fill_(weight)  # noqa: E731
        store.load_or_fit("gate", key, module, fit)
        return module.weight.item(), store.trained, store.reused

    assert fill([1], 2.0) == (2.0, ["gate"], [])
    assert fill([1], 3.0) == (2.0, [], ["gate"])
    assert fill([2], 4.0) == (4.0, ["gate"], [])
    assert fill([1], 5.0, seed=1) == (5.0, ["gate"], [])
    assert fill([1], 6.0, folder=None) == (6.0, ["gate"], [])


def test_a_fit_that_fails_leaves_no_file(texts, tmp_path):
    store = CalibrationStore(texts, tmp_path, 0, False)

    def fit():
        raise OSError("power")

    with pytest.raises(OSError, match="power"):
        store.load_or_fit("gate", 1, nn.Linear(1, 1), fit)
    assert not list(tmp_path.iterdir())
    assert store.trained == store.reused == []


def test_figures_are_measured_anew_after_training(texts, tmp_path):
    store = CalibrationStore(texts, tmp_path, 0, False)
    assert store.load_or_measure("report", 1, lambda: [1.5, 0.1]) == [1.5, 0.1]
    assert store.load_or_measure("report", 1, lambda: [9.0]) == [1.5, 0.1]
    store.load_or_fit("gate", 1, nn.Linear(1, 1), lambda: None)
    assert store.load_or_measure("report", 1, lambda: [2.5]) == [2.5]


def test_the_memo_is_one_for_all_braids_of_the_same_strands(store, braid):
    one, other = (braid("llama", "gemma", strategy=s) for s in ("router", "attention"))
    assert store.memo(one, 0) is store.memo(other, 0)
    assert store.memo(one, 0) is not store.memo(one, 1)
    assert store.memo(one, 0) is not store.memo(braid("llama", "opt"), 0)
    ids = store.features(one.anchor)[0].ids[None]
    found = one.encode(ids, memo=store.memo(one, 0))
    wanted = one.encode(ids).hidden
    torch.testing.assert_close(found.hidden, wanted, atol=1e-5, rtol=1e-4)


def test_the_loss_is_made_once_for_a_strand(store, strands):
    softmax = store.sampled_softmax(strands["llama"])
    assert store.sampled_softmax(strands["llama"]) is softmax
    targets = {int(i) for t in store.features(strands["llama"]) for i in t.targets}
    assert targets <= set(softmax.active.tolist())


def test_a_strand_is_known_by_its_name_and_weights():
    one, same = (tiny.tiny_strand("llama", "x", seed=0) for _ in range(2))
    assert identity(one) == identity(same)
    assert identity(one) != identity(tiny.tiny_strand("llama", "x", seed=1))
    renamed = Strand("y", one.model, one.tokenizer)
    assert identity(one) != identity(renamed)


def test_a_braid_is_known_by_its_whole_recipe(braid):
    keys = [
        braid_key(braid("llama", "gemma"), 2),
        braid_key(braid("llama", "gemma"), 3),
        braid_key(braid("llama", "opt"), 2),
        braid_key(braid("gemma", "llama"), 2),
        braid_key(braid("llama", "gemma", shares=[0.5, 0.5]), 2),
        braid_key(braid("llama", "gemma", strategy="attention"), 2),
        braid_key(braid("llama", "gemma", layers=("output",)), 2),
    ]
    assert all(keys.count(key) == 1 for key in keys)
    assert keys[0] == braid_key(braid("llama", "gemma"), 2)


def test_its_former_names_are_known():
    from fusion.session import Session, who

    assert (Session, who) == (CalibrationStore, identity)


DAMAGES = {
    "empty": lambda whole: b"",
    "cut in its first word": lambda whole: whole[:5],
    "cut in its header": lambda whole: whole[:30],
    "cut in its numbers": lambda whole: whole[:-1],
    "longer than it says": lambda whole: whole + b"\0",
    "zeros": lambda whole: bytes(len(whole)),
    "no tensors at all": lambda whole: b"<html>not found</html>" * 9,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_again_and_then_whole(texts, tmp_path, damage):
    def fill(weight):
        store, module = CalibrationStore(texts, tmp_path, 0, False), nn.Linear(2, 2)
        store.load_or_fit("own", 1, module, lambda: module.weight.data.fill_(weight))
        figures = store.load_or_measure("report", 1, lambda: [weight])
        return module.weight[0, 0].item(), figures, store.trained

    assert fill(2.0) == (2.0, [2.0], ["own"])
    for file in tmp_path.iterdir():
        file.write_bytes(damage(file.read_bytes()))
    assert fill(3.0) == (3.0, [3.0], ["own"])
    assert fill(4.0) == (3.0, [3.0], [])


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt], ids=str)
def test_what_is_interrupted_while_it_is_written_is_not_there(
    texts, tmp_path, monkeypatch, error
):
    def half(tensors, path):
        path.write_bytes(b"half")
        raise error("no space left")

    monkeypatch.setattr("fusion.calibration.store.save_file", half)
    store = CalibrationStore(texts, tmp_path, 0, False)
    with pytest.raises(error):
        store.load_or_fit("own", 1, nn.Linear(1, 1), lambda: None)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert store.trained == []
    store.load_or_fit("own", 1, nn.Linear(1, 1), lambda: None)
    assert store.trained == ["own"]


def test_figures_of_a_part_that_is_gone_are_not_believed_after_an_interruption(
    texts, tmp_path
):
    """Trained anew, but not measured yet: the figures of before are not its own."""

    def interrupted():
        raise KeyboardInterrupt

    first = CalibrationStore(texts, tmp_path, 0, False)
    first.load_or_measure("report", 1, lambda: [1.0])
    second = CalibrationStore(texts, tmp_path, 0, False)
    second.load_or_fit("own", 1, nn.Linear(1, 1), lambda: None)
    with pytest.raises(KeyboardInterrupt):
        second.load_or_measure("report", 1, interrupted)
    third = CalibrationStore(texts, tmp_path, 0, False)
    assert third.load_or_measure("report", 1, lambda: [2.0]) == [2.0]


def test_figures_keep_every_digit(texts, tmp_path):
    figures = [1 / 3, 1e-300, -0.1, float("inf")]
    for _ in range(2):
        store = CalibrationStore(texts, tmp_path, 0, False)
        assert store.load_or_measure("report", 1, lambda: figures) == figures


@pytest.mark.parametrize("shared", ["features", "own", "vocabulary"])
def test_what_hangs_on_the_seed_is_kept_apart_by_it(texts, tmp_path, shared):
    """Features are of the texts alone; what is drawn or trained is of the seed too."""
    made = []
    for seed in (0, 1):
        store = CalibrationStore(texts, tmp_path, seed, False)
        strand = tiny.tiny_strand("opt", f"of its own for {shared}")
        if shared == "own":
            store.load_or_fit("own", 1, nn.Linear(1, 1), lambda: None)
        else:
            store.sampled_softmax(strand)
        made.append(len(list(tmp_path.glob(f"{shared}-*"))))
    assert made == ([1, 1] if shared == "features" else [1, 2])


def test_other_texts_are_another_store(texts, tmp_path):
    """In another order too: numbers of texts mean others then."""
    for given in (texts, texts[::-1], texts[:-1], [*texts[:-1], texts[-1] + " "]):
        store = CalibrationStore(given, tmp_path, 0, False)
        store.load_or_fit("own", 1, nn.Linear(1, 1), lambda: None)
        assert store.trained == ["own"]


def test_tensors_that_share_memory_or_lie_across_it_are_written_whole(texts, tmp_path):
    """A transposed weight, and two names for one."""
    whole = torch.arange(6.0).view(2, 3)
    written, read = nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)
    store = CalibrationStore(texts, tmp_path, 0, False)

    def fit():
        written.weight = nn.Parameter(whole.T)

    store.load_or_fit("own", 1, written, fit)
    store.load_or_fit("own", 1, read, lambda: pytest.fail("it is in the store"))
    assert torch.equal(read.weight, whole.T)
