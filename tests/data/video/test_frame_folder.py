"""Videos that are folders of images: which image is which frame, and what cannot be read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stts import STTSConfig
from stts.data import DataSpec, JsonlData, VideoError, VideoQADataset, load_data, read_video, training_data
from stts.data.check import check_data
from stts.data.rows import checked_rows
from stts.data.video.config import VideoConfig
from stts.data.video.frame_folder import FOLDER_FPS
from stts.eval.config import EvalConfig
from stts.eval.reading import read_clip
from stts.eval.tasks import BenchmarkSpec
from stts.eval.tasks.data import load_test_rows
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_processor
from tests.helpers.miniatures import write_jpeg

HOUND = [f"c01_{number:04}.jpeg" for number in range(1, 13)]
"""How LLaVA-Hound names the frames of a video."""


def write_frames(folder: Path, names: list[str], size: tuple[int, int] = (24, 32)) -> Path:
    """The n-th name in the list shows grey level 20 * n."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        write_jpeg(folder / name, np.full((*size, 3), 20 * number, np.uint8))
    return folder


def shown(folder: Path, frames: int = 100, **settings) -> tuple[list[int], list[float]]:
    """Which of the names a video shows, and when."""
    clip = read_video(folder, frames, **settings)
    return [round(frame.mean() / 20) for frame in clip.frames], clip.timestamps.tolist()


@pytest.mark.parametrize(
    "names",
    [
        HOUND,
        [f"{number:06}.jpg" for number in range(12)],
        [f"frame{number}.JPG" for number in range(12)],
        [f"{number // 6}-{number % 6}.jpg" for number in range(12)],
        [f"{number}%d.jpg" for number in range(12)],
    ],
)
def test_images_come_by_name_two_a_second(tmp_path, names):
    folder = write_frames(tmp_path / "video", names)
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._c01_0001.jpeg").write_bytes(b"what a Mac leaves")
    (folder / "0.jpg.d").mkdir()
    assert shown(folder) == (list(range(12)), [number / 2 for number in range(12)])
    assert shown(folder, 3)[0] == [0, 6, 11]
    assert shown(folder, start=1.0, end=2.5)[1] == [1.0, 1.5, 2.0, 2.5]
    assert shown(folder, 100, folder_fps=4.0, max_fps=2.0) == (
        [0, 2, 4, 6, 8, 10, 11],
        [0, 0.5, 1, 1.5, 2, 2.5, 2.75],
    )


def test_numbers_that_are_missing_are_gaps(tmp_path):
    folder = write_frames(tmp_path / "video", ["00003.jpg", "00004.jpg", "00007.jpg", "00010.jpg"])
    assert shown(folder) == ([0, 1, 2, 3], [0.0, 0.5, 2.0, 3.5])


def test_every_kind_of_image(tmp_path):
    """PNG and WebP, grey and with transparency, whatever the name says; of one size, or made so."""
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    pillow = Image.fromarray(image)
    pillow.save(tmp_path / "0.png")
    pillow.convert("RGBA").save(tmp_path / "1.png")
    pillow.save(tmp_path / "2.jpg", "PNG")
    pillow.save(tmp_path / "3.webp", lossless=True)
    pillow.save(tmp_path / "4.jpg", quality=95, subsampling=0, progressive=True)
    pillow.convert("L").save(tmp_path / "5.jpeg", quality=95)
    frames = read_video(tmp_path, 10).frames.astype(int)
    assert (frames[:3] == image).all()
    assert abs(frames[3:5] - image).mean() < 3
    assert abs(frames[5].mean(-1) - np.asarray(pillow.convert("L"))).mean() < 3
    pillow.resize((32, 48)).save(tmp_path / "6.png")
    with pytest.raises(VideoError, match="its frames change from 64 x 48 to 32 x 48 pixels; set size"):
        read_video(tmp_path, 10)
    assert read_video(tmp_path, 10, size=12).frames.shape == (7, 12, 12, 3)


