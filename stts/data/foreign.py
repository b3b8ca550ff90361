"""What a row holds that nobody reads here: keys of other trainers are refused, unknown ones told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

KNOWN = ("id", "video", "question", "answer", "options", "messages", "start", "end", "evidence", "category")
GENERATED = ("cell", "events")
"""Keys of the generated clips."""
MEDIA = ("videos", "images", "image", "audios", "audio")
MEANT = {
    **dict.fromkeys(("choices", "choice", "candidates", "option"), "options"),
    **dict.fromkeys(("prompt", "instruction", "query"), "question"),
    **dict.fromkeys(("response", "output", "label", "target"), "answer"),
    **dict.fromkeys(("begin", "start_time", "from"), "start"),
    **dict.fromkeys(("stop", "end_time", "to"), "end"),
    **dict.fromkeys(("video_path", "path", "file"), "video"),
}
"""Words that other files have for what is read here."""
_PLACEHOLDER = re.compile(r"<(video|image|audio)>")
_PLACED = re.compile(r"\A\s*<(video|image|audio)>|^[ \t]*(?:<(?:video|image|audio)>[ \t]*)+$", re.MULTILINE)


def check_foreign(row: Mapping[str, Any]) -> None:
    """Raises ValueError for a row of another trainer, of which something would be left out unseen."""
    if "conversations" in row:
        raise ValueError("conversations is LLaVA's key: read such a file with data=llava_video")
    if "messages" in row and (both := [key for key in ("question", "answer", "options") if key in row]):
        raise ValueError(f"messages and {both[0]} are both given, must be one of them: remove the other")
    if media := [key for key in MEDIA if row.get(key)]:
        raise ValueError(
            f"{media[0]} is {row[media[0]]!r}, but a row has one video, under the key video, and no images or sound: "
            "remove the key, or leave the row out"
        )
    for text in _asked(row):
        if (found := _PLACED.search(text)) and not _is_html(text):
            raise ValueError(
                f"the text holds the placeholder {found[0].strip()} in {text!r}: remove it, the video comes first by "
                "itself"
            )


def row_notes(row: Mapping[str, Any]) -> Iterator[str]:
    """What to tell of a row that is not wrong."""
    for key in row:
        if key not in (*KNOWN, *GENERATED, *MEDIA):
            near = MEANT.get(key.lower()) or next(iter(get_close_matches(key.lower(), KNOWN, 1, 0.7)), None)
            yield f"nobody reads the key {key!r}" + (f" (did you mean {near!r}?)" if near else "")
    if found := next((m for m in map(_PLACEHOLDER.search, _asked(row)) if m), None):
        yield f"{found[0]} in a question is read as text"


def _asked(row: Mapping[str, Any]) -> Iterator[str]:
    """What the user says."""
    if isinstance(row.get("question"), str):
        yield row["question"]
    messages = row.get("messages")
    for turn in messages if isinstance(messages, list) else []:
        if isinstance(turn, Mapping) and turn.get("role") == "user" and isinstance(turn.get("content"), str):
            yield turn["content"]


def _is_html(text: str) -> bool:
    return bool(re.search(r"</(?:video|audio)>|`<(?:video|image|audio)>", text))
