"""Which entries of ``W`` are parameters, and how tasks and arms meet in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.prior import GROUPS

Array = NDArray[np.float64]

_BIAS = GROUPS.index("intercept")


class Layout:
    """The parameters ``theta``: the entries of ``W`` that are not fixed at 0.

    They are numbered row by row. Consecutive rows with equally many parameters are
    contracted with a task in one product, which is what makes a belief fast.

    Parameters
    ----------
    groups : ndarray of shape (m, k)
        Prior group of each entry of ``W``, -1 where there is no parameter; from
        :func:`~braidbandit.bandit.prior.parameter_groups`.

    Attributes
    ----------
    groups : ndarray of shape (m, k)
    shape : tuple of int
        (m, k), the shape of ``W``.
    labels : ndarray of int, shape (p,)
        Prior group of each parameter.
    columns : ndarray of int, shape (p,)
        The task feature that each belongs to.

    Raises
    ------
    ValueError
        When a descriptor column has no parameter, or has some that are not the first
        ones of its row.

    Examples
    --------
    A bias with a slope for the one task feature, and a cost without:

    >>> layout = Layout(np.array([[0, 1], [4, -1]]))
    >>> layout.labels.tolist()
    [0, 1, 4]
    >>> layout.features(np.array([1.0, 0.5]), np.array([1.0, 2.0])).tolist()
    [1.0, 2.0, 0.5]
    >>> layout.matrix(np.array([0.7, 0.1, -0.2])).tolist()
    [[0.7, 0.1], [-0.2, 0.0]]
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        self.groups = np.asarray(groups)
        if self.groups.ndim != 2:
            raise ValueError(f"groups has two axes, received shape {self.groups.shape}")
        self.shape: tuple[int, int] = self.groups.shape
        self._rows, self.columns = np.nonzero(self.groups >= 0)
        if len(np.unique(self._rows)) != len(self.groups):
            raise ValueError("every descriptor column needs at least one parameter")
        self.labels = self.groups[self._rows, self.columns]
        self.runs = _runs(self.groups >= 0)

    def __len__(self) -> int:
        """Return the number of parameters p."""
        return len(self._rows)

    def features(self, z: Array, x: Array) -> Array:
        """Return what the parameters are multiplied with for one arm and task.

        Parameters
        ----------
        z : ndarray of shape (m,)
            Descriptor of the arm.
        x : ndarray of shape (k,)
            Features of the task.

        Returns
        -------
        phi : ndarray of shape (p,)
            ``z' W x = phi' theta``.
        """
        return z[self._rows] * x[self.columns]

    def matrix(self, theta: Array) -> Array:
        """Return ``W``, shape (..., m, k), of parameters ``theta``, shape (..., p)."""
        W = np.zeros((*theta.shape[:-1], *self.shape))
        W[..., self._rows, self.columns] = theta
        return W

    def of_pairs(self, ZZ: Array, XX: Array) -> Array:
        """Return ``sum phi phi'``, shape (p, p), of arms paired with tasks.

        Parameters
        ----------
        ZZ : ndarray of shape (m, m)
            ``Z' V Z`` of the arms, V the precision of one task's rewards.
        XX : ndarray of shape (k, k)
            ``X' X`` of the tasks.
        """
        rows, columns = self._rows, self.columns
        return np.asarray(ZZ[np.ix_(rows, rows)] * XX[np.ix_(columns, columns)])

    def outer(self, Z: Array, U: Array) -> Array:
        """Return ``u phi'`` of every arm, by the features ``phi`` of its row.

        Parameters
        ----------
        Z : ndarray of shape (B, m)
        U : ndarray of shape (d, k)
            ``sum u x'`` over the tasks.

        Returns
        -------
        ndarray of shape (B, d, p)
        """
        return np.asarray(Z[:, None, self._rows] * U[None][:, :, self.columns])

    def entries(self, W: Array) -> Array:
        """Return the entries of a matrix (m, k) that are parameters, shape (p,)."""
        return np.asarray(W[self._rows, self.columns])

    def more_rows(self, groups: NDArray[np.int64]) -> Layout:
        """Return the layout with more rows, one per new descriptor column.

        Parameters
        ----------
        groups : ndarray of shape (more, k)
            Their groups. Where no column here but the bias has task slopes, the new
            ones get none either.
        """
        slopes = self.groups[self.groups[:, 0] != _BIAS, 1:]
        if len(slopes) and (slopes == -1).all():
            groups = groups.copy()
            groups[:, 1:] = -1
        return Layout(np.vstack([self.groups, groups]))


def _runs(used: NDArray[np.bool_]) -> list[tuple[slice, slice, int]]:
    """Return runs of rows with equally many parameters: rows, parameters, width."""
    widths = used.sum(axis=1)
    if any(not row[:width].all() for row, width in zip(used, widths, strict=True)):
        raise ValueError("the parameters of a descriptor column must come first")
    edges = [0, *(np.flatnonzero(np.diff(widths)) + 1), len(widths)]
    ends = np.append(0, np.cumsum(widths))
    return [
        (slice(a, b), slice(int(ends[a]), int(ends[b])), int(widths[a]))
        for a, b in zip(edges, edges[1:], strict=False)
    ]
