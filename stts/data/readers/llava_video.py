"""LLaVA-Video-178K (lmms-lab/LLaVA-Video-178K on the hub): captions, open questions, multiple choice.

Each subset, such as 0_30_s_academic_v0_1, is a folder with JSON lists (*_cap_processed.json, *_oe_*.json,
*_mc_*.json) and archives of videos. A row is {"id", "conversations": [{"from": "human" or "gpt", "value"}],
"data_source": the subset, "video": path in the archives}; "<image>" in the first question stands for the video.
Ids repeat, also within a file: an example is named after its file and the number of its row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ...files.jsonl import scan
from ..rows import resolve_video
from .base import Broken, Entry, PublishedReader
from .json_list import scan_list

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
PLACEHOLDER = re.compile(r"\s*<(?:image|video)>\s*")


class LlavaVideo(PublishedReader):
    """Videos are looked for under the root, as they are once the archives are unpacked there, or each subset's in a
    folder of its name."""

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl")

    def entries(self) -> Iterator[Entry | Broken]:
        for file in self.files:
            rows = scan(file) if file.suffix == ".jsonl" else scan_list(file)
            for number, row in enumerate(rows):
                where = self.where(file, number)
                try:
                    yield Entry(where, self._videos(file, row), turns(row))
                except ValueError as error:
                    yield Broken(where, str(error))

    def find(self, entry: Entry) -> str | None:
        """LLaVA-Hound's videos are folders of their frames."""
        paths = {name: resolve_video(self.root, name) for name in entry.videos}
        return next((name for name, path in paths.items() if path.is_file() or path.is_dir()), None)

    def _videos(self, file: Path, row: Mapping[str, Any]) -> tuple[str, ...]:
        video, source = row.get("video"), row.get("data_source")
        if not isinstance(video, str) or not video:
            raise ValueError(f"video is {video!r}, must be a path")
        folders = [source] if isinstance(source, str) and source else []
        folders += ["", file.relative_to(self.base).parent.as_posix()]
        return tuple(dict.fromkeys((Path(folder) / video).as_posix() for folder in folders))


def turns(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The questions and answers of a row. Raises ValueError where they do not alternate or one is empty."""
    said = row.get("conversations")
    if not isinstance(said, list) or not said or len(said) % 2:
        raise ValueError(f"conversations is {said!r}, must be questions and answers in turn")
    texts = []
    for i, turn in enumerate(said):
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
        known = ROLES.get(role) if isinstance(role, str) else None
        if known != ("human", "gpt")[i % 2] or not isinstance(value, str):
            raise ValueError(f"conversations[{i}] is {turn!r}, must be from {('human', 'gpt')[i % 2]}")
        text = PLACEHOLDER.sub("\n", value).strip() if i % 2 == 0 else value.strip()
        if not text:
            raise ValueError(f"conversations[{i}] is empty")
        texts.append(text)
    return tuple(zip(texts[::2], texts[1::2], strict=True))
