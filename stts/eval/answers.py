"""From what a model replied to the option it chose, and which tokens the option letters are.

`parse_letter` is strict on purpose. It takes what clearly names one option and answers None for all else (two
letters, a refusal, prose): an unread reply counts as wrong and is reported, so nothing is ever guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..data.prompts import LETTERS

# A line that is a letter or starts with a marked one: "B", "(b)", "B.", "b) a ball", "**B:** a ball".
_LINE = re.compile(
    r"^[^\w\n]*([A-Z])(?:[^\w\n]*$|[^\w\n]*?(?:[):\]]|\.(?!\w)))", re.MULTILINE | re.IGNORECASE
)
# "answer", then what may stand before the letter; "option B is right" is weaker and tried after it.
_LINK = r"(?:\s+(?:is|would\s+be|must\s+be|should\s+be|option|choice))*\W{0,6}([A-Z])(?![\w'])"
_ANSWER = re.compile(rf"\banswer{_LINK}", re.IGNORECASE)
_OPTION = re.compile(rf"\b(?:option|choice){_LINK}", re.IGNORECASE)
_LEAD = re.compile(r"^\W*(?:the\s+)?(?:\w+\s+)?(?:answer|option|choice)(?:\s+is\b|\s*:)\s*", re.IGNORECASE)
_MENTION = re.compile(r"(?<![\w'])(\([A-Za-z]\)|[A-Z])(?![\w'])")
_CLAUSE_END = re.compile(r"[^\w\n]*(?:$|\n)|\s*[.,;:!?)\]]|\s+(?:because|since)\b")
_NOUN_NEXT = re.compile(r"\s+(?!(?:and|or|is|because|since|as)\b)[a-z]")
_SECOND = re.compile(r"\W*(?:,|/|&|\bor\b|\band\b)\W*([A-Za-z])(?![\w'])")
_RIGHT = re.compile(r"(?<![\w'])([A-Z])\W*\s+(?:is|would\s+be)\s+(?:the\s+)?(?:correct|right|best)\b")
_YES_NO = re.compile(r"\W*(yes|no)\b(?!\W+or\b)", re.IGNORECASE)
_THINKING = re.compile(r"^.*</think>|<think>.*", re.DOTALL)
_NOT_BEFORE = re.compile(r"(?:\bnot|n't)\W+(?:(?:option|choice)\W+)?$", re.IGNORECASE)
_NOT_AFTER = re.compile(r"\W*(?:isn't|is\s+(?:not|wrong|incorrect|false))\b")


def parse_letter(reply: str, options: Sequence[str]) -> int | None:
    """Index of the option a reply names, or None when it names none or several.

    Tried in this order, the first that finds anything decides: lines that are or begin with a letter ("B",
    "b) a ball"); the text of exactly one option, alone, after its letter or after "the answer is"; a letter
    after "answer"; one after "option"; one before "is correct"; a stand-alone capital in prose that closes its
    clause ("I pick C."); where the options are yes and no, the first word. An article ("A man") does not count,
    nor a letter past the last option, nor what is said between "<think>" and "</think>".
    """
    text = _THINKING.sub("", unicodedata.normalize("NFKC", reply)).strip()
    for rule in (_by_line, _by_text, _by_answer, _by_option, _by_verdict, _by_mention, _by_yes_no):
        named = rule(text, options)
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _by_line(text: str, options: Sequence[str]) -> set[int]:
    return _indices((m[1] for m in _LINE.finditer(text)), options)


def _by_text(text: str, options: Sequence[str]) -> set[int]:
    said = {_plain(text), _plain(_LEAD.sub("", text))}
    return {
        i
        for i, (letter, option) in enumerate(zip(LETTERS, options, strict=False))
        if {_plain(option), _plain(f"{letter} {option}"), _plain(f"{letter} - {option}")} & said
    }


def _by_answer(text: str, options: Sequence[str]) -> set[int]:
    return _after_cue(_ANSWER, text, options)


def _by_option(text: str, options: Sequence[str]) -> set[int]:
    return _after_cue(_OPTION, text, options)


def _after_cue(cue: re.Pattern[str], text: str, options: Sequence[str]) -> set[int]:
    found = [m for m in cue.finditer(text) if not _is_word(m[1], text, m.end()) and not _negated(text, m)]
    seconds = [_SECOND.match(text, m.end()) for m in found]  # "the answer is A or B" names two
    seconds = [m for m in seconds if m and not _is_word(m[1], text, m.end())]
    return _indices((m[1] for m in [*found, *seconds]), options)


def _by_verdict(text: str, options: Sequence[str]) -> set[int]:
    return _indices((m[1] for m in _RIGHT.finditer(text) if not _negated(text, m)), options)


def _by_yes_no(text: str, options: Sequence[str]) -> set[int]:
    words = [_plain(option) for option in options]
    match = _YES_NO.match(text)
    return {words.index(match[1].lower())} if match and sorted(words) == ["no", "yes"] else set()


def _by_mention(text: str, options: Sequence[str]) -> set[int]:
    found = [
        m for m in _MENTION.finditer(text) if _index(m[1], options) is not None and not _negated(text, m)
    ]
    found = [m for m in found if len(m[1]) == 3 or not _is_word(m[1], text, m.end())]
    closes = any(len(m[1]) == 3 or _CLAUSE_END.match(text, m.end()) for m in found)
    return _indices((m[1] for m in found), options) if closes else set()


def _is_word(letter: str, text: str, end: int) -> bool:
    """Whether a lone letter reads as a word: "A man", "I think", any small letter inside a clause."""
    if letter.islower():
        return _CLAUSE_END.match(text, end) is None
    return letter in "AI" and _NOUN_NEXT.match(text, end) is not None


def _negated(text: str, match: re.Match[str]) -> bool:
    return bool(_NOT_BEFORE.search(text[: match.start()]) or _NOT_AFTER.match(text, match.end()))


def _index(letter: str, options: Sequence[str]) -> int | None:
    index = LETTERS.find(letter.strip("()").upper())
    return index if 0 <= index < len(options) else None


def _indices(letters: Iterable[str], options: Sequence[str]) -> set[int]:
    return {index for index in (_index(letter, options) for letter in letters) if index is not None}


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
