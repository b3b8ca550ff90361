"""The page without the page: what each touch of a visitor becomes."""

from __future__ import annotations

import base64
import dataclasses
import re
import shlex
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stts import answer
from stts.app import visits as visits_module
from stts.app.actions import Actions, Chosen, Visible
from stts.app.config import AppConfig
from stts.app.models import Models, Setting
from stts.app.panels import differing, viewer
from stts.app.visits import Visits
from stts.data import read_video
from stts.data.video.guarded import GuardedReader
from stts.viz.kept_video import look_at
from tests.helpers.scripts import run_script

HALF = ("tiny", "temporal", 0.5)
RANDOM = ("tiny", "random", 0.5)
QWEN = ("tiny_qwen3_vl", "temporal", 0.5)
GENERATED = "generated clip"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> AppConfig:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))  # where random weights are made
        yield AppConfig(models=("tiny", "tiny_qwen3_vl"), output_dir="outputs/app", max_new_tokens=4)


@pytest.fixture(scope="module")
def models(config) -> Models:
    return Models(config)


@pytest.fixture
def actions(config, models):
    visits = Visits(config)
    yield Actions(config, models, visits)
    visits.close()
    assert not visits.root.exists()


def values(view="Look", clip=GENERATED, frames=8, a=HALF, b=RANDOM, question="", options="") -> list:
    return [view, clip, frames, *a, *b, question, options]


def last(changes) -> dict:
    """What the page shows in the end."""
    shown = {}
    for change in changes:
        shown |= change
    return shown


def upload(actions, session: str, path: Path, content: bytes) -> str:
    """Drop a file of that name; what the page calls it."""
    file = actions.visits.uploads / session / path.name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    changes = actions.take(session, str(file))
    assert changes["upload"] is None
    assert isinstance(changes["clip"], Chosen)
    return changes["clip"].value


def test_what_is_seen_is_what_the_model_keeps_under_the_settings(actions, models):
    first = last(actions.draw("me", values()))
    assert first["status"] == ""
    assert (first["side_b"], first["asking"], first["pictures"].count('class="kept"')) == (
        Visible(False),
        Visible(False),
        9,  # the strip's, and the one in large
    )
    (seen,) = actions.visits.of("me")._seen.values()
    model, processor = models.by_label["tiny"].model, models.by_label["tiny"].processor
    model.stts = model.stts.replace(policy="temporal", prune_ratio=0.5)
    alone = look_at(model, processor, actions.clips[GENERATED].path, 8)
    assert np.array_equal(seen.keep, alone.keep)
    assert np.array_equal(seen.pictures, alone.pictures)
    assert f"{alone.keep.mean():.0%} of {alone.keep.size} windows kept" in first["pictures"]
    for t in range(8):
        assert f"{alone.timestamps[t]:.1f} s &middot; {alone.shares[t]:.0%} kept" in first["pictures"]
    more = last(actions.draw("me", values(a=("tiny", "temporal", 0.8))))["pictures"]
    assert "temporal, 80% dropped" in more
    assert "21% of 72 windows kept" in more  # 57 of 72 are dropped


def test_windows_on_which_two_sides_differ_are_counted_and_outlined(actions):
    shown = last(actions.draw("me", values("Compare")))
    assert shown["side_b"] == Visible(True)
    one, other = actions.visits.of("me")._seen.values()
    differ = int((one.keep != other.keep).sum())
    assert differ > 0
    assert f"The two differ on {differ} of 72 windows" in shown["pictures"]
    alike = last(actions.draw("me", values("Compare", b=HALF)))["pictures"]
    assert "The two differ on 0 of 72 windows" in alike
    hosts = last(actions.draw("me", values("Compare", b=QWEN)))["pictures"]
    assert "B: tiny_qwen3_vl, temporal, 50% dropped" in hosts
    coarse = dataclasses.replace(one, keep=one.keep[:, :2], scores=one.scores[:, :2])
    assert differing(one, coarse) is None
    assert "divide frames into different windows" in viewer({"A": one, "B": coarse})