def test_names_that_are_times_are_spoken_of(tmp_path, caplog):
    folder = write_frames(tmp_path / "video", [f"{1700000000000 + 100 * number}.jpg" for number in range(4)])
    assert shown(folder)[1] == [0.0, 50.0, 100.0, 150.0]
    assert "video: most numbers are missing in the names of its images" in caplog.text
    assert "4 images last 150.5 s at 2 a second; if they are times" in caplog.text
    caplog.clear()
    for names in (HOUND, ["3.jpg", "4.jpg", "7.jpg", "10.jpg"], ["0.jpg"], ["a1000.jpg", "a9000.jpg"]):
        shown(write_frames(tmp_path / f"fine{len(names)}", names))
    assert not caplog.records


def test_links_that_lead_out_in_several_steps(tmp_path):
    folder = write_frames(tmp_path / "video", HOUND)
    write_frames(tmp_path / "elsewhere", HOUND)
    (folder / ".hidden").symlink_to(tmp_path / "elsewhere" / HOUND[0])
    (folder / "zz.jpeg").symlink_to(".hidden")
    with pytest.raises(VideoError, match=r"zz\.jpeg: is a link that leads out of its folder"):
        read_video(folder, 4)
    (folder / "zz.jpeg").unlink()
    (folder / "inner").symlink_to(tmp_path / "elsewhere")
    (folder / "zz.jpeg").symlink_to(f"inner/{HOUND[0]}")
    with pytest.raises(VideoError, match=r"zz\.jpeg: is a link that leads out of its folder"):
        read_video(folder, 4)


