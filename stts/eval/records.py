"""What an evaluation leaves in its folder, and how a restarted one goes on from it.

settings.json says how the predictions were made; predictions.jsonl has one object a question, appended batch
by batch. A run with other settings is refused: two kinds of predictions must never be averaged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.prompts import LETTERS
from .tasks.base import Question

Record = dict[str, Any]


class Records:
    """The predictions in a folder, by question id.

    Raises ValueError when the folder holds those of other settings, or a line that cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        check_settings(folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "predictions.jsonl"
        self.by_id = {record["id"]: record for record in _read(self.path)}
        if not self.by_id:
            write_json(folder / "settings.json", settings)

    def append(self, records: Iterable[Record]) -> None:
        """Add the records whose question has none yet, and see them on disk."""
        new = [record for record in records if record["id"] not in self.by_id]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in new))
            file.flush()
            os.fsync(file.fileno())
        self.by_id |= {record["id"]: record for record in new}

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Raises ValueError, naming the id, when a recorded question is not the one asked now."""
        for question in questions:
            record = self.by_id.get(question.id, {})
            now = describe(question)
            if other := [key for key in now if record and record.get(key) != now[key]]:
                raise ValueError(
                    f"{self.path} has question {question.id!r} with another {other[0]}: the benchmark has "
                    "changed; choose another output_dir or remove that folder"
                )


def describe(question: Question) -> Record:
    """The part of a record that is known before the model is asked."""
    return {
        "id": question.id,
        "category": question.category,
        "groups": {kind: list(labels) for kind, labels in question.groups.items()},
        "video": question.video.name,
        "question": question.question,
        "options": list(question.options),
        "answer": LETTERS[question.answer],
    }


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue a run of other settings; keys that only one side has are not compared.

    Raises ValueError naming the first key that differs and both values.
    """
    path, predictions = folder / "settings.json", folder / "predictions.jsonl"
    if not predictions.is_file() or not predictions.stat().st_size:
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} does not say how {predictions.name} beside it was made ({error}); "
            "choose another output_dir or remove that folder"
        ) from error
    now = json.loads(json.dumps(settings))  # tuples become lists, as they will be read back
    for key in (key for key in now if key in before and now[key] != before[key]):
        raise ValueError(
            f"{folder} holds predictions made with other settings: {key} is {before[key]!r} there and "
            f"{now[key]!r} now; choose another output_dir or remove that folder"
        )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there in full or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> list[Record]:
    """The records of a file; a last line that a killed run left unfinished is cut off."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    records = []
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            record["id"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}:{number}: not a prediction ({error}); remove the line to ask again"
            ) from error
        records.append(record)
    return records
