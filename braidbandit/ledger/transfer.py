"""A ledger as a file and back: JSON lines or Parquet."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

from braidbandit._checks import check_whole
from braidbandit._files import damaged, read_lines, replacing
from braidbandit.ledger.ledger import Ledger, write_comparison
from braidbandit.ledger.records import (
    COMPARED,
    KINDS,
    Comparison,
    Decision,
    Outcome,
    comparison_of,
    comparison_row,
    decision_row,
    in_utc,
    kept_text,
    outcome_of,
    outcome_row,
)
from braidbandit.ledger.schema import Tables

FORMAT = 1
_WORD = "braidbandit ledger"
_HEADER = json.dumps({_WORD: FORMAT})
_PARQUET = b"PAR1"
_BATCH = 500
# Made for others to read, as far as the umask allows.
_ANYBODY = 0o666
# One record a row. Some of it once more in columns of its own, for whoever reads a
# Parquet file with another tool; "body", "text" and "expired_at" are read back.
_COLUMNS = (
    ("record", "string"),
    ("decision_id", "string"),
    ("created_at", "string"),
    ("arm_id", "string"),
    ("propensity", "float64"),
    ("reward", "float64"),
    ("text", "string"),
    ("expired_at", "string"),
    ("body", "string"),
)
# What reading a record that makes no sense comes to.
_DAMAGE = (KeyError, OverflowError, TypeError, ValueError)
_READ = ["record", "text", "expired_at", "body"]


def export_ledger(ledger: Ledger, path: str | Path) -> int:
    """Write every decision, outcome, revision, retraction and comparison to a file.

    Parameters
    ----------
    ledger : Ledger
    path : str or Path
        Ending in ``.jsonl``, or in ``.parquet``, which needs PyArrow.

    Returns
    -------
    int
        Records written.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Ledger(folder.name + "/ledger.db") as ledger:
    ...     export_ledger(ledger, folder.name + "/ledger.jsonl")
    0
    >>> folder.cleanup()
    """
    path = Path(path).expanduser()
    write = _write_parquet if _kind_of(path) == "parquet" else _write_lines
    with replacing(path, mode=_ANYBODY) as file:
        return write(file, _records(ledger))


def import_ledger(path: str | Path, ledger: Ledger) -> int:
    """Read a file of :func:`export_ledger` into a ledger.

    What the ledger holds already is skipped, so that an interrupted import can be
    repeated.

    Parameters
    ----------
    path : str or Path
        Ending in ``.jsonl`` or ``.parquet``.
    ledger : Ledger
        It may hold other records already.

    Returns
    -------
    int
        Records that were not there already.

    Raises
    ------
    ValueError
        When the file is damaged or of a newer format, or the ledger holds something
        else under the same id. What was imported before that stays.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Ledger(":memory:") as one, Ledger(":memory:") as other:
    ...     _ = export_ledger(one, folder.name + "/ledger.jsonl")
    ...     import_ledger(folder.name + "/ledger.jsonl", other)
    0
    >>> folder.cleanup()
    """
    path = Path(path).expanduser()
    read = _read_parquet if _kind_of(path) == "parquet" else _read_lines
    records, written = read(path), 0
    while batch := list(islice(records, _BATCH)):
        written += restore(
            ledger,
            [_decision(r, path) for r in batch if r["record"] == "decision"],
            [_event(r, path) for r in batch if r["record"] != "decision"],
            _expired(batch, path),
        )
    return written


def restore(
    ledger: Ledger,
    decisions: Sequence[tuple[Decision, str | None]],
    events: Sequence[tuple[str, int, Outcome | Comparison]] = (),
    expired: Mapping[str, str] | None = None,
) -> int:
    """Write many records of another ledger at once: all of them, or none.

    Parameters
    ----------
    ledger : Ledger
    decisions : sequence of (Decision, text or None)
    events : sequence of (kind, revision, Outcome or Comparison)
        In the order in which they count.
    expired : mapping of str to str, optional
        When decisions, by id, stopped being waited for.

    Returns
    -------
    int
        Records that were not there already.

    Raises
    ------
    KeyError
        When the decision of an event is unknown.
    ValueError
        When the ledger, or another of the records, says something else in the place
        of a record.
    """
    stopped = expired or {}
    given: dict[str, Decision] = {}
    for decision, _ in decisions:
        kept = given.setdefault(decision.id, decision)
        if kept is not decision and kept != decision:
            raise ValueError(f"two decisions have the id {decision.id!r}")
    rows = {
        decision.id: {
            **_row(ledger, decision, text),
            "expired_at": stopped.get(decision.id),
        }
        for decision, text in decisions
    }
    said = _rows_of(events)
    tables, known = ledger.database.tables, list[str]()
    with ledger.database.writing(ordered=True) as connection:
        for decision_id in _known(ledger, connection, given):
            _expire(connection, tables, decision_id, stopped.get(decision_id))
            del rows[decision_id]
            known.append(decision_id)
        if rows:
            connection.execute(tables.decisions.insert(), list(rows.values()))
        for key in _said(connection, tables, said):
            del said[key]
        _write_events(connection, tables, list(said.values()))
    for decision_id in known:
        asked = given[decision_id].asked
        if asked is not None:
            ledger.record_asked(decision_id, asked)
    return len(rows) + len(said)


def purge_export(path: Path, before: datetime, *, records: bool) -> None:
    """Delete from an export what :meth:`Ledger.purge` deletes from a ledger.

    Parameters
    ----------
    path : Path
        The file; it is replaced, unless there is nothing to delete.
    before : datetime
        With a zone. What was decided earlier is deleted.
    records : bool
        Delete decisions and outcomes, and not only texts.
    """
    with path.open("rb") as file:
        parquet = file.read(len(_PARQUET)) == _PARQUET
    read = partial(_read_parquet, columns=None) if parquet else _read_lines
    old = {
        record["body"]["id"]
        for record in read(path)
        if record["record"] == "decision"
        and in_utc(record["body"]["created_at"]) < in_utc(before)
        and (records or record["text"] is not None)
    }
    if not old:
        return
    kept = (
        {**record, "text": None} if record["body"].get("id") in old else record
        for record in read(path)
        if not (records and _is_of(record, old))
    )
    # Whoever could not read it before cannot read it now.
    with replacing(path, mode=stat.S_IMODE(path.stat().st_mode)) as file:
        (_write_parquet if parquet else _write_lines)(file, kept)


def is_export(path: Path, head: bytes) -> bool:
    """Whether a file that begins like this is an export of a ledger."""
    if not head.startswith(_PARQUET):
        return head.startswith(_HEADER[:-2].encode())
    _, parquet = _pyarrow()
    with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
        return _WORD.encode() in (file.schema_arrow.metadata or {})


def _row(ledger: Ledger, decision: Decision, text: str | None) -> dict[str, Any]:
    text = kept_text(text, ledger.redact)
    return decision_row(decision, ledger.arm_sets.key_of(decision.arm_ids), text)


def _known(ledger: Ledger, connection: Any, given: Mapping[str, Decision]) -> list[str]:
    """Return the ids that are there already, with the same content."""
    import sqlalchemy as sa

    tables = ledger.database.tables
    ids = tables.decisions.c.id
    query = sa.select(ids, *tables.record).where(ids.in_(given))
    rows = connection.execute(query).all()
    for row, kept in zip(
        rows, ledger.arm_sets.decisions(connection, rows), strict=True
    ):
        if kept != given[row.id]:
            raise ValueError(f"the ledger holds another decision with id {row.id!r}")
    return [row.id for row in rows]


def _expire(connection: Any, tables: Tables, decision_id: str, at: str | None) -> None:
    """Stop waiting for a decision that is there, if nobody has said so before."""
    if at is not None:
        d = tables.decisions
        late = (d.c.id == decision_id) & d.c.expired_at.is_(None)
        connection.execute(d.update().where(late).values(expired_at=at))


def _rows_of(
    events: Iterable[tuple[str, int, Outcome | Comparison]],
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows of events by decision, or key of a comparison, and number."""
    said: dict[tuple[str, int], dict[str, Any]] = {}
    for kind, revision, record in events:
        if isinstance(record, Comparison):
            row = comparison_row(record, revision, kind)
            key = record.key, revision
        else:
            row = outcome_row(record, revision, kind)
            key = record.decision_id, revision
        if said.setdefault(key, row) != row:
            raise ValueError(
                f"two events of decision {row['decision_id']!r} have the number "
                f"{revision}"
            )
    return said


