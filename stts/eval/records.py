"""What an evaluation leaves in its folder, and how a restarted one goes on from it.

settings.json says how the predictions were made; predictions.jsonl has one object a question, appended batch by
batch. Of several processes each appends to a file of its own, predictions-1.jsonl and so on, and whoever starts next
reads them all; in the end the first process puts them together, in the order of the questions. A run with other
settings is refused: two kinds of predictions must never be averaged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.prompts import LETTERS
from ..files.durable import write_whole
from ..files.jsonl import parse, raw_lines
from .tasks.question import Question

Record = dict[str, Any]
PREDICTIONS = "predictions.jsonl"


class Records:
    """The predictions in a folder, by question id.

    process: the number of the process, which appends to a file of its own. Process 0 must make its Records before the
    others. Raises ValueError when the folder holds those of other settings, or a line that cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], process: int = 0) -> None:
        refuse_other_settings(folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / (f"predictions-{process}.jsonl" if process else PREDICTIONS)
        if process == 0:
            for path in prediction_files(folder):
                _cut_torn_line(path)
        self.by_id = read_predictions(folder)
        if process == 0 and not self.by_id:
            write_json(folder / "settings.json", settings)

    def append(self, records: Iterable[Record]) -> None:
        """Add the records whose question has none yet, and see them on disk."""
        new = [record for record in records if record["id"] not in self.by_id]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_lines(new))
            file.flush()
            os.fsync(file.fileno())
        self.by_id |= {record["id"]: record for record in new}

    def merge(self, questions: Sequence[Question]) -> list[Record]:
        """Put the files of all processes together in predictions.jsonl. Returns the records of the questions.

        A record of an earlier start may name its video by where the data lay then: all get the present name.
        """
        self.by_id = read_predictions(self.folder)
        mine = [self.by_id[question.id] | {"video": _name_of(question)} for question in questions]
        asked = {question.id for question in questions}
        rest = [record for name, record in self.by_id.items() if name not in asked]
        write_whole(self.folder / PREDICTIONS, _lines([*mine, *rest]))
        for path in prediction_files(self.folder)[1:]:
            path.unlink()
        return mine

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Raises ValueError, naming the id, when a recorded question is not the one asked now."""
        for question in questions:
            record = self.by_id.get(question.id, {})
            now = describe_question(question)
            if other := [key for key in now if record and not _same(key, record.get(key), now[key])]:
                raise ValueError(
                    f"{self.path} has question {question.id!r} with another {other[0]}: the benchmark has "
                    "changed; choose another output_dir or remove that folder"
                )


def describe_question(question: Question) -> Record:
    """The part of a record that is known before the model is asked."""
    return {
        "id": question.id,
        "category": question.category,
        "groups": {kind: list(labels) for kind, labels in question.groups.items()},
        "video": _name_of(question),
        "start": question.start,
        "end": question.end,
        "question": question.question,
        "options": list(question.options),
        "answer": LETTERS[question.answer],
    }


def _name_of(question: Question) -> str:
    """The video as the data name it, so that records do not say where the data lie."""
    root = question.root and question.root.resolve()
    inside = root and question.video.is_relative_to(root)
    return question.video.relative_to(root).as_posix() if inside else str(question.video)


def _same(key: str, before: Any, now: Any) -> bool:
    if key == "video" and isinstance(before, str):  # the data may have moved meanwhile
        return Path(before).name == Path(now).name
    return before == now


def prediction_files(folder: Path) -> list[Path]:
    """Those that are there, that of the first process first."""
    more = sorted(folder.glob("predictions-*.jsonl"), key=lambda path: (len(path.name), path.name))
    return [path for path in (folder / PREDICTIONS, *more) if path.is_file()]


def refuse_other_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue a run of other settings; keys that only one side has are not compared.

    Raises ValueError naming the first key that differs and both values, or a folder that is a file.
    """
    if folder.is_file():
        raise ValueError(f"output_dir is {folder}, which is a file")
    path = folder / "settings.json"
    if not any(file.stat().st_size for file in prediction_files(folder)):
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} does not say how {PREDICTIONS} beside it was made ({error}); "
            "choose another output_dir or remove that folder"
        ) from error
    now = json.loads(json.dumps(settings))  # tuples become lists, as they will be read back
    for key in (key for key in now if key in before and now[key] != before[key]):
        raise ValueError(
            f"{folder} holds predictions made with other settings: {key} is {before[key]!r} there and "
            f"{now[key]!r} now; choose another output_dir or remove that folder"
        )


def read_predictions(folder: Path) -> dict[str, Record]:
    """All predictions in a folder, by question id. Raises ValueError naming file and line of one that is none."""
    by_id: dict[str, Record] = {}
    for path in prediction_files(folder):
        for _, number, line in raw_lines(path):
            if not line.endswith(b"\n"):
                break  # torn by a kill
            try:
                record = parse(line, f"{path}:{number}")
                by_id.setdefault(record["id"], record)
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{path}:{number}: not a prediction ({error}); remove the line to ask again"
                ) from error
    return by_id


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line that a killed run left unfinished."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there in full or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