def huge(kind: str) -> bytes:
    """A small file of more pixels than are read; of WebP, which is slow to write, the header alone says so."""
    image, file = (
        Image.new("1" if kind == "PNG" else "L", (64, 48) if kind == "WEBP" else (8200, 4400)),
        io.BytesIO(),
    )
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    data = bytearray(file.getvalue())
    if kind == "WEBP":
        place = data.index(b"VP8L") + 9
        data[place : place + 4] = (8199 | 4399 << 14).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(kind, tmp_path):
    folder = write_frames(tmp_path / "video", HOUND[:2])
    (folder / HOUND[1]).write_bytes(huge(kind))
    with pytest.raises(
        VideoError, match=r"c01_0002\.jpeg: is no image .* of up to 35,389,440 pixels"
    ) as error:
        read_video(folder, 4, size=16)
    assert isinstance(error.value.__cause__, av.error.ArgumentError)  # damage would be InvalidDataError


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "cut short": cut,
    "text": lambda path: path.write_text("no image"),
    "empty": lambda path: path.write_bytes(b""),
    "a playlist": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nc01_0001.jpeg\n#EXT-X-ENDLIST\n"),
    "a list of files": lambda path: path.write_text("ffconcat version 1.0\nfile c01_0001.jpeg\n"),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("gone.jpeg")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage):
    rng = np.random.default_rng(0)
    folder = write_frames(tmp_path / "video", HOUND)
    write_jpeg(folder / HOUND[4], rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    DAMAGES[damage](folder / HOUND[4])
    with pytest.raises(VideoError, match=r"video/c01_0005\.jpeg: is no image that can be read"):
        read_video(folder, 100)
    assert shown(folder, 3)[0] == [0, 6, 11]


def test_folders_that_are_no_video(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cover.txt").touch()
    with pytest.raises(VideoError, match=r"empty: is a directory without images \(\.jpg"):
        read_video(tmp_path / "empty", 4)
    folder = write_frames(tmp_path / "video", HOUND)
    with pytest.raises(VideoError, match=r"video: start is 7 s.*the clip lasts 6\.000 s"):
        read_video(folder, 4, start=7)
    with pytest.raises(ValueError, match="folder_fps is 0"):
        read_video(folder, 4, folder_fps=0)
    write_frames(tmp_path / "elsewhere", HOUND[:1])
    (folder / "c01_0000.jpeg").symlink_to(tmp_path / "elsewhere" / HOUND[0])
    with pytest.raises(VideoError, match=r"c01_0000\.jpeg: is a link that leads out of its folder"):
        read_video(folder, 4)
    (folder / "c01_0000.jpeg").unlink()
    (folder / "c01_0000.jpeg").symlink_to(HOUND[3])
    assert shown(folder)[0] == [3, *range(12)]


# --- as training data


@pytest.fixture
def hound(tmp_path):
    """Three videos and questions about them as published: one whole, one with a damaged frame, one a link."""
    root = tmp_path / "llava_hound"
    write_frames(root / "frames" / "whole", HOUND)
    write_frames(root / "frames" / "damaged", HOUND)
    (root / "frames" / "damaged" / HOUND[5]).write_text("no image")
    write_frames(tmp_path / "elsewhere", HOUND)
    (root / "frames" / "link").symlink_to(tmp_path / "elsewhere")
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Grey."}]
    rows = [{"id": name, "video": f"frames/{name}", "conversations": said} for name in ("whole", "damaged")]
    (root / "qa_processed.json").write_text(json.dumps(rows))
    return root


def test_llava_hound_as_published(hound, tmp_path, tiny_folder):
    spec = DataSpec.from_dict(
        {
            "name": "llava_video",
            "annotations": str(hound),
            "folder": str(tmp_path / "rows"),
            "folder_fps": 4.0,
        }
    )
    rows = checked_rows(load_data(spec).train)
    assert [row["video"] for row in rows] == ["frames/whole", "frames/damaged"]

    processor = load_processor(ModelSpec(str(tiny_folder)), STTSConfig())
    data = training_data(spec, processor, frames=100)
    assert data[0]["video_grids"][0, 0] == len(shown(hound / "frames" / "whole", folder_fps=4.0)[0]) == 7
    for decode, wrong in ((False, []), (True, ["damaged"])):
        findings, _ = check_data(
            spec, processor, STTSConfig(), VideoConfig(100, max_fps=4.0), 0, decode=decode
        )
        assert [
            name for name in ("whole", "damaged") if any(f"/{name}/" in text for text in findings.wrong)
        ] == wrong
        assert findings.measured[0].size.frames == 12
    assert all("c01_0006.jpeg: is no image" in text for text in findings.wrong)

    (hound / "qa_processed.json").write_text(
        (hound / "qa_processed.json").read_text().replace("whole", "link")
    )
    with pytest.raises(ValueError, match="processed:0: video 'frames/link' leads out of the data root"):
        load_data(spec)


def test_the_rate_is_a_setting_of_the_data(hound, tiny_folder, tmp_path):
    assert JsonlData("x").folder_fps == FOLDER_FPS
    for value in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"data\.folder_fps is"):
            JsonlData("x", folder_fps=value)
    with pytest.raises(ValueError, match=r"data\.folder_fps has no meaning"):
        DataSpec.from_dict({"name": "molmo2", "annotations": "x", "folder_fps": 3.0})
    (hound / "rows.jsonl").write_text(
        "".join(
            json.dumps({"id": name, "video": f"frames/{name}", "question": "What?", "answer": "Grey."}) + "\n"
            for name in ("whole", "link")
        )
    )
    processor = load_processor(ModelSpec(str(tiny_folder)), STTSConfig())
    data = VideoQADataset(hound / "rows.jsonl", None, processor, 100, folder_fps=1.0, decode_timeout=60)
    clip = data.read_clip(0, data.rows[0])
    assert clip.timestamps.tolist() == list(range(12))
    with pytest.raises(ValueError, match=r"rows\.jsonl:2 \(id 'link'\): video 'frames/link' leads out"):
        data[1]


def test_a_test_question_may_be_about_a_folder(hound):
    path = hound / "test.jsonl"
    asked = {"id": "q", "video": "frames/whole", "question": "Which?", "options": ["a", "b"], "answer": "a"}
    path.write_text(json.dumps(asked) + "\n")
    data = {"name": "jsonl", "annotations": str(path), "test_annotations": str(path), "folder_fps": 3.0}
    (question,) = load_test_rows(BenchmarkSpec("own", task="data", data=data))
    assert question.video_is_there()
    clip = read_clip(question, EvalConfig("own", frames=100, max_fps=8.0), 12)
    np.testing.assert_allclose(clip.timestamps, np.arange(12) / 3)