def _write_events(
    connection: Any, tables: Tables, rows: Sequence[dict[str, Any]]
) -> None:
    """Write the rows of events so that their numbers are in the order given."""
    for compared, some in groupby(rows, key=_is_comparison):
        if not compared:
            connection.execute(tables.outcomes.insert(), list(some))
            continue
        for row in some:
            write_comparison(connection, tables, row)


def _is_comparison(row: Mapping[str, Any]) -> bool:
    return "key" in row


def _said(
    connection: Any, tables: Tables, said: Mapping[tuple[str, int], dict[str, Any]]
) -> list[tuple[str, int]]:
    """Return the keys of events that are there already, with the same content."""
    import sqlalchemy as sa

    d, o, c = tables.decisions, tables.outcomes, tables.comparisons
    ids = {row["decision_id"] for row in said.values()}
    ids |= {row["other_id"] for row in said.values() if row.get("other_id")}
    known = connection.execute(sa.select(d.c.id).where(d.c.id.in_(ids))).scalars()
    if missing := sorted(ids - set(known)):
        raise KeyError(f"unknown decisions {missing[:3]}; record them first")
    names = {name for name, _ in said}
    there: list[tuple[str, int]] = []
    for name, query in (
        ("decision_id", sa.select(o).where(o.c.decision_id.in_(names))),
        ("key", sa.select(c).where(c.c.key.in_(names))),
    ):
        for row in connection.execute(query):
            key = (getattr(row, name), row.revision)
            if key in said:
                if (row.kind, row.body) != (said[key]["kind"], said[key]["body"]):
                    raise ValueError(
                        f"decision {row.decision_id!r} has another {row.kind} already"
                    )
                there.append(key)
    return there


