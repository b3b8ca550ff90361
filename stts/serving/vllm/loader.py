"""Frames of a request's video, chosen as in training: vLLM's own rules choose others, and replies would differ."""

from __future__ import annotations

from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader

from ...data.video.containers import VideoError
from ...data.video.read import read_video
from ..prompts import FPS

BACKEND = "stts"
"""Its name in --media-io-kwargs, where ServedMolmo2 puts it."""
FRAMES = 128
"""At most so many frames of a video, where neither server nor request says."""


@VIDEO_LOADER_REGISTRY.register(BACKEND)
class ReadVideo(VideoLoader):
    """read_video on the bytes of a request."""

    @classmethod
    def load_bytes(
        cls,
        data: bytes,
        num_frames: int = FRAMES,
        fps: float = FPS,
        size: int | None = None,
        sampling: str = "time",
        **unknown: Any,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Frames (T, H, W, 3) and what Processor wants to know of them. Raises ValueError for a video that cannot be
        read, which the client gets to see."""
        if unknown:
            raise ValueError(
                f"media_io_kwargs of video has {sorted(unknown)[0]!r}, known: num_frames, fps, size, sampling"
            )
        with NamedTemporaryFile(suffix=".mp4") as file:
            file.write(data)
            file.flush()
            try:
                clip = read_video(file.name, num_frames, fps, size=size, sampling=sampling)
            except VideoError as error:
                raise ValueError(str(error).replace(file.name, "the video")) from error
        times = clip.timestamps.tolist()
        return clip.frames, {
            "timestamps": times,
            "fps": fps,
            "frames_indices": list(range(len(times))),
            "total_num_frames": len(times),
            "duration": times[-1],
            "video_backend": BACKEND,
            "do_sample_frames": False,
        }
