"""Who asks what, and what is asked together; all of it follows from the questions, so every run does it alike.

Questions about the same clip belong together: it is decoded and encoded once for all of them. Some clips with all
their questions make a portion, which one process asks from beginning to end, always in the same batches: answers do
not depend on how many processes there are, nor on where a run was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

from .tasks.question import Question

SameClip = tuple[Question, ...]
"""Questions about one clip."""
Portion = tuple[SameClip, ...]


def by_clip(questions: Sequence[Question]) -> list[SameClip]:
    """Questions about the same clip together, in the order in which they first come."""
    groups: dict[tuple, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.clip, []).append(question)
    return [tuple(group) for group in groups.values()]


def portions(questions: Sequence[Question], batch_size: int) -> list[Portion]:
    """Clips in groups, each with enough questions for a batch; the last one may have fewer."""
    found: list[Portion] = []
    portion: list[SameClip] = []
    for shared in by_clip(questions):
        portion.append(shared)
        if sum(map(len, portion)) >= batch_size:
            found.append(tuple(portion))
            portion = []
    return [*found, tuple(portion)] if portion else found


def share_of(todo: Sequence[Portion], process: int, num_processes: int) -> Sequence[Portion]:
    """The portions that one process asks: each takes the next in turn, so that long and short videos mix."""
    return todo[process::num_processes]


def batches(lengths: Sequence[int], batch_size: int, max_tokens: int) -> list[list[int]]:
    """Questions of a portion -> those that go through the model together, by their places.

    lengths: tokens of each after pruning. A batch has at most batch_size questions and max_tokens tokens, padding
    included; a question that is longer goes alone. Those of like length come together, the longest first.
    """
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        last = found[-1] if found else []
        if last and len(last) < batch_size and lengths[last[0]] * (len(last) + 1) <= max_tokens:
            last.append(place)
        else:
            found.append([place])
    return found
