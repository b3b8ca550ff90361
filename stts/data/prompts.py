"""What is said to the model: turns of a conversation, and how a multiple-choice question is asked."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

Message = Mapping[str, str]
"""One turn: {"role": "user" or "assistant", "content": text}."""

LETTERS = string.ascii_uppercase
"""Names of the options of a question, in their order."""


def multiple_choice_prompt(question: str, options: Sequence[str]) -> str:
    """The question, one lettered option a line, and the request for the letter alone, as Molmo2 asks it.

    Raises ValueError for an empty question, fewer than 2 options or more than there are letters, and for options that
    are not texts.
    """
    if not isinstance(question, str):
        raise ValueError(f"question is {question!r}, must be text")
    if not question.strip():
        raise ValueError("the question is empty")
    texts = not isinstance(options, str) and isinstance(options, Sequence)
    if not texts or not all(isinstance(option, str) and option.strip() for option in options):
        raise ValueError(f'options is {options!r}, must be a list of texts such as ("red", "blue")')
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"a question has {len(options)} options, must have 2 to {len(LETTERS)}")
    lines = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)]
    closing = "Please respond with only the letter of the correct answer."
    return "\n".join([question.strip(), *lines, closing])


_LETTERED = re.compile(r"\s*\(?([A-Za-z])[.):\uff1a\uff0e\u3001]\s*(.*?)\s*", re.DOTALL)


def without_letters(options: Sequence[str]) -> list[str]:
    """Options without letters of their own, "A. red" -> "red", where each has its own in order; else as they are."""
    found = [_LETTERED.fullmatch(option) for option in options]
    if all(m and m[1].upper() == letter for m, letter in zip(found, LETTERS, strict=False)):
        return [m[2] for m in found if m]
    return list(options)


def check_text(text: str, key: str) -> None:
    """Raises ValueError, naming the key, for characters that cannot stand in a prompt."""
    if wrong := re.search("[\0\ud800-\udfff]", text):
        what = "NUL" if wrong[0] == "\0" else f"half of a character, {wrong[0]!r}"
        part = text[max(wrong.start() - 40, 0) : wrong.end() + 40]
        raise ValueError(f"{key} is {part!r}, holds {what}: remove it, or read the source anew as UTF-8")


def check_messages(messages: Sequence[Message]) -> None:
    """Raises ValueError unless messages are user and assistant turns in alternation, each with some text."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ValueError(
            f'messages is {messages!r}, must be a list of turns such as {{"role": "user", "content": "What now?"}}'
        )
    if not messages:
        raise ValueError("messages is empty, must start with a user turn")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if not isinstance(message, Mapping) or message.get("role") != role:
            raise ValueError(
                f"messages[{i}] is {message!r}, must have role {role!r}: turns alternate from 'user'"
            )
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"messages[{i}] has content {content!r}, must be text")
        check_text(content, f"messages[{i}]")
