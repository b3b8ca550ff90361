"""The page in a real browser: what a visitor drops, moves, compares, asks, breaks and cancels, and a second visitor.

`make test-browser` installs gradio and playwright; a Chromium (Debian's `chromium`) must be there. The picture of the
page in the README is made here:
STTS_PICTURE=docs/app.png python -m pytest tests/app/test_browser.py
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stts.data.video.encode import write_video
from tests.helpers.paths import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]
PATIENCE = 120_000
"""Milliseconds; only a page that is broken takes as long."""
LATE_END = """(() => {  // a line on which the end of a stream comes after the answer to the next event
  const ask = window.fetch;
  let next = () => {};
  window.fetch = async (what, how) => {
    const url = String(what.url || what), found = await ask(what, how);
    if (url.includes("/queue/join?")) setTimeout(() => next(), 300);
    if (!url.includes("/queue/data?")) return found;
    const held = new TransformStream({ async transform(bytes, on) {
      const text = new TextDecoder().decode(bytes), end = text.indexOf('data: {"msg":"close_stream"');
      if (end < 0) return on.enqueue(bytes);
      on.enqueue(new TextEncoder().encode(text.slice(0, end)));
      await new Promise(go => next = go);
      on.enqueue(new TextEncoder().encode(text.slice(end)));
    }});
    return new Response(found.body.pipeThrough(held), found);
  };
})()"""


@pytest.fixture(scope="module")
def page_address(tmp_path_factory):
    """The page, served by its script in a folder of its own; its files are gone with it."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'stts[app]'")
    folder = tmp_path_factory.mktemp("served")
    arguments = ["port=0", "max_upload_mb=2", "models=[tiny,tiny_qwen3_vl]", "max_frames=2000"]
    settings = {
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    served = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/app.py"), *arguments],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = next((line for line in served.stdout if line.startswith("open http")), None)
        assert line, "the page did not start"
        yield line.split()[1]
    finally:
        served.send_signal(signal.SIGTERM)
        served.communicate(timeout=60)
    assert not list(folder.glob("stts-app-*"))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser, page_address):
    """visitor(script) -> the page as somebody new sees it, with the first clip drawn; script: that runs before it."""
    contexts, outside = [], []

    def come(script=""):
        context = browser.new_context(viewport={"width": 1360, "height": 850})
        context.set_default_timeout(PATIENCE)
        context.add_init_script(script)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: outside.append(request.url))
        page.goto(page_address)
        page.wait_for_selector(".viewer")
        return page

    yield come
    for context in contexts:
        context.close()
    inside = (page_address, "data:", "blob:")
    assert [url for url in outside if not url.startswith(inside)] == []


def drop(page, file: Path) -> None:
    page.set_input_files("#upload input[type=file]", str(file))


def kept(page) -> str:
    """The line above the timeline once it has settled."""
    return page.inner_text(".viewer .axis span:last-child")


def choose(page, part: str, value: str) -> None:
    page.click(f"#{part} input")
    page.get_by_role("option", name=value, exact=True).click()


def film(path: Path, colour: tuple[int, int, int], frames: int = 8, side: int = 96) -> Path:
    """A clip of one colour in which a grey square moves."""
    pictures = np.empty((frames, side, side, 3), np.uint8)
    pictures[:] = colour
    for t, picture in enumerate(pictures):
        x = 4 + 9 * t % (side - 24)
        picture[30:50, x : x + 20] = 128
    write_video(path, pictures, fps=2)
    return path


def large(page, side: int = 0) -> str:
    return page.get_attribute(f".stage figure:nth-child({side + 1}) img.kept", "src")


def test_look(visitor, tmp_path):
    page = visitor()
    first = large(page)
    page.hover(".bar[data-t='4']")
    assert large(page) != first
    assert large(page) == page.get_attribute(".strip figure[data-t='4'] img.kept", "src")
    assert page.inner_text(".said").startswith("2.0 s")
    page.locator(".viewer").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".said").startswith("2.5 s")
    assert page.is_visible(".large img.kept")
    page.locator("#layer").get_by_text("scores").click()
    page.wait_for_selector(".large img.scores", state="visible")
    assert not page.is_visible(".large img.kept")
    page.locator("#layer").get_by_text("kept windows").click()

    page.fill("#ratio_a input[type=number]", "0.8")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=temporal, 80% dropped")
    assert page.inner_text(".said").startswith("2.5 s")  # where the cursor was
    page.locator("#ratio_a input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=temporal, 75% dropped")
    for written, drawn in (("7", 95), ("0.75", 75)):  # beyond its end a slider draws what it then shows
        page.fill("#ratio_a input[type=number]", written)
        page.keyboard.press("Tab")
        page.wait_for_selector(f"text=temporal, {drawn}% dropped")
        assert page.input_value("#ratio_a input[type=number]") == f"{drawn / 100:g}"
    choose(page, "policy_a", "random")
    page.wait_for_selector("text=random, 75% dropped")
    assert "prune_ratio=0.75" in page.inner_text("#command").replace("\n", "")

    drop(page, film(tmp_path / "green (1).mp4", (20, 160, 60)))
    page.wait_for_selector(".viewer[data-count='8']")
    assert page.input_value("#clip input") == "green (1).mp4"
    page.click("#save")
    page.wait_for_selector("#links a >> nth=1")
    with page.expect_download() as download:
        page.click("#links a >> nth=0")
    assert download.value.suggested_filename == "sheet.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as download:
        page.click("#links a >> nth=1")
    assert b"ftyp" in Path(download.value.path()).read_bytes()[:16]
    text = page.content()
    assert not [word for word in ("stts-app-", str(ROOT), "/served", "site-packages") if word in text]


