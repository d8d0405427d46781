import numpy as np
import pytest

from braidbandit.tasks.details import check_features, code_of, details_of

CODE = [1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1]


def test_a_code_is_signs_of_length_two_and_never_changes():
    code = code_of("channel=email", 12)
    assert np.unique(np.abs(code)).size == 1
    assert np.linalg.norm(code) == pytest.approx(2.0)
    # Ledgers hold what they make.
    assert (code > 0).astype(int).tolist() == CODE


def test_what_a_task_has_is_the_sum_of_codes():
    found = details_of(["b", "a", "a"], {"n": -3.0, "of": "x"}, 5)
    want = code_of("capability=a", 5) + code_of("capability=b", 5)
    want = want - np.log(4.0) * code_of("n", 5) + code_of("of=x", 5)
    np.testing.assert_allclose(found, want)


def test_a_dozen_names_are_linearly_independent():
    codes = np.array([code_of(f"kind={i}", 12) for i in range(12)])
    assert np.linalg.matrix_rank(codes) == 12


def test_a_giant_number_stays_small():
    assert np.abs(details_of([], {"bytes": 1e300}, 12)).max() < 1e3


@pytest.mark.parametrize("value", [np.nan, np.inf, 10**400, -(10**400)])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"feature 'n' must be finite, received"):
        check_features({"n": value})


@pytest.mark.parametrize("value", [True, np.True_])
def test_yes_and_no_are_categories(value):
    assert check_features({"a": value, "b": None}) == {"a": "True"}
