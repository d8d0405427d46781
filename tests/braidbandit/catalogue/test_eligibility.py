"""A mask and its reasons are one thing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Budget
from braidbandit.catalogue.eligibility import Eligibility
from braidbandit.catalogue.limits import Limits

MASKS = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=5)


@given(MASKS)
def test_an_arm_has_a_reason_exactly_where_it_is_masked(masks):
    found = Eligibility(4)
    for number, out in enumerate(masks):
        found = found.without(np.array(out), f"rule {number}")
    assert [reason == "" for reason in found.reasons()] == found.mask.tolist()
    for arm, reason in enumerate(found.reasons()):
        first = next((n for n, out in enumerate(masks) if out[arm]), None)
        assert reason == ("" if first is None else f"rule {first}")


def test_a_further_rule_leaves_the_first_object_as_it_is():
    before = Eligibility(2)
    before.without(np.array([True, True]), "out")
    assert before.mask.all()
    assert before.reasons() == ["", ""]


def test_a_catalogue_says_the_first_reason_of_each_arm(catalogue):
    ids = catalogue.ids
    unfit = catalogue.with_unfit(ids[0], "worse than its anchor")
    costs = unfit.relative_costs()
    limits = Limits(0.5, Budget(flops=1000.0), excluded=iter(ids[:2]))
    found = unfit.eligibility(limits)
    assert found.reasons()[:2] == [
        "unfit: worse than its anchor",
        "excluded by the caller",
    ]
    for row, reason in enumerate(found.reasons()[2:], start=2):
        if costs[row] > 0.5:
            assert reason == f"relative cost {costs[row]:.2f} above 0.5"
        else:
            assert reason == "beyond the absolute budget"
    assert not found.mask.any()  # and that is no error here
    with pytest.raises(ValueError, match=r"no arm is left for compute_budget=0\.5"):
        unfit.allowed(Limits(0.5, Budget(flops=1000.0), excluded=ids[:2]))


def test_mask_and_reasons_of_a_catalogue_are_of_one_eligibility(catalogue):
    limits = Limits(0.4, Budget(flops=2500.0), (catalogue.ids[3],))
    found = catalogue.eligibility(limits)
    given = (limits.compute_budget, limits.excluded, limits.budget)
    np.testing.assert_array_equal(catalogue.mask(*given), found.mask)
    np.testing.assert_array_equal(catalogue.allowed(limits), found.mask)
    assert catalogue.mask_reasons(*given) == found.reasons()
    assert catalogue.eligibility().mask.all()


def test_a_reason_that_the_caller_gives_is_said(catalogue):
    first = catalogue.ids[0]
    limits = Limits(excluded={first: "its server is down"})
    assert catalogue.eligibility(limits).reasons()[0] == "its server is down"
    all_of = dict.fromkeys(catalogue.ids, "its server is down")
    with pytest.raises(ValueError, match=r"fewer arms\. Excluded: its server is down$"):
        catalogue.allowed(Limits(excluded=all_of))
