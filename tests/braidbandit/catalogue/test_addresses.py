"""Where a model is served, and what its tokens cost; nothing of a URL leaks."""

import math

import pytest

from braidbandit.catalogue.addresses import (
    Price,
    checked_endpoint,
    checked_variable,
    host_of,
    shown,
)


def test_a_price_is_per_million_tokens():
    """2,000 read at 3 and 500 written at 12: 0.006 + 0.006."""
    assert Price(3, 12).of(2000, 500) == pytest.approx(0.012)
    assert Price(3, 12).per_token == pytest.approx(15e-6)
    assert Price.read({"input": 1, "output": 2}, "m") == Price(1.0, 2.0)
    assert Price.read(Price(1, 2), "m") == Price(1, 2)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 10**400, "1", None, True])
def test_a_price_that_is_none(value):
    with pytest.raises(ValueError, match="finite money per million tokens"):
        Price(1.0, value)


@pytest.mark.parametrize("price", [None, 3.0, {}, {"input": 1}, {"in": 1, "out": 2}])
def test_a_price_without_both_parts(price):
    with pytest.raises(ValueError, match=r"'m' is served, and needs a price.*'input'"):
        Price.read(price, "m")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434/v1",
        "https://api.openai.com/v1",
        "http://[::1]:8080/v1",
        "http://gpu-box:8000",
    ],
)
def test_urls(url):
    assert checked_endpoint(url, "m") == checked_endpoint(url + "/", "m") == url
    assert shown(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3cret@host/v1",
        "http://s3cret@host/v1",
        "https://me:s3c@s3cret@host:8000/v1",
        "http://host/v1?api-key=s3cret",
        "http://host/v1#s3cret",
        "me:s3cret@host/v1",
        "http://me:s3cret?x@host/v1",
        "http://me:s3cret",  # a port, to the eye of a parser
        "ftp://me:s3cret@host/v1",
    ],
)
def test_what_may_be_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="endpoint of 'm'") as caught:
        checked_endpoint(url, "m")
    told = str(caught.value)
    assert "s3c" not in told
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "s3c" not in shown(url)


@pytest.mark.parametrize(
    "url",
    ["", "host", "127.0.0.1:8080/v1", "ftp://host/v1", "http://", "http://a b/v1"],
)
def test_what_is_no_url(url):
    with pytest.raises(ValueError, match=r"no http or https URL.*expected one such as"):
        checked_endpoint(url, "m")


def test_a_url_is_text():
    with pytest.raises(TypeError, match="endpoint of 'm' is a URL, received int"):
        checked_endpoint(8080, "m")


def test_a_variable_is_named_and_no_key_is_shown():
    assert checked_variable("MY_KEY_2", "m") == "MY_KEY_2"
    assert checked_variable(None, "m") is None
    for key in ("sk-s3cret", "gsk_s3cret", "", 3):
        with pytest.raises(ValueError, match="in capitals") as caught:
            checked_variable(key, "m")
        assert "s3cret" not in str(caught.value)


def test_the_host_of_a_url():
    assert host_of("https://API.OpenAI.com:443/v1") == "api.openai.com"
