from __future__ import annotations

import dataclasses
import json
import re

import av
import numpy as np
import pytest
from matplotlib import image

from stts.data import read_video
from stts.viz.config import DrawingConfig, folder_for
from stts.viz.contact_sheet import LEFT, draw_sheet, heat_map, heat_norm
from stts.viz.curves import draw_curves
from stts.viz.figure import dim_dropped
from stts.viz.kept_video import KeptVideo, describe_kept
from stts.viz.movie import HEAD, write_film
from stts.viz.overlay import draw_kept
from tests.helpers.scripts import run_script


def test_dropped_windows_are_dark_and_kept_ones_untouched():
    frame = np.full((6, 9, 3), 200, dtype=np.uint8)
    keep = np.array([[True, False, True], [False, True, True]])
    out = dim_dropped(frame, keep)
    for y in range(6):
        for x in range(9):
            kept = keep[y // 3, x // 3]
            assert (out[y, x] == 200).all() if kept else out[y, x].mean() < 100


def test_overlay_has_a_row_per_policy(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, 40, 60, 3), dtype=np.uint8)
    keep = np.ones((20, 2, 2), dtype=bool)
    one = image.imread(draw_kept(frames, {"all": keep}, tmp_path / "one.png"))
    two = image.imread(
        draw_kept(
            frames,
            {"all": keep, "none": ~keep},
            tmp_path / "deep" / "two.png",
            timestamps=np.arange(20.0),
            evidence=keep,
            title="a clip",
        )
    )
    assert two.shape[0] > 1.8 * one.shape[0]
    assert two.shape[1] == one.shape[1]


