"""From what a model replied to the option it chose, and which tokens the option letters are.

`parse_letter` is strict on purpose. It takes what clearly names one option and answers None for all else (two
letters, a refusal, prose): an unread reply counts as wrong and is reported, so nothing is ever guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from .mentions import CROSS, MASK, Mention, find_mentions
from .prompts import LETTERS

_AROUND = rf"(?:(?!{CROSS})[\W_])*"
_ALONE = re.compile(rf"{_AROUND}([A-Za-z]){_AROUND}")
_LEAD = re.compile(r"^\W*(?:the\s+)?(?:\w+\s+)?(?:answer|option|choice)(?:\s+is\b|\s*:)\s*", re.IGNORECASE)
_YES_NO = re.compile(r"\W*(yes|no)\b(?!\W+or\b)", re.IGNORECASE)
_THINKING = re.compile(r"^.*</think>|<think>.*", re.DOTALL)
_PLAINER = {ord(mark): plain for mark, plain in zip("\u2018\u2019\u2013\u2014\u2212", "''---", strict=True)}
_TOKEN = r"(?:<\|[^<>|]*\|>|</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn|im_end|im_start|endoftext)>)"
_ENDED = re.compile(rf"^(?:\s*{_TOKEN})*(.*?)(?:{_TOKEN}.*)?$", re.DOTALL)


def parse_letter(reply: str, options: Sequence[str]) -> int | None:
    """Index of the option a reply names, or None when it names none or several.

    A reply that is one letter names it, and the text of exactly one option, alone, after its letter or after "the
    answer is", names that. Else its letters decide (mentions.py): the one that is stated as the answer ("the answer
    is C", "C is correct", also in some other languages), if one alone is and no other is named after it; without a
    statement the only one that is named at all. One that is denied ("not A", "A is wrong") is not named. Where the
    options are yes and no, the first word counts. What is said between "<think>" and "</think>" and behind an end
    token does not, nor does a letter past the last option.
    """
    text = _THINKING.sub("", unicodedata.normalize("NFKC", reply)).translate(_PLAINER)
    text = _ENDED.sub(r"\1", text).strip()
    if alone := _ALONE.fullmatch(text):
        named = {LETTERS.index(alone[1].upper())}
    else:
        named = _by_text(text, options) or _by_letter(text, options) | _by_yes_no(text, options)
    index = named.pop() if len(named) == 1 else len(options)
    return index if index < len(options) else None


def _by_text(text: str, options: Sequence[str]) -> set[int]:
    said = {_plain(text), _plain(_LEAD.sub("", text))}
    return {
        i
        for i, (letter, option) in enumerate(zip(LETTERS, options, strict=False))
        if {_plain(option), _plain(f"{letter} {option}"), _plain(f"{letter} - {option}")} & said
    }


def _by_letter(text: str, options: Sequence[str]) -> set[int]:
    """The option that the letters of a reply name; several, or none, where it is not clear which."""
    found = find_mentions(_masked(text, options))
    found = [m for m in found if m.stated or m.joined or LETTERS.index(m.letter) < len(options)]
    stated = [mention.start for mention in found if mention.stated]
    # What is said before a statement is thought aloud, what is said after it may take it back.
    counted = [m for m in found if not m.denied and (m.stated or m.start > max(stated, default=-1))]
    if not any(mention.chosen for mention in counted) or _denies(found, counted):
        return set()
    return {LETTERS.index(mention.letter) for mention in counted}


def _denies(found: Sequence[Mention], counted: Sequence[Mention]) -> bool:
    """Whether a reply denies what it names."""
    return bool({m.letter for m in found if m.denied} & {m.letter for m in counted})


def _masked(text: str, options: Sequence[str]) -> str:
    """The text without the words of options, where they stand behind their letter or are several."""
    for letter, option in zip(LETTERS, options, strict=False):
        words = r"\s+".join(map(re.escape, unicodedata.normalize("NFKC", option).split()))
        if words:
            text = re.sub(
                rf"(?<!\w)({letter}\W{{1,4}}){words}(?!\w)", rf"\1{MASK}", text, flags=re.IGNORECASE
            )
        if len(option.split()) > 1:
            text = re.sub(rf"(?<!\w){words}(?!\w)", "_", text, flags=re.IGNORECASE)
    return text


def _by_yes_no(text: str, options: Sequence[str]) -> set[int]:
    words = [_plain(option) for option in options]
    match = _YES_NO.match(text)
    return {words.index(match[1].lower())} if match and sorted(words) == ["no", "yes"] else set()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`*")


def letter_token_ids(processor: Callable[..., dict[str, Any]], num_options: int) -> list[int]:
    """The token each option letter is as the first token of a reply.

    Found by rendering whole conversations with the processor: "A" and " A" are different tokens, and the chat
    template decides which of them begins a reply. Raises ValueError where a template or tokenizer has no such
    token, or the same one for two letters.
    """
    if not 1 <= num_options <= len(LETTERS):
        raise ValueError(f"a question has {num_options} options, must be 1 to {len(LETTERS)}")
    user = {"role": "user", "content": "?"}
    prompt = processor([user], add_generation_prompt=True)["input_ids"].tolist()
    tokens = []
    for letter in LETTERS[:num_options]:
        turns = processor([user, {"role": "assistant", "content": letter}])["input_ids"].tolist()
        if turns[: len(prompt)] != prompt or len(turns) == len(prompt):
            raise ValueError(
                f"the chat template does not continue its generation prompt with the reply {letter!r}, so "
                "letters have no logits of their own: use eval.mode=generate"
            )
        tokens.append(turns[len(prompt)])
    if len(set(tokens)) < num_options:
        raise ValueError(
            f"the tokenizer has one token for several letters ({tokens}): use eval.mode=generate"
        )
    return tokens