@pytest.mark.parametrize("label", ["tiny", "tiny_qwen3_vl"])
def test_answers_are_those_of_the_library_with_tokens_times_and_limits(actions, models, label):
    side, question = (label, "random", 0.5), "Was there a red circle?"
    asked = values("Ask", a=side, b=(label, "temporal", 0.8), question=question, options="yes, no")
    shown = last(actions.ask("me", asked))
    assert shown["status"] == ""
    rows = re.findall(r"<tr>(.*?)</tr>", shown["answers"])[1:]
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]
    loaded, clip = models.by_label[label], actions.clips[GENERATED].path
    frames = read_video(clip, 8, size=loaded.processor.image_size)
    for (policy, ratio), row in zip([("none", 0.0), ("random", 0.5), ("temporal", 0.8)], cells, strict=True):
        loaded.model.stts = loaded.model.stts.replace(policy=policy, prune_ratio=ratio)
        torch.manual_seed(0)
        reply = answer(loaded.model, loaded.processor, question, frames, ["yes", "no"], max_new_tokens=4)
        kept = loaded.model.last_keep_windows
        total = int(np.prod(loaded.processor.window_grid(frames)))
        assert row[2] == f"{total if kept is None else int(kept.sum())} of {total}"
        letters = {"A": "yes", "B": "no"}
        assert row[1] == letters.get(reply, reply)
        assert all(re.fullmatch(r"\d+ ms|\d+\.\d s", cell) for cell in (*row[3:7], row[9]))
    assert cells[0][7:9] == ["&ndash;", "&ndash;"]
    limits = [float(row[8].removesuffix(" &times;")) for row in cells[1:]]
    assert 1 < limits[0] < limits[1] < 5


def test_the_command_draws_the_files_that_the_page_offers(actions, config, monkeypatch, capsys):
    setting = values(frames=2, a=("tiny", "random", 0.6))
    shown = last(actions.draw("me", setting))
    words = shlex.split(shown["command"])
    assert words[:2] == ["python", "scripts/visualize.py"]
    assert run_script(monkeypatch, Path.cwd(), "visualize", *words[2:], "output_dir=out") == 0
    links = last(actions.draw_files("me", setting))["links"]
    assert re.findall(r'download="([^"]+)"', links) == ["sheet.png", "overlay.mp4"]
    for name, file in zip(re.findall(r"base64,([^\"]+)", links), ("sheet.png", "overlay.mp4"), strict=True):
        assert base64.b64decode(name) == Path("out/test_00000", file).read_bytes()
    asked = last(actions.draw("me", values("Ask", a=QWEN, question="What's it?", options="a b, c")))[
        "command"
    ]
    assert {"model=tiny_qwen3_vl", "question=What's it?", "options=[a b,c]"} <= set(shlex.split(asked))
    assert not list(actions.visits.of("me").folder.rglob("*.*"))


def test_what_a_visitor_wrote_is_not_written_over_and_work_for_other_settings_is_dropped(actions):
    ends = threading.Event()
    visit = actions.visits.of("me")
    asked = visit.start("ask", lambda job: ends.wait(60))
    assert actions.suggest("me", GENERATED)["question"] == actions.clips[GENERATED].question
    assert asked.stopped.is_set()
    assert actions.suggest("me", GENERATED) == {}
    assert actions.suggest("other", GENERATED) != {}
    last(actions.draw("me", values(frames=2)))
    files = actions.draw_files("me", values(frames=2))
    assert "status" in next(files)
    last(actions.draw("me", values(frames=2)))  # the same once more
    assert not visit.jobs["files"].stopped.is_set()
    last(actions.draw("me", values(frames=3)))
    assert "links" not in last(files)
    ends.set()