def _decision_id(record: dict[str, Any]) -> str:
    body = record["body"]
    return str(body["id" if record["record"] == "decision" else "decision_id"])


def _is_of(record: dict[str, Any], decision_ids: Collection[str]) -> bool:
    """Whether a record is, or speaks of, one of these decisions."""
    if record["record"] not in COMPARED:
        return _decision_id(record) in decision_ids
    body = record["body"]
    return not {body["better_decision"], body["worse_decision"]}.isdisjoint(
        decision_ids
    )


def _records(ledger: Ledger) -> Iterator[dict[str, Any]]:
    # Outcomes that come meanwhile may be of decisions that do: they are left out.
    expired, until = ledger.expired(), ledger.last_sequence()
    for decision, text in ledger.decisions():
        yield {
            "record": "decision",
            "decision_id": decision.id,
            "created_at": decision.created_at,
            "arm_id": decision.braid.id,
            "propensity": decision.propensity,
            "reward": None,
            "text": text,
            "expired_at": expired.get(decision.id),
            "body": decision.to_dict(),
        }
    for event in ledger.history(until):
        compared = event.kind in COMPARED
        said = comparison_of(event.body) if compared else outcome_of(event.body)
        yield {
            "record": event.kind,
            "decision_id": said.decision_id,
            "created_at": said.created_at,
            "arm_id": None,
            "propensity": None,
            "reward": None if compared else event.reward,
            "text": None,
            "expired_at": None,
            "body": {"revision": event.revision, **said.to_dict()},
        }


def _decision(record: dict[str, Any], path: Path) -> tuple[Decision, str | None]:
    try:
        decision, text = Decision.from_dict(record["body"]), record["text"]
        _check_decision(decision, text)
        return decision, text
    except _DAMAGE as error:
        raise ValueError(f"{path} holds a damaged decision: {error!r}") from error


