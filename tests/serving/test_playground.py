"""The page at `/` in a real headless Chromium, against a real server. Skipped where there is no Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving.browser import chromium
from tests.serving.conftest import WAIT, Live, Serving, all_quiet
from tests.serving.pictures import opened

PROMPT = "a red apple on a white background"
KEY = "a-key-of-a-good-length"


@pytest.fixture(scope="module")
def browser(live: Live) -> Iterator[Any]:
    with chromium() as browser:
        browser.get(live.url)
        yield browser


class Page:
    """What a test does to the page and sees of it."""

    def __init__(self, browser: Any, url: str) -> None:
        from selenium.webdriver.common.keys import Keys
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.keys, self._wait = browser, Keys, WebDriverWait(browser, WAIT)
        browser.get(url)
        self.until(lambda: "connect" not in self.text("model") or self.text("model") == "not connected")

    def at(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def text(self, name: str) -> str:
        return self.at(f"#{name}").text

    def fill(self, **values: object) -> None:
        for name, value in values.items():
            field = self.at(f"#{name.replace('_', '-') if name == 'edit_prompt' else name}")
            field.clear()
            field.send_keys(str(value))

    def until(self, condition: Callable[[], object]) -> None:
        self._wait.until(lambda _: condition())

    def press(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def drawn(self, count: int = 1) -> None:
        self.until(lambda: self.text("status") == f"{count} of {count} finished.")

    def focused(self) -> str:
        return self.browser.switch_to.active_element.get_attribute("id")

    def picture(self, selector: str) -> str:
        """An image on the page as PNG in base64: drawn on a canvas, since the page's policy lets nothing be fetched."""
        script = """const image = document.querySelector(arguments[0]);
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png").split(",")[1];"""
        return self.browser.execute_script(script, selector)

    def watch_stages(self) -> None:
        """From here on, remember every stage that a picture of the page shows."""
        self.browser.execute_script(
            """window.stages = [];
            new MutationObserver((changes) => changes.forEach((change) =>
              window.stages.push(change.target.dataset.stages)))
              .observe(document.getElementById("now"), {attributeFilter: ["data-stages"], subtree: true});"""
        )

    def stages(self) -> list[str]:
        return self.browser.execute_script("return window.stages")


@pytest.fixture
def page(browser: Any, live: Live) -> Page:
    page = Page(browser, live.url)
    browser.get_log("browser")  # of the test before
    return page


def test_a_picture_appears_in_its_stages_and_is_the_one_of_its_seed(page: Page, live: Live) -> None:
    page.fill(prompt=PROMPT, n=2, seed=5, rounds=8, guidance_scale=2)
    page.watch_stages()
    page.at("#draw").click()
    page.drawn(2)
    assert sorted(page.stages()) == ["1", "1", "2", "2", "3", "3"]
    assert len(page.all("#now .drawing")) == 0
    asked = {"prompt": PROMPT, "n": 2, "seed": 5, "rounds": 8, "guidance_scale": 2}
    answer = httpx.post(f"{live.url}/v1/images/generations", json=asked, timeout=WAIT).json()
    for number, data in enumerate(answer["data"], start=1):
        shown = opened(page.picture(f"#now li:nth-child({number}) img"))
        sent = opened(data["b64_json"])
        # One value apart at most: sums round another way among other images (docs/decoder.md).
        shown, sent = (np.asarray(each.convert("RGB"), dtype=np.int16) for each in (shown, sent))
        assert np.abs(shown - sent).max() <= 1
    assert page.browser.get_log("browser") == []


def test_history_survives_a_reload_and_can_be_used_and_removed(page: Page, live: Live) -> None:
    page.fill(prompt="a green circle", n=1, seed=77)
    page.at("#draw").click()
    page.drawn()
    before = len(page.all("#history li"))
    page = Page(page.browser, live.url)
    page.until(lambda: len(page.all("#history li")) == before)
    first = page.at("#history li")
    assert "a green circle" in first.text and "seed 77" in first.text
    assert page.at("#history li img").get_attribute("alt") == "a green circle"
    page.at("#history button[aria-label^='Reuse']").click()
    assert page.at("#prompt").get_attribute("value") == "a green circle"
    assert page.at("#seed").get_attribute("value") == "77"
    page.at("#history button[aria-label^='Remove']").click()
    page.until(lambda: len(page.all("#history li")) == before - 1)
    if before > 1:
        page.at("#clear").click()
        page.until(lambda: not page.all("#history li"))


def test_an_error_of_the_server_is_shown_at_its_field(page: Page) -> None:
    page.fill(prompt=PROMPT, rounds=100_000)
    page.at("#draw").click()
    page.until(lambda: page.text("error"))
    assert "rounds" in page.text("error") and "100000" in page.text("error")
    assert page.at("#error").get_attribute("role") == "alert"
    assert page.at("#rounds").get_attribute("aria-invalid") == "true"
    assert page.focused() == "rounds"
    assert not page.at("#stop").is_enabled()
    page.fill(rounds=2, n=1)
    page.at("#draw").click()
    page.drawn()
    assert not page.at("#error").is_displayed()
    assert page.at("#rounds").get_attribute("aria-invalid") is None


