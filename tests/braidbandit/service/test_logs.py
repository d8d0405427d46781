"""A log line is JSON with what it was given."""

import json
import logging

from braidbandit.service.logs import JsonLines


def test_lines():
    record = logging.makeLogRecord(
        {"msg": "an answer of %d\nlines", "args": (2,), "decision": "d", "name": "x"}
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert said["event"] == "an answer of 2\nlines"
    assert (said["decision"], said["logger"]) == ("d", "x")
    assert said["time"].endswith("Z")
    assert "args" not in said


def test_errors_are_told():
    try:
        raise ValueError("no")
    except ValueError as error:
        info = type(error), error, error.__traceback__
    record = logging.makeLogRecord({"msg": "x", "exc_info": info})
    assert "ValueError: no" in json.loads(JsonLines().format(record))["error"]