def _check_decision(decision: Decision, text: Any) -> None:
    """Refuse what could be written, and would come back as something else."""
    if text is not None and not isinstance(text, str):
        raise TypeError(f"a task is kept as text, received {text!r}")
    if not len(decision.arm_ids) == len(decision.scores) == len(decision.eligible):
        raise ValueError("arm_ids, scores and eligible have different lengths")
    if not all(map(math.isfinite, decision.x)):
        raise ValueError(f"features are finite, received {decision.x}")
    in_utc(decision.created_at)


def _expired(records: list[dict[str, Any]], path: Path) -> dict[str, str]:
    """Return when decisions expired, by id; older files do not say it."""
    try:
        return {
            record["body"]["id"]: in_utc(record["expired_at"])
            for record in records
            if record.get("expired_at") is not None
        }
    except _DAMAGE as error:
        raise ValueError(f"{path} holds a damaged decision: {error!r}") from error


def _event(record: dict[str, Any], path: Path) -> tuple[str, int, Any]:
    try:
        kind, body = record["record"], dict(record["body"])
        if kind not in (*KINDS, *COMPARED):
            raise ValueError(f"unknown record {kind!r}")
        revision = check_whole("revision", body.pop("revision"), 0)
        read = comparison_of if kind in COMPARED else outcome_of
        said = read(json.dumps(body))
        in_utc(said.created_at)
        return kind, revision, said
    except _DAMAGE as error:
        raise ValueError(f"{path} holds a damaged outcome: {error!r}") from error


def _kind_of(path: Path) -> str:
    kind = {".jsonl": "jsonl", ".parquet": "parquet"}.get(path.suffix)
    if kind is None:
        raise ValueError(f"expected a file named .jsonl or .parquet, received {path}")
    return kind


def _write_lines(file: BinaryIO, records: Iterable[dict[str, Any]]) -> int:
    count = 0
    file.write(f"{_HEADER}\n".encode())
    for record in records:
        # Files of before say nothing of expiry.
        kept = {key: record.get(key) for key in _READ}
        file.write(json.dumps(kept, allow_nan=False).encode() + b"\n")
        count += 1
    return count


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = read_lines(path)
    _, header = next(lines, (1, None))
    _check_format(header, path)
    for number, record in lines:
        try:
            _ = record["record"], record["text"], record["body"]
        except (KeyError, TypeError) as error:
            raise damaged(number, path, error) from error
        yield record


def _write_parquet(file: BinaryIO, records: Iterable[dict[str, Any]]) -> int:
    arrow, parquet = _pyarrow()
    fields = [(name, getattr(arrow, kind)()) for name, kind in _COLUMNS]
    schema = arrow.schema(fields, metadata={_WORD: str(FORMAT)})
    left, count = iter(records), 0
    with parquet.ParquetWriter(file, schema) as writer:
        while batch := list(islice(left, _BATCH)):
            rows = [{**r, "body": json.dumps(r["body"])} for r in batch]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            count += len(batch)
    return count


def _read_parquet(
    path: Path, columns: list[str] | None = _READ
) -> Iterator[dict[str, Any]]:
    arrow, parquet = _pyarrow()
    try:
        # Opened here: PyArrow reads some paths as URLs.
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            words = file.schema_arrow.metadata or {}
            found = words.get(_WORD.encode(), b"").decode()
            format_ = int(found) if found.isdigit() else None
            _check_format({_WORD: format_}, path)
            for batch in file.iter_batches(_BATCH, columns=columns):
                for record in batch.to_pylist():
                    yield {**record, "body": json.loads(record["body"])}
    except arrow.ArrowException as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _check_format(header: Any, path: Path) -> None:
    found = header.get(_WORD) if isinstance(header, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError(f"{path} is no export of a ledger")
    if found > FORMAT:
        raise ValueError(
            f"{path} has format {found}, this version reads up to {FORMAT}; upgrade "
            "braidbandit"
        )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need PyArrow: pip install 'braidbandit[data]'"
        ) from error
    return pyarrow, pyarrow.parquet