def test_curves_are_drawn_from_a_run(tmp_path):
    rows = [
        {"step": i, "lm_loss": 1 / i, "aux_loss": 0.1, "kept": 0.5, "score_mean": None} for i in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    picture = image.imread(draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png"))
    assert picture[..., :3].min() < 0.9  # something was drawn


def seen(frames=6, rows=2, cols=3, aspect=2.0) -> KeptVideo:
    """A video of which the lowest-scoring windows after the first frame were dropped."""
    rng = np.random.default_rng(0)
    scores = rng.random((frames, rows, cols))
    keep = scores >= np.quantile(scores[1:], 0.5)
    keep[0] = True
    pictures = rng.integers(0, 256, (frames, 48, 48, 3), dtype=np.uint8)
    return KeptVideo("a.mp4", pictures, np.arange(frames) / 2, keep, scores, aspect)


def test_threshold_divides_kept_from_dropped():
    video = seen()
    assert (video.scores[1:][video.keep[1:]] >= video.threshold).all()
    assert video.scores[~video.keep].max() == video.threshold
    mixed = dataclasses.replace(video, keep=np.arange(36).reshape(6, 2, 3) % 2 == 0)
    assert mixed.threshold is None  # kept and dropped scores overlap
    assert dataclasses.replace(video, scores=None).threshold is None
    assert dataclasses.replace(video, keep=np.ones_like(video.keep)).threshold is None


def test_numbers_behind_the_pictures():
    video = seen()
    told = json.loads(json.dumps(describe_kept(video)))
    assert told["windows_per_frame"] == 6
    assert [frame["seconds"] for frame in told["frames"]] == [0, 0.5, 1, 1.5, 2, 2.5]
    for t, frame in enumerate(told["frames"]):
        assert frame["kept"] == sum(video.keep[t].flatten().tolist()) / 6
        assert (frame["lowest_score"], frame["highest_score"]) == (
            video.scores[t].min(),
            video.scores[t].max(),
        )
    assert told["frames"][0]["kept"] == 1
    bare = describe_kept(dataclasses.replace(video, scores=None))
    assert bare["frames"][0]["lowest_score"] is None


def test_heat_rises_with_the_score_and_turns_at_the_threshold():
    video = seen()
    norm = heat_norm(video)
    assert norm(video.threshold) == pytest.approx(0.5)
    black = np.zeros((4, 6, 3), np.uint8)
    flat = np.sort(video.scores[1:].flatten())
    light = [heat_map(black, np.full((2, 3), score), norm).mean() for score in (flat[0], flat[15], flat[-1])]
    assert light == sorted(light)
    assert light[0] < light[2] / 3
    halves = heat_map(black, np.array([[flat[0], flat[0], flat[-1]], [flat[-1], flat[0], flat[0]]]), norm)
    assert (halves[:2, 4:] == halves[2:, :2]).all()  # the same score, the same colour
    assert (halves[:2, :4] == halves[0, 0]).all()
    assert heat_norm(dataclasses.replace(video, scores=None)) is None


def test_sheet_shows_at_most_the_frames_asked_for(tmp_path):
    few = image.imread(draw_sheet(seen(16), tmp_path / "few.png", "a\nb", frames=8))
    many = image.imread(draw_sheet(seen(16), tmp_path / "many.png", "a\nb", frames=16))
    assert few.shape[1] == many.shape[1]
    assert many.shape[0] > few.shape[0]
    plain = dataclasses.replace(seen(16), scores=None)
    assert image.imread(draw_sheet(plain, tmp_path / "plain.png", frames=8)).shape[0] < few.shape[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.png", "many.png", "plain.png"]


@pytest.mark.parametrize("aspect", [0.5625, 1.0, 1.7778])
def test_film_has_every_frame_in_order(tmp_path, aspect):
    video = seen(5, aspect=aspect)
    colours = np.array(
        [[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [40, 200, 200]], np.uint8
    )
    video = dataclasses.replace(
        video, pictures=np.broadcast_to(colours[:, None, None], (5, 48, 48, 3)).copy()
    )
    with av.open(str(write_film(video, tmp_path / "film.mp4", "title", fps=4))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    x, y = int(100 * (LEFT + 0.5)), int(100 * (HEAD + 0.5))  # inside the first panel
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame[y, x].astype(int) - colour).max() < 30


def test_script_draws_what_the_model_keeps(monkeypatch, tmp_path, capsys, tiny_folder, clips):
    video = sorted((clips / "videos").glob("test*.mp4"))[0]
    asked = [
        "question=What was there?",
        "options=[red,blue]",
        "frames=4",
        "policy=temporal",
        "prune_ratio=0.6",
    ]
    assert (
        run_script(monkeypatch, tmp_path, "visualize", f"model.path={tiny_folder}", f"video={video}", *asked)
        == 0
    )
    (folder,) = (tmp_path / "outputs/visualize").glob(f"tiny-seed0-*-temporal-0.6/{video.stem}")
    assert (folder / "sheet.png").stat().st_size > 10_000
    told = json.loads((folder / "kept.json").read_text())
    dropped = int(len(told["frames"]) * 9 * 0.6 + 1e-6)
    assert len(told["frames"]) == 4
    assert told["kept"] == pytest.approx(1 - dropped / 36)
    assert told["frames"][0]["kept"] == 1
    with av.open(str(folder / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    told = capsys.readouterr().out
    assert "sheet.png" in told
    assert told.splitlines()[-1].startswith("next: python eval.py model.path=")


def test_script_draws_a_folder_of_frames_under_its_own_name(monkeypatch, tmp_path, tiny_folder, clips):
    video = tmp_path / "clip.v1 ü=1"
    video.mkdir()
    for number, frame in enumerate(read_video(next((clips / "videos").glob("*.mp4")), 4).frames):
        image.imsave(video / f"{number}.png", frame)
    arguments = [f"model.path={tiny_folder}", f"video={video}", "draw.mp4=false", "output_dir=out"]
    assert (
        run_script(
            monkeypatch, tmp_path, "visualize", *arguments, "reading.folder_fps=4", "reading.max_fps=4"
        )
        == 0
    )
    told = json.loads((tmp_path / "out" / video.name / "kept.json").read_text())
    assert [frame["seconds"] for frame in told["frames"]] == [0, 0.25, 0.5, 0.75]
    (tmp_path / "empty").mkdir()
    assert run_script(monkeypatch, tmp_path, "visualize", f"model.path={tiny_folder}", "video=empty") == 2


def test_settings_can_be_made_where_the_video_is_not(tmp_path, monkeypatch):
    drawing = DrawingConfig("~/clip.mp4", 8)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder of frames"):
        drawing.check_ready()
    (tmp_path / "clip.mp4").touch()
    drawing.check_ready()
    assert drawing.path == tmp_path / "clip.mp4"


def test_pictures_of_another_video_of_that_name_are_not_overwritten(tmp_path):
    folder = folder_for("a/clip.mp4", tmp_path)
    folder.mkdir()
    (folder / "kept.json").write_text('{"file": "a/clip.mp4"}')
    assert folder_for("./a/clip.mp4", tmp_path) == folder
    with pytest.raises(ValueError, match=r"has the pictures of a/clip.mp4, not of b/clip.mp4"):
        folder_for("b/clip.mp4", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "video is not set"),
        (["video=nowhere.mp4"], "video is 'nowhere.mp4': no such file or folder of frames"),
        (["video=FILE", "draw.fps=0"], r"draw\.fps is 0\.0, must be in \(0, 120\]"),
        (["video=FILE", "options=[a,b]"], "needs question"),
        (["video=FILE", "draw.sheet_frames=0"], "draw.sheet_frames is 0"),
        (["video=FILE", "+reading.fps=3"], "reading.fps is not a setting"),
        (["video=FILE", "policy=best"], "policy is 'best'"),
        (["video=FILE", "checkpoint=nowhere"], "checkpoint is 'nowhere'"),
        (["video=FILE"], "No decoder|cannot be|invalid|Invalid"),
    ],
)
def test_mistakes_are_told_in_one_message(monkeypatch, tmp_path, capsys, tiny_folder, arguments, message):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    arguments = [argument.replace("FILE", str(broken)) for argument in arguments]
    assert run_script(monkeypatch, tmp_path, "visualize", f"model.path={tiny_folder}", *arguments) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told
    assert not (tmp_path / "outputs").exists()


def test_nothing_dropped_is_nothing_to_draw(monkeypatch, tmp_path, capsys, tiny_folder, clips):
    video = next((clips / "videos").glob("*.mp4"))
    arguments = [f"model.path={tiny_folder}", f"video={video}", "frames=1"]
    assert run_script(monkeypatch, tmp_path, "visualize", *arguments) == 2
    assert "nothing is dropped of" in capsys.readouterr().err
