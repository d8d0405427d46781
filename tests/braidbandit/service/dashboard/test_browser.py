"""The dashboard in a real browser: live, quiet, local, and readable by everybody.

``BRAIDBANDIT_SCREENSHOTS=folder`` keeps pictures of it there.
"""

import os
import shutil
import time
from pathlib import Path

import httpx2
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def rated(server):
    """The service with some rated answers."""
    for at in range(16):
        rate(server, ask(server, f"Task number {at}"), 0.25 * (at % 5))
    return server


class Watched:
    """A page, what it said on the console, and where it sent requests."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said, self.urls = [], []
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def _on_console(self, message):
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def check(self, root):
        """Nothing was complained of, and nobody else was asked."""
        assert not self.said
        assert {url for url in self.urls if not url.startswith(root)} <= {"about:blank"}


@pytest.fixture
def watch(browser):
    opened = []

    def open_page(**options):
        watched = Watched(browser, **options)
        opened.append(watched)
        return watched

    yield open_page
    for watched in opened:
        watched.context.close()


def ask(server, text):
    said = [{"role": "user", "content": text}]
    body = {"messages": said, "max_tokens": 2}
    answer = httpx2.post(f"{server.url}/chat/completions", json=body, timeout=60)
    return answer.json()["x_braidbandit"]


def rate(server, about, reward):
    body = {"decision": about["decision"], "token": about["token"], "reward": reward}
    httpx2.post(f"{server.url}/feedback", json=body)


def keep(page, name):
    folder = os.environ.get("BRAIDBANDIT_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_fresh_decision_is_seen_within_two_seconds_and_explained(rated, watch):
    watched = watch(viewport=DESK)
    page = watched.page
    page.goto(rated.root)
    page.locator("#plot .u-wrap, #plot canvas").first.wait_for(timeout=15_000)
    page.locator("#paying .verdict").wait_for(timeout=15_000)
    about = ask(rated, "A fresh task")
    begun = time.monotonic()
    link = page.locator(f"#d-{about['decision']}")
    link.wait_for(timeout=5000)
    assert time.monotonic() - begun < 2
    link.click()
    page.locator("#counterfactual").wait_for()
    assert page.locator("text=Before anything was learnt").count() == 1
    keep(page, "decision")
    watched.check(rated.root)


def test_updates_can_be_paused_by_keyboard_and_keep_the_focus(rated, watch):
    watched = watch(viewport=DESK)
    page = watched.page
    page.goto(rated.root)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    newest = page.locator(".newest a").first
    newest.focus()
    focused = newest.get_attribute("id")
    page.wait_for_timeout(2500)
    assert page.evaluate("document.activeElement.id") == focused
    page.locator("#pause").focus()
    page.keyboard.press("Enter")
    assert page.locator("#pause").get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(500)
    sent = len(watched.urls)
    page.wait_for_timeout(2500)
    assert len(watched.urls) == sent
    watched.check(rated.root)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_everybody_can_read_it(rated, watch, scheme, viewport):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    )
    # What is tested is the page as it is; the checker itself is written into it.
    watched = watch(viewport=viewport, color_scheme=scheme, bypass_csp=True)
    page, about = watched.page, ask(rated, "Read this")
    for path in ("/", f"/dashboard/decisions/{about['decision']}"):
        page.goto(rated.root + path)
        if path == "/":
            page.locator("#paying .verdict").wait_for(timeout=15_000)
            page.locator("#kinds table").wait_for(timeout=15_000)
            page.locator("#cost meter").wait_for(timeout=15_000)
            if (scheme, viewport) == ("light", DESK):
                keep(page, "dashboard")
        wider = "document.documentElement.scrollWidth - window.innerWidth"
        assert page.evaluate(wider) <= 0
        found = axe.Axe().run(page).response["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not grave, [(v["id"], v["nodes"][0]["html"]) for v in grave]


def test_a_wide_table_stays_where_it_was_scrolled(rated, watch):
    page = watch(viewport=PHONE).page
    page.goto(rated.root)
    table = page.locator("#kinds-table")
    table.wait_for(timeout=15_000)
    table.focus()
    table.evaluate("wide => { wide.scrollLeft = 50 }")
    rate(rated, ask(rated, "One more"), 0.5)
    replaced = "wide => { wide.dataset.old = 'yes' }"
    table.evaluate(replaced)
    page.locator("#kinds-table:not([data-old])").wait_for(timeout=30_000)
    assert table.evaluate("wide => wide.scrollLeft") == 50
    assert page.evaluate("document.activeElement.id") == "kinds-table"


def test_a_service_that_is_gone_is_told(serve, make_agent, models, watch):
    gone = serve(make_agent(local=models[:1]))
    page = watch(viewport=DESK).page
    page.goto(gone.root)
    page.route("**/dashboard/**", lambda route: route.abort())
    page.locator("#connection", has_text="does not answer").wait_for(timeout=5000)
    page.unroute("**/dashboard/**")
    page.locator("#connection:empty").wait_for(state="attached", timeout=5000)