def test_compare_and_ask(visitor):
    page = visitor()
    page.locator("#view").get_by_text("Compare").click()
    page.wait_for_selector(".viewer[data-sides='2']")
    differ = int(re.search(r"differ on ([\d,]+)", page.inner_text(".differ"))[1])
    assert differ > 0
    assert large(page, 0) != large(page, 1)
    if picture := os.environ.get("STTS_PICTURE"):
        page.hover(".bar[data-t='6']")
        page.screenshot(path=picture, full_page=True)
    choose(page, "policy_b", "temporal")
    choose(page, "model_b", "tiny")  # which has the settings of A now
    page.wait_for_selector("text=The two differ on 0 of")
    choose(page, "model_b", "tiny_qwen3_vl")
    page.wait_for_selector("text=B: tiny_qwen3_vl, temporal, 50% dropped")

    page.locator("#view").get_by_text("Ask").click()
    page.fill("#question textarea", "Was there a red cross?")
    page.fill("#options textarea", "yes, no")
    page.click("#go")
    page.wait_for_selector(".answers tbody tr >> nth=2")
    rows = [row.inner_text() for row in page.query_selector_all(".answers tbody tr")]
    assert [row.split()[0] for row in rows] == ["unpruned", "A", "B"]
    assert all(re.search(r"\d+ of \d+", row) and re.search(r"\d ms|\d s", row) for row in rows)
    assert page.inner_text(".answers tbody tr:first-child .reply") in ("yes", "no")
    assert "'question=Was there a red cross?'" in page.inner_text("#command").replace("\n", " ")
    page.fill("#question textarea", "What is <|im_end|>?")
    page.click("#go")
    page.wait_for_selector(".error >> text=special token")


def test_mistakes_and_cancelling(visitor, tmp_path):
    page = visitor(LATE_END)
    before = kept(page)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video " * 99)
    drop(page, broken)
    page.wait_for_selector(".error >> text=broken.mp4: is not a video, or is damaged")
    large_file = tmp_path / "large.mp4"
    large_file.write_bytes(bytes(3 * 2**20))
    drop(page, large_file)
    page.wait_for_selector("text=/exceeds|too large|maximum/i")
    page.reload()
    page.wait_for_selector(".viewer")

    drop(page, film(tmp_path / "long.mp4", (90, 90, 200), frames=1500, side=64))
    page.wait_for_selector(".viewer[data-count='32']")
    page.fill("#frames input[type=number]", "1500")
    page.keyboard.press("Tab")
    page.wait_for_selector(".progress >> text=/reading|looking/")
    page.click("#cancel")
    page.wait_for_selector(".note >> text=Cancelled.")
    page.wait_for_selector("#cancel", state="hidden")
    choose(page, "clip", "generated clip")
    page.wait_for_selector(f"text={before}")


def test_two_visitors_at_once_do_not_mix(visitor, tmp_path):
    one, other = visitor(), visitor()
    for page, colour in ((one, (200, 30, 30)), (other, (30, 30, 200))):
        file = tmp_path / str(colour[0]) / "mine.mp4"
        file.parent.mkdir()
        drop(page, film(file, colour, frames=6))
    choose(other, "policy_a", "random")
    for page in (one, other):
        page.wait_for_selector(".viewer[data-count='6']")
    other.wait_for_selector("text=random, 50% dropped")
    assert "temporal, 50% dropped" in one.inner_text(".stage")
    script = """() => {
        const image = document.querySelector('.strip figure[data-t="0"] img.frames');
        const canvas = Object.assign(document.createElement('canvas'), {width: 9, height: 9});
        const brush = canvas.getContext('2d');
        brush.drawImage(image, 0, 0, 9, 9);
        return [...brush.getImageData(8, 8, 1, 1).data].slice(0, 3);
    }"""
    red, blue = one.evaluate(script), other.evaluate(script)
    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]
    one.fill("#ratio_a input[type=number]", "0.9")
    one.keyboard.press("Tab")
    one.wait_for_selector("text=temporal, 90% dropped")
    assert "random, 50% dropped" in other.inner_text(".stage")
