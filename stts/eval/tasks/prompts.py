"""How the benchmarks put their questions: the option lines are the same everywhere, the instruction is not."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.prompts import LETTERS

PROMPTS: dict[str, tuple[str, str, str]] = {
    "letter": ("", "", "Please respond with only the letter of the correct answer."),
    "direct": ("", "", "Answer with the option's letter from the given choices directly."),
    "best": ("", "", "Please directly give the best option:"),
    "option": ("", "Only return the correct answer option.", ""),
    "mme": (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.",
        "",
        "The best answer is:",
    ),
    "plain": ("", "", ""),
}
"""By name, what stands before the question, between it and the options, and at the end."""


def prompt_text(question: str, options: Sequence[str], prompt: str = "letter", context: str = "") -> str:
    """What the user says after the video: context such as subtitles, then the question and its options."""
    opening, between, closing = PROMPTS[prompt]
    lettered = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join(filter(None, [context, opening, question.strip(), between, *lettered, closing]))
