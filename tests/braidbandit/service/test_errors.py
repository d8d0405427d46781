"""Errors have OpenAI's form, and tell no path and no address."""

import pytest

from braidbandit.service.errors import ApiError


def test_the_form():
    error = ApiError(429, "too many", param="n", wait=2.2)
    assert error.body == {
        "error": {
            "message": "too many",
            "type": "rate_limit_error",
            "param": "n",
            "code": "too_many_requests",
        }
    }
    assert error.headers == {"Retry-After": "3"}
    assert ApiError(429, "x", wait=1e9).headers["Retry-After"] == "3600"
    assert ApiError(429, "x", wait=0).headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no file /srv/models/a/config.json here", "no file [a path] here"),
        ("'/home/me/x' is no folder", "'[a path]' is no folder"),
        (r"C:\Users\me\x is damaged", "[a path] is damaged"),
        ("http://10.0.0.7:11434/v1 is out", "[an address] is out"),
        ("and/or, 3/4, /srv/models", "and/or, 3/4, [a path]"),
        ("/v1/models lists them", "/v1/models lists them"),
        ("/v1/feedback/../../etc/x", "[a path]"),
        ("give stars / 5", "give stars / 5"),
    ],
)
def test_nothing_is_given_away(said, told):
    assert ApiError(400, said).body["error"]["message"] == told
