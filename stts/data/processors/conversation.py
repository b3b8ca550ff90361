"""A conversation -> tokens and labels, through the chat template that comes with a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..prompts import Message, check_messages
from .base import IGNORE


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
        for training it is put in.
        """
        full = self._render(messages, has_video, add_generation_prompt)
        eos, done = self.tokenizer.eos_token, 0
        for turn in range(1, len(messages), 2):
            start = self._prefix_length(full, messages[:turn], has_video, True)
            stop = self._prefix_length(full, messages[: turn + 1], has_video, False)
            end = self._special.search(full, start)
            if end and (end.start() < stop or (end.start() == stop and end[0] == eos)):
                answer, stop = full[start : end.end()], end.end()
            else:
                answer = full[start:stop] + ("" if add_generation_prompt else eos)
            yield full[done:start], False
            yield answer, True
            done = stop
        yield full[done:], False

    def _prefix_length(self, full: str, messages: Sequence[Message], has_video: bool, prompt: bool) -> int:
        prefix = self._render(messages, has_video, prompt)
        if not full.startswith(prefix):
            raise ValueError(
                f"the chat template rewrites the first {len(messages)} turns when more follow, so answers "
                "cannot be told from the rest; use a template whose text only grows with the conversation"
            )
        return len(prefix)

    def _render(self, messages: Sequence[Message], has_video: bool, add_generation_prompt: bool) -> str:
        turns = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        if has_video:
            turns[0]["content"].insert(0, {"type": self.kind})
        text = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        if (found := text.count(self.video_token)) != has_video:
            raise ValueError(
                f"the chat template writes {self.video_token} {found} times for {int(has_video)} videos; "
                "use the one that comes with the model"
            )
        return text if text.startswith(self.begin) else self.begin + text

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
