"""The page's pictures as HTML: frames along a timeline, answers in a table. Files are in it as data, not by path."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from ..data.video.pixels import resize_frames
from ..viz.contact_sheet import heat_map, heat_norm
from ..viz.figure import dim_dropped, outline_windows
from ..viz.kept_video import KeptVideo
from .models import Answer, Models, Setting

SIDE = 312
"""Pixels of the pictures on the page."""
MARKS = (255, 183, 3), (76, 201, 240)
"""Around windows that only the first, and only the second side keeps."""
LAYERS = ("kept", "scores", "frames")


def head(models: Models) -> str:
    """The top of the page: which models there are, and where they compute."""
    device = str(next(iter(models.by_label.values())).model.device)
    chips = "".join(f"<span>{escape(word)}</span>" for word in (*models.by_label, device))
    title = "<h1>stts</h1><p>What a model keeps of a video, and what that costs</p>"
    return f'<div class="masthead">{title}{chips}</div>'


def viewer(sides: Mapping[str, KeptVideo]) -> str:
    """One or two sides on the same clip: a frame in large, the share kept over time, and a strip of all frames.

    sides: what stands above each -> what it keeps. Windows on which two differ are outlined.
    """
    videos = list(sides.values())
    count, first = len(videos[0].keep), videos[0]
    marks = differing(*videos) if len(videos) == 2 else None
    cells = [
        [_cell(video, t, marks and marks[side][t], MARKS[side]) for t in range(count)]
        for side, video in enumerate(videos)
    ]
    start = min(1, count - 1)
    stages = "".join(
        f'<figure><figcaption><b class="side side{side}">{escape(words)}</b>'
        f'<span class="said">{_said(video, start)}</span></figcaption>'
        f'<div class="large">{cells[side][start]}</div></figure>'
        for side, (words, video) in enumerate(sides.items())
    )
    strips = "".join(
        '<div class="strip">'
        + "".join(
            f'<figure data-t="{t}" data-said="{_said(video, t)}">{cells[side][t]}</figure>'
            for t in range(count)
        )
        + "</div>"
        for side, video in enumerate(videos)
    )
    return (
        f'<div class="viewer" tabindex="0" data-count="{count}" data-sides="{len(videos)}" '
        f'style="--aspect:{first.aspect:.4f};--count:{count}">'
        f'<div class="stage">{stages}</div>{_timeline(videos)}{strips}{_legend(videos, marks)}</div>'
    )


def differing(one: KeptVideo, other: KeptVideo) -> list[np.ndarray] | None:
    """(T, rows, cols) bool of each: windows that it alone keeps. None where the windows of two models differ."""
    if one.keep.shape != other.keep.shape:
        return None
    return [one.keep & ~other.keep, other.keep & ~one.keep]


def _cell(video: KeptVideo, t: int, marked: np.ndarray | None, colour: Sequence[int]) -> str:
    """The pictures of a frame: what is kept, the scores where there are any, the frame itself."""
    picture = resize_frames(video.pictures[t : t + 1], SIDE)[0]
    layers = {"kept": dim_dropped(picture, video.keep[t]), "frames": picture}
    if (norm := heat_norm(video)) is not None:
        layers["scores"] = heat_map(picture, video.scores[t], norm)
    if marked is not None:
        layers = {name: outline_windows(layer, marked, colour) for name, layer in layers.items()}
    found = (f'<img class="{name}" alt="" src="{_data(layers[name])}">' for name in LAYERS if name in layers)
    return "".join(found)


def _said(video: KeptVideo, t: int) -> str:
    return f"{video.timestamps[t]:.1f} s &middot; {video.shares[t]:.0%} kept"


def _data(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=82)
    return as_data(file.getvalue(), "image/jpeg")


def as_data(content: bytes, kind: str) -> str:
    """A file as the address of itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _timeline(videos: Sequence[KeptVideo]) -> str:
    """A bar a frame and side: the share of its windows that was kept."""
    times = videos[0].timestamps
    bars = "".join(
        f'<div class="bar" data-t="{t}" title="{times[t]:.1f} s">'
        + "".join(
            f'<i class="side{side}" style="height:{max(video.shares[t], 0.015):.1%}"></i>'
            for side, video in enumerate(videos)
        )
        + "</div>"
        for t in range(len(times))
    )
    total = " &middot; ".join(
        f"{video.keep.mean():.0%} of {video.keep.size:,} windows kept" for video in videos
    )
    return (
        f'<div class="timeline"><div class="axis"><span>share kept of each frame</span><span>{total}</span></div>'
        f'<div class="bars">{bars}</div>'
        f'<div class="axis"><span>{times[0]:.1f} s</span><span>{times[-1]:.1f} s</span></div></div>'
    )


