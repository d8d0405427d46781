import numpy as np

from braidbandit import Catalogue
from braidbandit.catalogue.features import block_of


def test_columns_of_a_pair(catalogue):
    Z, names = catalogue.descriptors()
    assert Z.shape == (len(catalogue), len(names))
    assert Z.dtype == np.float64
    column = {name: Z[:, j] for j, name in enumerate(names)}
    assert (column["bias"] == 1).all()
    even = next(i for i, b in enumerate(catalogue) if b.shares == (0.5, 0.5))
    assert column["share:big"][even] == 0
    assert column["pair:big+small"][even] == 1
    assert abs(column["cost"].mean()) < 1e-12
    assert {block_of(n) for n in names} >= {"bias", "share", "anchor", "pair"}


def test_columns_that_say_nothing_are_left_out():
    catalogue = Catalogue.build(["a"], max_strands=1)
    _, names = catalogue.descriptors()
    assert not [name for name in names if name.startswith(("share", "strands", "cost"))]
