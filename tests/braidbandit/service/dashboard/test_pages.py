"""Pages over the real application: what is in them, who sees them, what they load."""

import html
import re
from html.parser import HTMLParser

import httpx2
import pytest
from serving import wait_until

from braidbandit.service.dashboard.pages import HERE
from braidbandit.service.keys import hash_key, new_key

PARTS = ("status", "warnings", "paying", "kinds", "cost", "newest")
STATIC = sorted(file.name for file in (HERE / "static").iterdir())
EVIL = '<img src=x onerror="alert(1)">{{ 7 * 7 }}\'"&'


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def fresh(serve, make_agent, models):
    """A service that nobody has asked anything."""
    return serve(make_agent(local=models[:1]))


@pytest.fixture(scope="module")
def kept(serve, make_agent):
    """A service whose ledger keeps texts, with an arm of a hostile name."""
    evil = {
        "model_name": EVIL,
        "source": "x",
        "endpoint": "http://127.0.0.1:9/v1",
        "price": {"input": 0.0, "output": 0.0},
    }
    agent = make_agent(evil, keep_text=True)
    return serve(agent, learning={"keep_text": True})


def get(server, path="/", **headers):
    return httpx2.get(server.root + path, headers=headers, timeout=60)


def asked(server, text="Hello there", **more):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}
    answer = httpx2.post(f"{server.url}/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["x_braidbandit"]


def rated(server, about, reward):
    body = {"decision": about["decision"], "token": about["token"], "reward": reward}
    assert httpx2.post(f"{server.url}/feedback", json=body).status_code == 200


def until(server, part, words):
    wait_until(lambda: words in get(server, f"/dashboard/parts/{part}").text)
    return get(server, f"/dashboard/parts/{part}").text


def test_what_is_empty_says_what_to_do(fresh):
    page = get(fresh)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "No answer was rated yet" in until(fresh, "paying", "rated yet")
    assert "ask the model <code>auto</code>" in until(fresh, "kinds", "auto")
    assert "Ask the model" in until(fresh, "cost", "Nothing was spent")
    assert "Point a client at" in get(fresh, "/dashboard/parts/newest").text
    assert get(fresh, "/dashboard/series").json() == {
        "rating": [],
        "reward": [],
        "cost": [],
    }


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_in_the_page_and_can_be_fetched(server, part):
    answer = get(server, f"/dashboard/parts/{part}")
    assert answer.status_code == 200
    assert "<html" not in answer.text
    [place] = [a for t, a in Tags(get(server).text).found if a.get("id") == part]
    assert place["hx-get"] == f"/dashboard/parts/{part}"
    assert place["hx-trigger"].startswith("every ")


def test_a_fresh_decision_is_in_the_next_part(server):
    about = asked(server)
    part = get(server, "/dashboard/parts/newest").text
    line = next(one for one in part.split("<li>") if about["decision"] in one)
    assert "waits for feedback" in line
    rated(server, about, 0.75)
    part = get(server, "/dashboard/parts/newest").text
    line = next(one for one in part.split("<li>") if about["decision"] in one)
    assert "rated 0.75" in line


def test_what_was_rated_is_in_every_part(server):
    for at in range(14):
        rated(server, asked(server, f"Task number {at}"), 0.25 * (at % 5))
    paid = until(server, "paying", "rated answers")
    assert "Choosing earned 0." in paid
    assert 'class="verdict"' in paid
    row = (
        r"<td>(\d+)</td><td><bdi>.*?</bdi></td><td>(\d+)\u202f%</td><td>0.\d+ \((\d+)\)"
    )
    [(tasks, share, times)] = re.findall(row, until(server, "kinds", "<table>"))
    assert int(share) == round(100 * int(times) / int(tasks))
    assert "<meter" in until(server, "cost", "Mean cost of")
    counts = server.service.ledger.counts()

    def columns():
        return get(server, "/dashboard/series").json()

    wait_until(lambda: len(columns()["rating"]) == counts["outcomes"])
    assert all(0 <= value <= 1 for value in columns()["reward"] + columns()["cost"])
    assert f"<dd>{counts['decisions']}</dd>" in get(server).text


def test_a_decision_is_told_term_by_term(server):
    about = asked(server, "Explain this")
    page = get(server, f"/dashboard/decisions/{about['decision']}").text
    why = httpx2.get(f"{server.url}/decisions/{about['decision']}").json()
    decision = server.service.ledger.decision(about["decision"])
    assert html.escape(decision.sentence) in page.replace("&#39;", "&#x27;")
    for row in why["explanation_now"]["rows"]:
        assert html.escape(row["label"]) in page
    for words in ("Exploration", "Before anything was learnt", "All else"):
        assert words in page
    assert "What would change it:" in page
    assert "Explain this" not in page  # the ledger keeps no texts


def test_a_decision_whose_task_is_gone(serve, make_agent, models):
    agent = make_agent(local=models[:1])
    decision = agent.forward("Forgotten")
    page = get(serve(agent), f"/dashboard/decisions/{decision.id}").text
    assert "keep_text = true" in page
    assert "Scores then" in page


@pytest.mark.parametrize("path", ["nothing", "%3Cscript%3E", "a" * 3000])
def test_there_is_no_such_decision(server, path):
    answer = get(server, f"/dashboard/decisions/{path}")
    assert answer.status_code == 404
    assert "No such decision" in answer.text
    assert "<script" not in answer.text


def test_hostile_names_and_texts_are_escaped(kept):
    from braidbandit import Braid

    about = asked(kept, EVIL, model="llama")
    agent = kept.service.agent
    other = agent.forward(EVIL, eligible=[Braid(EVIL).id])
    agent.learn_from_feedback(EVIL, other, 0.5)
    pages = [f"/dashboard/parts/{part}" for part in PARTS]
    decisions = (about["decision"], other.id)
    pages += ["/", *(f"/dashboard/decisions/{one}" for one in decisions)]
    until(kept, "kinds", "<table>")
    shown = 0
    for path in pages:
        text = get(kept, path).text
        assert "<img" not in text
        assert not [tag for tag, _ in Tags(text).found if tag == "img"]
        assert "49" not in re.sub(r"[\d:.-]{3,}|\w{32}", "", text)
        shown += "&lt;img src=x" in text
    assert shown >= 4
    told = get(kept, f"/dashboard/decisions/{about['decision']}").text
    assert "<blockquote" in told  # the ledger keeps texts here


def test_a_server_that_is_out_and_unmatched_ratings_are_warned_of(kept):
    kept.service.memory.note_signal("s1", None, "1")
    kept.service.live.note_full()
    found = get(kept, "/dashboard/parts/warnings").text
    assert "1 ratings are of no answer" in found
    assert "1 requests found the queue full" in found


def test_unfit_braids_are_warned_of(server):
    unfit = server.service.agent.catalogue.unfit
    found = get(server, "/dashboard/parts/warnings").text
    assert ("Fitness:" in found) == bool(unfit)
    assert ("None." in found) == (not unfit)


def test_progress_is_shown(serve, make_agent):
    from braidbandit.service.dashboard import pages

    server = serve(make_agent(), ready=False)
    shown = {
        "status": {
            "ready": True,
            "progress": server.service.progress._replace(
                done=1, total=4, label=EVIL, seconds_left=7.2
            ),
            "arms": server.service.arms.counts(),
            "gauges": server.service.gauges(),
            "speed": {"count": 0},
        }
    }
    made = pages._Pages(server.service).answer("parts/status.html", **shown)
    text = made.body.decode()
    assert "1 of 4 arms are built" in text
    assert "some 7 s left" in text
    assert '<progress id="building" max="4" value="1">' in text
    assert "<img" not in text
    assert "arms are built" in get(server).text or "is built" in get(server).text


# ---- what pages may load ----


@pytest.mark.parametrize("path", ["/", "/dashboard/decisions/x", "/dashboard/series"])
def test_the_policy_of_content_is_strict(server, path):
    policy = get(server, path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*|data:", policy)
    assert "frame-ancestors 'none'" in policy


def test_pages_refer_to_no_other_host_and_have_nothing_inline(server):
    about = asked(server)
    for path in ("/", f"/dashboard/decisions/{about['decision']}"):
        text = get(server, path).text
        assert "//" not in text.replace("<!doctype html>", "")
        for tag, attributes in Tags(text).found:
            assert tag != "style"
            assert tag != "script" or attributes["src"].startswith("/dashboard/static/")
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith(("on", "hx-on"))]
            for name in ("src", "href"):
                assert attributes.get(name, "/")[0] in "/#"


def test_whatever_a_page_refers_to_is_there(server):
    found = {
        attributes[name]
        for _, attributes in Tags(get(server).text).found
        for name in ("src", "href", "hx-get")
        if attributes.get(name, "#")[0] == "/"
    }
    assert len(found) > 8
    for path in found:
        assert get(server, path).status_code == 200, path


@pytest.mark.parametrize("name", STATIC)
def test_files_are_served_as_they_are(server, name):
    answer = get(server, f"/dashboard/static/{name}")
    assert answer.content == (HERE / "static" / name).read_bytes()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in answer.headers["cache-control"]


def test_what_others_wrote_has_its_licence():
    for prefix in ("htmx", "uPlot"):
        [licence] = (HERE / "static").glob(f"{prefix}.LICENSE.txt")
        assert re.search("permission", licence.read_text(), re.I)


@pytest.mark.parametrize(
    "path",
    [
        "static/nothing.js",
        "static/..%2fpages.py",
        "static/%2e%2e/pages.py",
        "parts/nothing",
        "parts/..%2fbase",
    ],
)
def test_other_addresses_are_not_found(server, path):
    assert get(server, f"/dashboard/{path}").status_code == 404


def test_only_an_admin_sees_it(serve, make_agent, models):
    keys = {role: new_key() for role in ("generate", "feedback", "admin")}
    listed = [
        {"name": role, "hash": hash_key(key), "roles": [role]}
        for role, key in keys.items()
    ]
    locked = serve(make_agent(local=models[:1]), keys=listed)
    for path in ("/", "/dashboard/parts/newest", "/dashboard/series"):
        refused = get(locked, path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        for role, key in keys.items():
            answer = httpx2.get(locked.root + path, auth=("me", key))
            assert answer.status_code == (200 if role == "admin" else 403)
