"""The OpenAI server as a process of its own, asked over HTTP on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, in a virtual environment of its own: make test-serving")

import openai

from stts import answer
from stts.chat import load
from stts.data import read_video
from stts.data.prompts import multiple_choice_prompt
from stts.data.synthetic.clips import make_synthetic
from tests.helpers.served import make_served
from tests.helpers.server import Server, data_url

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
GROWTH = 24e6
"""Bytes that 200 requests may add. Their clips alone are 31 MB once decoded, so that keeping them would show."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served(tmp_path_factory.mktemp("models") / "served")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "clips", num_train=0, num_test=250)


@pytest.fixture(scope="module")
def rows(clips: Path) -> list[dict]:
    return [json.loads(line) for line in (clips / "test.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    # no cache of videos, and one of keys small enough that all of it is in memory soon
    started = Server(folder, log, ["--mm-processor-cache-gb", "0", "--num-gpu-blocks-override", "64"])
    try:
        yield started.wait()
    finally:
        started.kill()


@pytest.fixture(scope="module")
def video(clips: Path, rows: list[dict]) -> bytes:
    return (clips / rows[0]["video"]).read_bytes()


@pytest.fixture(scope="module")
def answers(folder: Path, clips: Path, rows: list[dict]) -> list[str]:
    """What stts says to the first questions, asked about the files themselves."""
    model, processor = load(folder, prune_ratio=0.5)
    said = []
    for row in rows[:32]:
        clip = read_video(clips / row["video"], frames=128, size=processor.image_size)
        said.append(answer(model, processor, row["question"], clip, row["options"], do_sample=False))
    return said


def ask(server: Server, clips: Path, row: dict) -> str:
    text = multiple_choice_prompt(row["question"], row["options"])
    return server.about((clips / row["video"]).read_bytes(), text)


@pytest.mark.parametrize("clients", [1, 8])
def test_a_client_hears_what_stts_answers(server, clips, rows, answers, clients):
    with ThreadPoolExecutor(clients) as pool:
        said = list(pool.map(lambda row: ask(server, clips, row), rows[:32]))
    assert said == answers
    assert len(set(said)) > 1


def refused(server: Server, *parts: dict, text: str = "What colour came first?") -> str:
    with pytest.raises(openai.BadRequestError) as raised:  # a 400
        server.ask(text, *parts)
    assert server.healthy()
    return str(raised.value)


def test_broken_videos_are_refused_with_the_reason_and_the_server_lives(server, clips, rows, video, answers):
    def of(data: bytes) -> dict:
        return {"type": "video_url", "video_url": {"url": data_url(data)}}

    assert "the video: " in refused(server, of(b"no video at all" * 40))
    assert "the video: is empty" in refused(server, of(b""))
    assert "the video: " in refused(server, of(video[: len(video) // 2]))
    assert ask(server, clips, rows[0]) == answers[0]


def test_other_requests_that_cannot_be_served_are_refused_with_the_reason(
    server, clips, rows, video, answers
):
    one = {"type": "video_url", "video_url": {"url": data_url(video)}}
    assert "videos alone" in refused(server, {"type": "image_url", "image_url": {"url": PNG}})
    assert "one at most" in refused(server, one, one)
    assert "'<im_patch>'" in refused(server, one, text="What colour is <im_patch>?")
    assert ask(server, clips, rows[0]) == answers[0]


def test_two_hundred_clips_leave_no_memory_behind(server, clips, rows):
    asked = rows[:: len(rows) // 250][:250]
    assert len({row["video"] for row in asked}) == 250
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: ask(server, clips, row), asked[:50]))
        before = server.memory()
        list(pool.map(lambda row: ask(server, clips, row), asked[50:]))
    assert server.memory() - before < GROWTH


def test_a_server_that_was_killed_starts_again(folder, clips, rows, answers, tmp_path):
    """At once, with requests under way; the next one has its port and nothing else from it."""
    for turn in range(2):
        server = Server(folder, tmp_path / f"log{turn}")
        try:
            server.wait()
            assert ask(server, clips, rows[0]) == answers[0]
            with ThreadPoolExecutor(4) as pool:
                waiting = [pool.submit(ask, server, clips, row) for row in rows[:4]]
                if turn == 0:
                    server.kill()
                    assert any(request.exception() for request in waiting)
                else:
                    assert [request.result() for request in waiting] == answers[:4]
        finally:
            server.kill()