def _legend(videos: Sequence[KeptVideo], marks: list[np.ndarray] | None) -> str:
    hints = [
        "Move along the timeline or the strip, or use the arrow keys; dark blue is dropped, bright scores are high."
    ]
    if len(videos) == 2 and marks is None:
        hints.append("The two models divide frames into different windows, so these are not compared.")
    if marks is not None:
        differ = f"{sum(int(marked.sum()) for marked in marks):,} of {videos[0].keep.size:,} windows"
        keys = '<span class="mark0">only A keeps it</span> <span class="mark1">only B keeps it</span>'
        hints.insert(0, f'<b class="differ">The two differ on {differ}</b> {keys}')
    return "".join(f'<p class="legend">{hint}</p>' for hint in hints)


def answers_table(question: str, answers: Mapping[str, Answer], words: Callable[[Setting], str]) -> str:
    """What each side replied, how many visual tokens it read, and how long its parts took.

    answers: name of a side -> its answer; the one called "unpruned" is what the others are measured against; words:
    for the settings of a side.
    """
    heads = ("", "reply", "visual tokens", "ViT", "adapter", "LLM", "prompt", "faster", "limit", "writing")
    whole = answers["unpruned"].seconds.prompt
    rows = []
    for name, found in answers.items():
        spent, pruned = found.seconds, name != "unpruned"
        faster = f"{whole / spent.prompt:.2f} &times;" if pruned and spent.prompt else "&ndash;"
        limit = f"{found.limit:.2f} &times;" if pruned and found.limit else "&ndash;"
        cells = [
            f'<th><b class="side {escape(name)}">{escape(name)}</b> {escape(words(found.setting))}</th>',
            f'<td class="reply">{escape(found.reply) or "<i>nothing</i>"}</td>',
            f"<td>{found.kept:,} of {found.windows:,}</td>",
            *(f"<td>{_time(part)}</td>" for part in (spent.vit, spent.adapter, spent.llm, spent.prompt)),
            f"<td>{faster}</td><td>{limit}</td><td>{_time(spent.words)}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="answers"><p class="question">{escape(question)}</p><div class="scroll"><table><thead><tr>'
        f"{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="legend">Prompt: ViT (with scoring), adapter and LLM, all that comes before the first word; the '
        "quickest of several rounds, of a large model the only one. Faster: than without pruning, as measured. "
        "Limit: by multiply-adds, the most that can be.</p></div>"
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def progress(doing: str, share: float) -> str:
    """A bar."""
    return (
        f'<div class="progress" role="status"><span>{escape(doing)} &hellip;</span>'
        f'<div class="track"><i style="width:{share:.0%}"></i></div></div>'
    )


def note(text: str, kind: str = "note") -> str:
    """A line that is not an error; kind "error": one that is."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="{kind}" role="{role}">{escape(text)}</div>' if text else ""


def links(files: Mapping[str, bytes]) -> str:
    """Files to save, each in its own link."""
    kinds = {"png": "image/png", "mp4": "video/mp4"}
    made = (
        f'<a download="{escape(name)}" href="{as_data(content, kinds[name.rpartition(".")[2]])}">'
        f"{escape(name)} <small>{len(content) / 1e3:,.0f} kB</small></a>"
        for name, content in files.items()
    )
    return f'<div class="links">{"".join(made)}</div>'