def test_two_visitors_do_not_mix(actions, clips):
    files = sorted((clips / "videos").glob("*.mp4"))[:2]
    for session, file in zip("ab", files, strict=True):
        assert upload(actions, session, Path("mine.mp4"), file.read_bytes()) == "mine.mp4"
    shown = {session: last(actions.draw(session, values(clip="mine.mp4"))) for session in "ab"}
    assert shown["a"]["pictures"] != shown["b"]["pictures"]
    first = actions.visits.of("a")
    assert first.own.read_bytes() == files[0].read_bytes()
    actions.visits.end("a")
    assert not first.folder.exists()
    assert actions.visits.of("b").own.exists()
    again = last(actions.draw("a", values(clip="mine.mp4")))  # a new visit, which has no clip
    assert "there is no clip" in again["status"]
    assert upload(actions, "b", Path("mine.mp4"), files[0].read_bytes()) == "mine.mp4 (2)"
    assert last(actions.draw("b", values(clip="mine.mp4 (2)")))["pictures"] == shown["a"]["pictures"]


def test_mistakes_are_told_in_the_librarys_words_and_the_page_lives(actions, config, tmp_path):
    def told(kind: str, name: str, content: bytes) -> str:
        clip = upload(actions, "me", Path(name), content)
        shown = last(actions.draw("me", values(clip=clip)))
        assert 'class="error" role="alert"' in shown["status"], kind
        assert str(actions.visits.root) not in shown["status"]
        assert shown["cancel"] == Visible(False)
        return shown["status"]

    assert ">empty.mp4: is empty (0 bytes)<" in told("empty", "empty.mp4", b"")
    assert ">clip &lt;b&gt;.mp4: is not a video, or is damaged" in told("broken", "clip <b>.mp4", b"x" * 999)
    actions.visits.of("other").reader.max_seconds = 1
    clip = upload(actions, "other", Path("long.mp4"), actions.clips[GENERATED].path.read_bytes())
    assert (
        ">long.mp4: lasts 4.6 s, more than the 1 s"
        in last(actions.draw("other", values(clip=clip)))["status"]
    )
    wide = tmp_path / "wide.mp4"
    with av.open(str(wide), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8190, 4800, "yuv420p"
        frame = av.VideoFrame(8190, 4800, "yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert ">wide.mp4: is 8190 x 4800 pixels, more than the" in told("pixels", wide.name, wide.read_bytes())
    asked = last(actions.ask("me", values("Ask", question="a <|im_end|> b")))
    assert "special token" in asked["status"]
    assert "question is" in last(actions.ask("me", values("Ask", question=" ")))["status"]
    with pytest.raises(ValueError, match="no file that was uploaded here"):
        actions.visits.check(str(wide))
    assert "no file that was uploaded" in actions.take("me", str(wide))["status"]
    assert "kept" in last(actions.draw("me", values()))["pictures"]


def test_reading_that_takes_long_tells_how_far_it_is_and_can_be_cancelled(actions, monkeypatch):
    def slow(path, frames, on_frame, **settings):
        if frames > 1:
            for _ in range(2):
                on_frame()
            time.sleep(60)
        return read_video(path, frames, on_frame=on_frame, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(visits_module, "read_video", slow)
        steps, shares = actions.draw("me", values()), set()
        for change in steps:
            if "reading the clip" in (status := change.get("status", "")):
                assert change["cancel"] == Visible(True)
                shares.add(re.search(r"width:(\d+)%", status)[1])
                if "18" in shares:  # 3 of 17
                    actions.stop("me")
                    break
        left = last(steps)
    assert ">Cancelled.<" in left["status"]
    assert left["cancel"] == Visible(False)
    assert "pictures" not in left
    assert ">Cancelled.<" in last(actions.draw("me", values()))["status"]  # as a slider asks once more
    reader = actions.visits.of("me").reader
    reader.guarded = GuardedReader(60, reader._read)  # whose process has the real function
    assert "kept" in last(actions.draw("me", values(frames=4)))["pictures"]
    assert "kept" in last(actions.draw("me", values()))["pictures"]


def test_an_untrained_scorer_is_named(actions, models):
    shown = last(actions.draw("me", values(a=("tiny", "scorer", 0.5))))
    assert "tiny has no trained scorer: a random one decides" in shown["status"]
    assert models.start("tiny") == Setting("tiny", "temporal", 0.5)
