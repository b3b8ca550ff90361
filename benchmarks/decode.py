"""python benchmarks/decode.py: frames a second and core from generated clips to patches, PyAV against decord."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import measure, milliseconds, parser, prepare, print_table, timing_fields, write_results
from figures import bars, figure, hardware

from stts.data import read_video, write_video
from stts.data.video.pixels import patchify

PATCH = 14


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, repeats=3)
    options.add_argument("--frames", type=int, nargs="+", default=[32, 64])
    options.add_argument("--seconds", type=int, default=40, help="length of the clip")
    options.add_argument("--fps", type=int, default=24)
    options.add_argument("--height", type=int, default=360)
    options.add_argument("--width", type=int, default=640)
    options.add_argument("--size", type=int, default=378, help="side of the frames handed over")
    options.add_argument(
        "--keyframes", type=int, nargs="+", default=[250, 24], help="frames between keyframes"
    )
    args = options.parse_args(arguments)
    args.device = "cpu"  # decoders run there
    return args


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = prepare(args)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for every in args.keyframes
            for row in measure_clip(make_clip(Path(folder), every, args), args)
        ]
    title = (
        f"decode, resize to {args.size}, cut into patches: {args.seconds} s of {args.width} x {args.height}"
    )
    report(rows, title)
    path = write_results("decode", args, rows, facts)
    draw(path, rows, f"{title}\n{hardware(facts)}")
    return path


def report(rows: list[dict[str, Any]], title: str) -> None:
    cells = [
        [
            row["backend"],
            row["keyframe_every"],
            row["frames"],
            milliseconds(row["seconds"], 0),
            f"{row['frames_per_core_s']:.1f}",
        ]
        for row in rows
    ]
    print_table(title, ["backend", "keyframe every", "frames", "CPU ms", "frames / core s"], cells)


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Frames a core second of each backend, by distance of keyframes and number of frames."""
    groups = dict.fromkeys(f"{r['frames']} frames,\nkeyframe / {r['keyframe_every']}" for r in rows)
    backends = dict.fromkeys(row["backend"] for row in rows)
    series = {name: [r["frames_per_core_s"] for r in rows if r["backend"] == name] for name in backends}
    with figure(path, title) as (ax,):
        bars(ax, list(groups), series, "frames / core s")


def make_clip(folder: Path, keyframe_every: int, args: argparse.Namespace) -> Path:
    """A drifting texture with a square that runs across it: motion everywhere, as a camera makes it."""
    path = folder / f"every{keyframe_every}.mp4"
    frames = moving_texture(args.seconds * args.fps, args.height, args.width)
    write_video(path, frames, args.fps, qp=25, options={"g": str(keyframe_every), "preset": "veryfast"})
    return path


def moving_texture(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 frames."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 4 + 1, 3), dtype=np.uint8)
    texture = coarse.repeat(8, 0).repeat(8, 1)  # twice as wide as a frame
    side = height // 4
    for t in range(num_frames):
        frame = texture[:height, t % width : t % width + width].copy()
        left = 5 * t % (width - side)
        frame[side : 2 * side, left : left + side] = 255
        yield frame


def measure_clip(path: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a backend and number of frames; decord is left out where it is not installed."""
    backends = ["pyav", *(["decord"] if find_spec("decord") else [])]
    for frames in args.frames:
        steps = {name: (lambda name=name, n=frames: load(path, n, name, args.size)) for name in backends}
        handed = {name: len(step()) for name, step in steps.items()}
        for name, timing in measure(steps, "cpu", args.repeats, warmup=0).items():
            yield {
                "backend": name,
                "keyframe_every": int(path.stem.removeprefix("every")),
                "frames": handed[name],
                **timing_fields(timing),
                "frames_per_core_s": round(handed[name] / timing.seconds, 2),
            }


def load(path: Path, frames: int, backend: str, size: int) -> torch.Tensor:
    """(T, N, values) uint8 patches, as the model takes them."""
    clip = read_video(path, frames, size=size, backend=backend)
    return patchify(torch.from_numpy(clip.frames), PATCH)


if __name__ == "__main__":
    print(main())
