"""Logs of other systems as a :class:`Log`: data frames, Vowpal Wabbit, RouteLLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import DictVectorizer

from braidbandit._checks import as_floats, check_labels
from braidbandit._files import damaged, parsed_lines, read_lines
from braidbandit._json import content_hash
from braidbandit._named import in_rows, ordered
from braidbandit.evaluation.log import Log, encoder_names
from braidbandit.tasks.encoder import task_hash

Array = NDArray[np.float64]

_WINNERS = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (bothbad)": 0.5,
    "both_bad": 0.5,
}


def log_from_frame(
    frame: Any,
    *,
    context: Sequence[str] | str,
    arm: str = "arm",
    reward: str = "reward",
    propensity: str = "propensity",
    encoder: Any = None,
    arm_ids: Sequence[Any] | None = None,
) -> Log:
    """Read a log from a table with one row per decision.

    Parameters
    ----------
    frame : DataFrame, or mapping from column names to columns
    context : sequence of str, or str
        Names of numeric columns; or, with an encoder, of the one column that holds the
        tasks.
    arm, reward, propensity : str
        Names of columns; rewards in [0, 1], propensities in (0, 1].
    encoder : TaskEncoder, optional
        A fitted one, which turns tasks into features.
    arm_ids : sequence, optional
        Every arm there is; by default those that were taken.

    Returns
    -------
    Log

    Raises
    ------
    KeyError
        When there is no such column.
    ValueError
        When the columns make no log; see :class:`Log`.

    Examples
    --------
    >>> frame = {"length": [3, 5], "arm": ["a", "b"], "reward": [1, 0],
    ...          "propensity": [0.5, 0.5]}
    >>> log_from_frame(frame, context=["length"]).X.tolist()
    [[3.0], [5.0]]
    """
    frame = _aligned(frame)
    X = _contexts(frame, context, encoder)
    taken, rewards, p = (_column(frame, key) for key in (arm, reward, propensity))
    names = _names_of(context, encoder)
    hashed = _hash_of(encoder)
    return Log(X, taken, rewards, p, arm_ids, encoder_hash=hashed, feature_names=names)


def log_from_scores(
    frame: Any,
    models: Sequence[str],
    *,
    context: Sequence[str] | str = "prompt",
    encoder: Any = None,
) -> Log:
    """Read a table that has the score of every model on every prompt.

    RouteLLM publishes its benchmarks in this form: a column ``prompt`` and one column
    per model, true or false or a number in [0, 1]. Each score becomes a row of the log
    that was taken with probability 1 / A, so that a policy's estimate is what it earns
    on the table. The rows of one prompt are a group: errors are those over prompts.

    Parameters
    ----------
    frame : DataFrame, or mapping from column names to columns
    models : sequence of str
        Names of at least two columns of scores.
    context, encoder
        As for :func:`log_from_frame`.

    Returns
    -------
    Log
        One row per prompt and model, prompt by prompt.

    Raises
    ------
    KeyError
        When there is no such column.
    ValueError
        When fewer than two models are named, or a score is outside [0, 1].

    Examples
    --------
    >>> frame = {"length": [3, 5], "strong": [True, True], "weak": [True, False]}
    >>> log = log_from_scores(frame, ["strong", "weak"], context=["length"])
    >>> log.rewards.tolist(), log.propensities.tolist()
    ([1.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5])
    """
    if isinstance(models, str) or len(models) < 2:
        raise ValueError(f"models names at least two columns, received {models!r}")
    frame, models = _aligned(frame), ordered(models, "models")
    X, n_arms = _contexts(frame, context, encoder), len(models)
    scores = np.column_stack([as_floats(_column(frame, m), m) for m in models])
    return Log(
        np.repeat(X, n_arms, axis=0),
        list(models) * len(X),
        scores.ravel(),
        np.full(len(X) * n_arms, 1.0 / n_arms),
        list(models),
        encoder_hash=_hash_of(encoder),
        groups=np.repeat(_prompts(frame, context, encoder, len(X)), n_arms),
        feature_names=_names_of(context, encoder),
    )


def log_from_battles(
    frame: Any,
    *,
    context: Sequence[str] | str = "prompt",
    encoder: Any = None,
) -> Log:
    """Read a table of battles: two models answered, and one of them won.

    RouteLLM learns from such tables. The columns are ``model_a``, ``model_b`` and
    ``winner``: "model_a", "model_b", "tie", or "tie (bothbad)" and "both_bad", which
    count as ties. A battle becomes two rows, one for each model, with the reward 1 for
    the winner, 0 for the loser and 1/2 for a tie. The two rows are a group.

    A model's propensity is its share of the rows. That assumes that which models met
    has nothing to do with the prompt; where it has, the estimates are wrong.

    Parameters
    ----------
    frame : DataFrame, or mapping from column names to columns
    context, encoder
        As for :func:`log_from_frame`.

    Returns
    -------
    Log
        Two rows per battle, battle by battle.

    Raises
    ------
    KeyError
        When there is no such column.
    ValueError
        When a winner is none of these, or a model is missing.

    Examples
    --------
    >>> frame = {"length": [3, 5], "model_a": ["x", "y"], "model_b": ["y", "x"],
    ...          "winner": ["model_a", "tie"]}
    >>> log = log_from_battles(frame, context=["length"])
    >>> [log.arm_ids[c] for c in log.columns], log.rewards.tolist()
    (['x', 'y', 'y', 'x'], [1.0, 0.0, 0.5, 0.5])
    """
    frame = _aligned(frame)
    X = _contexts(frame, context, encoder)
    winners = [str(winner) for winner in _column(frame, "winner")]
    unknown = sorted(set(winners) - set(_WINNERS))
    if unknown:
        raise ValueError(f"unknown winners {unknown}; expected {sorted(_WINNERS)}")
    first = np.array([_WINNERS[winner] for winner in winners])
    models = [check_labels(_column(frame, key)) for key in ("model_a", "model_b")]
    taken = check_labels(chain.from_iterable(zip(*models, strict=True)))
    met = Counter(taken)
    return Log(
        np.repeat(X, 2, axis=0),
        taken,
        np.column_stack([first, 1.0 - first]).ravel(),
        [met[model] / len(taken) for model in taken],
        encoder_hash=_hash_of(encoder),
        groups=np.repeat(_prompts(frame, context, encoder, len(X)), 2),
        feature_names=_names_of(context, encoder),
    )


def log_from_dsjson(
    source: str | Path | Iterable[str],
    *,
    reward_range: tuple[float, float] = (0.0, 1.0),
    arm_of: Callable[[Any], str] | None = None,
) -> Log:
    """Read a log of Vowpal Wabbit in its decision-service format (dsjson).

    The reward is minus the cost. Each shared feature becomes a column if it is a
    number, and one column per word if it is text. Left out are lines without a
    decision, decisions without a cost, and decisions that were never shown
    (``_skipLearn``: deferred and not activated).

    Parameters
    ----------
    source : str, Path or iterable of str
        The path of a file, or lines.
    reward_range : (low, high)
        Rewards lie between these; they are scaled to [0, 1].
    arm_of : callable, optional
        Makes an action's name from its features. By default the name is the ``_tag`` or
        the ``id``, at any depth, or else a hash of the features.

    Returns
    -------
    Log

    Raises
    ------
    ValueError
        On a damaged line, or a reward outside its range.

    Examples
    --------
    >>> line = ('{"_label_cost": -1.0, "_label_probability": 0.8, "_label_Action": 2, '
    ...         '"a": [2, 1], "p": [0.8, 0.2], "c": {"User": {"age": 30}, '
    ...         '"_multi": [{"id": "sport"}, {"id": "news"}]}}')
    >>> log = log_from_dsjson([line])
    >>> log.arm_ids, log.columns.tolist(), log.rewards.tolist(), log.X.tolist()
    (('sport', 'news'), [1], [1.0], [[30.0]])
    """
    low, high = map(float, reward_range)
    if not low < high:
        raise ValueError(f"reward_range is (low, high), received {reward_range!r}")
    name_of = _name_of if arm_of is None else arm_of
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        rows = _shown_rows(read_lines(path), path, name_of)
    else:
        rows = _shown_rows(parsed_lines(source), None, name_of)
    if not rows:
        raise ValueError("no line holds a decision that was shown and has a cost")
    # A dictionary keeps the order in which arms were first seen.
    ids = list(dict.fromkeys(arm for row in rows for arm in row.arms))
    column = {arm: at for at, arm in enumerate(ids)}
    eligible = np.zeros((len(rows), len(ids)), dtype=bool)
    for at, row in enumerate(rows):
        eligible[at, [column[arm] for arm in row.arms]] = True
    rewards = np.array([row.reward for row in rows])
    return Log(
        _numeric([row.features for row in rows]),
        [row.taken for row in rows],
        (rewards - low) / (high - low),
        [row.propensity for row in rows],
        ids,
        eligible,
    )


class _Shown(NamedTuple):
    """A decision of a decision-service log that was shown and has a cost."""

    features: dict[str, float | str]
    arms: list[str]
    taken: str
    reward: float
    propensity: float


def _shown_rows(
    lines: Iterable[tuple[int, Any]], path: Path | None, name_of: Callable[[Any], str]
) -> list[_Shown]:
    rows: list[_Shown] = []
    for number, event in lines:
        try:
            if _is_shown(event):
                rows.append(_shown(event, name_of))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise damaged(number, path, error) from error
    return rows


def _is_shown(event: Any) -> bool:
    """Whether a line holds a decision that was shown and has a cost."""
    if not isinstance(event, dict):
        raise TypeError(f"expected an object, received {event!r}")
    skipped = event.get("_skipLearn")
    if skipped is not None and not isinstance(skipped, bool):
        raise ValueError(f"_skipLearn is true or false, received {skipped!r}")
    return not skipped and "c" in event and event.get("_label_cost") is not None


def _shown(event: Mapping[str, Any], name_of: Callable[[Any], str]) -> _Shown:
    # A line may stand for many like it that were dropped on the way.
    if event.get("pdrop"):
        raise ValueError("lines were dropped (pdrop); give the whole log")
    if not isinstance(event["c"]["_multi"], list):
        raise TypeError(f"_multi is a list, received {event['c']['_multi']!r}")
    arms = [name_of(action) for action in event["c"]["_multi"]]
    if len(set(arms)) != len(arms):
        raise ValueError(f"two actions have the same name: {arms}")
    action = event["_label_Action"]
    if isinstance(action, bool) or action not in range(1, len(arms) + 1):
        raise ValueError(f"action {action!r} of {len(arms)}")
    shared = {key: value for key, value in event["c"].items() if key != "_multi"}
    return _Shown(
        _features(shared),
        arms,
        arms[int(action) - 1],
        -float(event["_label_cost"]),
        float(event["_label_probability"]),
    )


def _features(shared: Mapping[str, Any]) -> dict[str, float | str]:
    """Return features by their path: numbers as floats, all else as text."""
    pairs = list(_flat(shared))
    features = {
        path: float(value) if isinstance(value, int | float) else str(value)
        for path, value in pairs
    }
    if len(features) < len(pairs):
        raise ValueError(
            f"two features have the same name, of {[name for name, _ in pairs]}"
        )
    return features


def _numeric(features: list[dict[str, float | str]]) -> Array:
    """Return a column for each number and each word; ones where there is no feature."""
    pairs = {pair for row in features for pair in row.items()}
    words = {f"{name}={value}" for name, value in pairs if isinstance(value, str)}
    if twice := sorted(words & {name for row in features for name in row}):
        raise ValueError(f"words and numbers would share the columns {twice}")
    found: Array = np.asarray(DictVectorizer(sparse=False).fit_transform(features))
    return found if found.shape[1] else np.ones((len(features), 1))


def _flat(features: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Yield nested features by their path."""
    if isinstance(features, Mapping):
        for key, value in features.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(features, list):
        for at, value in enumerate(features):
            yield from _flat(value, f"{name}[{at}]")
    elif features is not None:
        yield name, features