def test_the_keyboard_alone_draws_stops_and_edits(page: Page, live: Live) -> None:
    keys = page.keys
    page.press(keys.TAB)  # "Skip to the prompt"
    page.press(keys.ENTER)
    page.until(lambda: page.browser.current_url.endswith("#prompt"))
    page.at("#prompt").send_keys(PROMPT)
    page.press(keys.TAB, keys.TAB)
    assert page.focused() == "n"
    page.press(keys.CONTROL + "a" + keys.NULL, "1", keys.ENTER)
    page.drawn()

    page.fill(rounds=16, n=10)
    page.at("#prompt").send_keys(keys.CONTROL, keys.ENTER)
    page.until(lambda: page.at("#stop").is_enabled())
    page.press(keys.ESCAPE)
    page.until(lambda: page.text("status") == "Stopped.")
    all_quiet(live)  # the server has been left, and has noticed

    page.at("#history button[aria-label^='Edit']").send_keys(keys.ENTER)
    page.until(lambda: page.focused() == "mask")
    assert page.at("#mask").get_attribute("aria-label") == "Mask: nothing painted"
    page.press(keys.ARROW_LEFT)
    assert page.at("#mask").get_attribute("aria-label") == "Mask: nothing painted"
    page.press(" ")
    assert re.fullmatch(r"Mask: [1-9]\d? % painted", page.at("#mask").get_attribute("aria-label"))
    page.press(keys.ESCAPE)
    page.until(lambda: not page.at("#editor").is_displayed())


def test_what_is_painted_is_drawn_anew_and_the_rest_stays(page: Page) -> None:
    from selenium.webdriver import ActionChains

    page.fill(prompt=PROMPT, n=1, seed=3)
    page.at("#draw").click()
    page.drawn()
    before = opened(page.picture("#now img")).convert("RGB")
    page.at("#now button[aria-label^='Edit']").click()
    page.at("#edit-draw").click()
    page.until(lambda: "Nothing is painted" in page.text("edit-error"))
    mask = page.at("#mask")
    quarter = mask.size["width"] // 4
    drag = ActionChains(page.browser).move_to_element_with_offset(mask, -quarter, -quarter)
    drag.click_and_hold().move_by_offset(quarter // 2, quarter // 2).release().perform()
    page.fill(edit_prompt="a blue square")
    page.watch_stages()
    page.at("#edit-draw").click()
    page.until(lambda: page.at("#now li").text.startswith("a blue square"))
    assert page.stages()[0] == "1"
    after = opened(page.picture("#now img")).convert("RGB")
    lower = (0, before.height * 3 // 4, before.width, before.height)
    assert before.crop(lower).tobytes() == after.crop(lower).tobytes()
    assert before.tobytes() != after.tobytes()


def test_a_key_is_asked_for_where_one_is_needed(browser: Any, serving: Serving) -> None:
    from v2flow_engine.serving.keys import digest

    with serving(key_digests=(digest(KEY),)) as guarded:
        page = Page(browser, guarded.url)
        assert page.text("model") == "not connected"
        assert "API key" in page.text("error")
        page.at("#key").send_keys(KEY, page.keys.TAB)
        page.until(lambda: page.text("model") == "tiny" or page.text("error") == "")
        page.fill(prompt=PROMPT, n=1)
        page.at("#draw").click()
        page.drawn()


def test_light_and_dark(page: Page, live: Live) -> None:
    def back() -> str:
        return page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    first = back()
    page.at("#theme").click()
    second = back()
    assert first != second
    assert Page(page.browser, live.url) and back() == second  # it is remembered


def test_every_field_has_a_label_and_nothing_comes_from_elsewhere(live: Live) -> None:
    with httpx.Client(base_url=live.url) as http:
        page = http.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        labelled = set(re.findall(r'<label for="([^"]+)"', page.text))
        fields = re.findall(r'<(?:input|select|textarea) id="([^"]+)"', page.text)
        assert len(fields) >= 8 and set(fields) == labelled
        for address in re.findall(r'(?:href|src)="(/[^"]+)"', page.text):
            assert http.get(address).status_code == 200, address
        for name in ("../app.py", "__init__.py", "..%2Fapp.py", "main.js.map"):
            assert http.get(f"/playground/{name}").status_code == 404


def test_every_file_of_the_page_is_served_and_names_no_other_server() -> None:
    from v2flow_engine.serving.playground import MEDIA_TYPES

    folder = files("v2flow_engine.serving.playground")
    there = {each.name for each in folder.iterdir() if each.name.rpartition(".")[2] not in ("py", "")}
    assert there - {"__pycache__"} == set(MEDIA_TYPES)
    for name in MEDIA_TYPES:
        addresses = re.findall(r"https?://[^\s\"']+", (folder / name).read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name
