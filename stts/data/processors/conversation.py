"""A conversation -> tokens and labels, through the chat template that comes with a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..prompts import Message, check_messages
from .base import IGNORE

THOUGHT, THOUGHT_END = "<think>", "</think>"
"""In answers that hold a thought."""
REASONING = "reasoning_content"
"""What templates call a thought."""
MARK = "\ue000\ue001\ue000"
"""Stands for an answer, to see what a template writes around it."""
MARKED = {"role": "assistant", "content": MARK}
UNCLEAR = (
    "the chat template rewrites earlier turns when more follow, and does not write each answer once behind its "
    "prompt, so answers cannot be told from the rest; use the one that comes with the model"
)


class Conversation:
    """Writes turns as a template does, and knows which tokens of the result are answers.

    video_token: what the template writes where a video goes, which stands in front of the first turn; special:
    tokens that no text may contain, beside the tokenizer's own; begin: what every text begins with, whether the
    template writes it or not; kind: what the template calls a video, "image" where it knows none. Raises ValueError
    when the tokenizer cannot do it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        video_token: str,
        special: Iterable[str] = (),
        begin: str = "",
        kind: str = "video",
    ) -> None:
        if not tokenizer.eos_token:
            raise ValueError("the tokenizer has no eos_token, which ends every answer")
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: use the one that comes with the model")
        if not tokenizer.is_fast:
            raise ValueError("the tokenizer must be a fast one: labels need character offsets")
        self.tokenizer, self.video_token = tokenizer, video_token
        self.begin, self.kind = begin, kind
        found = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        found |= {video_token, tokenizer.eos_token, *special}
        self._special = re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))

    def tensors(
        self, messages: Sequence[Message], placeholders: str | None, add_generation_prompt: bool = False
    ) -> tuple[Tensor, Tensor]:
        """input_ids and labels, both (L,) int64: IGNORE except on the answers and the token that ends each.

        placeholders: the text of the video; None: there is no video. Raises ValueError, naming the turn, for text
        that cannot be a prompt.
        """
        check_messages(messages)
        if add_generation_prompt and len(messages) % 2 == 0:
            raise ValueError(
                "add_generation_prompt needs the user's turn last, the last one is the assistant's"
            )
        self._refuse_special_tokens(messages)
        text, answers = "", []
        for piece, is_answer in self._pieces(messages, placeholders is not None, add_generation_prompt):
            if is_answer:
                answers.append((len(text), len(text) + len(piece)))
            text += piece if is_answer else piece.replace(self.video_token, placeholders or "")
        return self._tokens(text, answers)

    def _pieces(
        self, messages: Sequence[Message], has_video: bool, add_generation_prompt: bool
    ) -> Iterator[tuple[str, bool]]:
        """The rendered conversation in order, cut into (text, whether it is an answer with its end token).

        Answers are found by rendering growing prefixes. Some templates leave the end token of the last answer out:
        for training it is put in. Others rewrite what was said (thinking models leave out what they thought before):
        then each answer is learned as it is written when it is the last, behind the prompt that asks for it.
        """
        thinks = any(THOUGHT_END in answer["content"] for answer in messages[1::2])
        render = partial(self._render, has_video=has_video, thinks=thinks)
        full, turns = render(messages, add_generation_prompt), range(1, len(messages), 2)
        prompts = [render(messages[:i], True) for i in turns]
        said = [render(messages[: i + 1]) for i in turns]
        if all(full.startswith(text) for text in (*prompts, *said)):
            return self._cut(full, prompts, said, add_generation_prompt)
        if add_generation_prompt:  # of which nothing is learned
            return iter([(full, False)])
        return self._one_by_one(messages, prompts, said, render)

    def _cut(
        self, full: str, prompts: Sequence[str], said: Sequence[str], add_generation_prompt: bool
    ) -> Iterator[tuple[str, bool]]:
        """Pieces of a text that only grows. prompts: up to each answer; said: up to its end."""
        done = 0
        for start, stop in zip(map(len, prompts), map(len, said), strict=True):
            end = self._end(full, start, stop)
            yield full[done:start], False
            yield full[start : end or stop] + ("" if end or add_generation_prompt else self._eos), True
            done = end or stop
        yield full[done:], False

    def _one_by_one(
        self,
        messages: Sequence[Message],
        prompts: Sequence[str],
        said: Sequence[str],
        render: Callable[..., str],
    ) -> Iterator[tuple[str, bool]]:
        """Pieces of a conversation that is rewritten as it goes on: see _cut. render: messages -> text."""
        before = prompts[0]
        for number, (prompt, text) in enumerate(zip(prompts, said, strict=True)):
            turn = 2 * number + 1
            history, more = [*messages[:turn], MARKED], messages[turn + 1 : turn + 2]
            head, closing = _around_mark(render(history))
            behind = _around_mark(render([*history, *more], True))[1] if more else closing
            # a prompt may hold an empty thought, where an answer that was given has none
            answer = next((text.removeprefix(x) for x in (prompt, head) if text.startswith(x)), "")
            if not answer.endswith(closing):
                raise ValueError(UNCLEAR)
            answer, end = answer.removesuffix(closing), self._end(behind, 0, len(closing))
            yield before, False
            yield answer + behind[: end or len(closing)] + ("" if end else self._eos), True
            before = behind[end or len(closing) :]
        yield before, False

    @property
    def _eos(self) -> str:
        return self.tokenizer.eos_token

    def _end(self, text: str, start: int, stop: int) -> int | None:
        """Where the special token that ends an answer ends: one before stop, or the end token there."""
        end = self._special.search(text, start)
        ends = end and (end.start() < stop or (end.start() == stop and end[0] == self._eos))
        return end.end() if ends else None

    def _render(
        self, messages: Sequence[Message], prompt: bool = False, *, has_video: bool, thinks: bool = False
    ) -> str:
        """The text of the template. prompt: up to where an answer begins; thinks: with a thought, by models that are
        told whether to have any."""
        turns = [self._turn(message) for message in messages]
        if has_video:
            turns[0]["content"].insert(0, {"type": self.kind})
        text = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=prompt, enable_thinking=thinks
        )
        if (found := text.count(self.video_token)) != has_video:
            raise ValueError(
                f"the chat template writes {self.video_token} {found} times for {int(has_video)} videos; "
                "use the one that comes with the model"
            )
        return text if text.startswith(self.begin) else self.begin + text

    def _turn(self, message: Message) -> dict[str, Any]:
        """A turn as the template takes it: a thought apart, if it knows them so."""
        role, text, more = message["role"], message["content"], {}
        if role == "assistant" and THOUGHT_END in text and REASONING in str(self.tokenizer.chat_template):
            thought, text = text.split(THOUGHT_END, 1)
            text, more = text.strip(), {REASONING: thought.split(THOUGHT)[-1].strip()}
        as_text = role == "assistant" and self._answers_are_text
        return {"role": role, "content": text if as_text else [{"type": "text", "text": text}], **more}

    @cached_property
    def _answers_are_text(self) -> bool:
        """Whether the template prints what it is given as an answer, which then must not be a list of parts."""
        turns = [
            {"role": role, "content": [{"type": "text", "text": MARK}]} for role in ("user", "assistant")
        ]
        return "'type'" in self.tokenizer.apply_chat_template(turns, tokenize=False)

    def _refuse_special_tokens(self, messages: Sequence[Message]) -> None:
        for i, message in enumerate(messages):
            if found := self._special.search(message["content"]):
                raise ValueError(
                    f"messages[{i}] contains the special token {found[0]!r}: remove it from the text"
                )

    def _tokens(self, text: str, answers: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        options = {"add_special_tokens": False, "return_offsets_mapping": True}
        # not verbose: its word on long texts counts tokens before pruning
        encoded = self.tokenizer(text, verbose=False, **options)
        input_ids = torch.tensor(encoded["input_ids"])
        starts, stops = torch.tensor(encoded["offset_mapping"]).unbind(1)
        supervised = torch.zeros(len(input_ids), dtype=torch.bool)
        for start, stop in answers:
            # A lone space has an empty range: the second test leaves out one that stands before the answer.
            supervised |= (starts >= start) & (stops > start) & (stops <= stop)
        return input_ids, input_ids.where(supervised, IGNORE)


def _around_mark(text: str) -> tuple[str, str]:
    """What a template wrote before and behind MARK. Raises ValueError unless that is there once."""
    before, *behind = text.split(MARK)
    if len(behind) != 1:
        raise ValueError(UNCLEAR)
    return before, behind[0]