def _name_of(action: Any) -> str:
    for key in ("_tag", "id"):
        for path, value in _flat(action):
            if path.split(".")[-1] == key:
                whole = isinstance(value, float) and value.is_integer()
                return str(int(value) if whole else value)
    return content_hash(action)


def _contexts(frame: Any, context: Sequence[str] | str, encoder: Any) -> Array:
    if encoder is not None:
        if not isinstance(context, str):
            raise ValueError("with an encoder, context names the column of the tasks")
        features: Array = encoder.transform(list(_column(frame, context)))
        return features
    names = [context] if isinstance(context, str) else list(context)
    columns = [_column(frame, name) for name in names]
    try:
        pairs = zip(columns, names, strict=True)
        return np.column_stack([as_floats(c, f"column {name!r}") for c, name in pairs])
    except ValueError as error:
        raise ValueError(
            f"the columns {names} are not numeric ({error}); give an encoder for text"
        ) from error


def _names_of(context: Sequence[str] | str, encoder: Any) -> list[str] | None:
    if encoder is not None:
        return encoder_names(encoder)
    return [context] if isinstance(context, str) else list(context)


def _aligned(frame: Any) -> Any:
    """Return a mapping of columns with all of them in the order of one's labels."""
    if not isinstance(frame, Mapping):
        return frame
    return dict(zip(frame, in_rows(None, frame), strict=True))


def _column(frame: Any, name: str) -> Any:
    if name not in frame:
        raise KeyError(f"no column {name!r}; there are {list(frame)}")
    return frame[name]


def _prompts(frame: Any, context: Any, encoder: Any, n: int) -> list[Any]:
    """Return what tells the prompts of n rows apart; numbers alone cannot."""
    if encoder is None:
        return list(range(n))
    return [task_hash(task) for task in _column(frame, context)]


def _hash_of(encoder: Any) -> str | None:
    return None if encoder is None else str(encoder.projection_hash())
