"""Templates that rewrite what was said before, as those of thinking models do: what is learned of a conversation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from stts.data.processors.conversation import Conversation
from tests.helpers.theirs import make_tokenizer

TURN = "{{ '<|im_start|>' ~ m.role ~ '\\n' }}"
TEXT = "{{ '<|video|>' if m.content[0].type == 'video' }}{{ m.content[-1].text }}"
OPENED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}PROMPT{% endif %}"
THINKS = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages if m.role == 'user' %}{% set ns.last = messages.index(m) %}{% endfor %}"
    "{% for m in messages %}" + TURN + "{% if m.role == 'user' %}" + TEXT + "{% else %}"
    "{% set parts = m.content[0].text.split('</think>') %}"
    "{% if loop.index0 > ns.last %}"
    "{{ '<think>\\n' ~ (parts[0].split('<think>')[-1].strip() if parts | length > 1) }}"
    "{{ '\\n</think>\\n\\n' }}{% endif %}"
    "{{ parts[-1].strip() }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    + OPENED.replace("PROMPT", "{{ '<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n' }}")
)
"""Of all thoughts the last one stays, if only an empty one."""
EMPTY = (
    "{% for m in messages %}"
    + TURN
    + TEXT
    + "{{ '<|im_end|>\\n' }}{% endfor %}"
    + OPENED.replace("PROMPT", "{{ '' if enable_thinking else '[]' }}")
)
"""A prompt has an empty thought in front of the answer, an answer that was given has none."""
PRINTS = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    + TURN
    + TEXT
    + "{% else %}"
    + TURN
    + "{{ m.content }}{% endif %}"
    "{% endfor %}" + OPENED.replace("PROMPT", "")
)
"""Prints what it is given as an answer, and nothing that would end one."""
APART = (
    "{% for m in messages %}"
    + TURN
    + "{{ '<think>' ~ m.reasoning_content ~ '</think>' if m.reasoning_content }}"
    + TEXT
    + "{{ '<|im_end|>\\n' }}{% endfor %}"
    + OPENED.replace("PROMPT", "")
)
"""Takes thoughts apart from answers, and knows none in them."""
USER, RED = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "Red."}
LONG = [USER, RED, {"role": "user", "content": "Red?"}, {"role": "assistant", "content": "Yes."}]
THOUGHT = {"role": "assistant", "content": "<think>Hm.</think>Red."}
A, END = "<|im_start|>assistant\n", "<|im_end|>"
ASKED, AGAIN = f"<|im_start|>user\nVVWhat?{END}\n{A}", f"\n<|im_start|>user\nRed?{END}\n{A}"
NO_THOUGHT = "<think>\n\n</think>\n\n"


def pieces(template: str, messages: list[dict], prompt: bool = False) -> list[str]:
    """The text, cut where learning begins and ends."""
    tokenizer = make_tokenizer(template, ["<|video|>", "V", "<|im_start|>"])
    ids, labels = Conversation(tokenizer, "<|video|>").tensors(messages, "VV", prompt)
    learned = (labels >= 0).tolist()
    starts = [0, *(i for i in range(1, len(ids)) if learned[i] != learned[i - 1]), len(ids)]
    return [tokenizer.decode(ids[start:stop]) for start, stop in pairwise(starts)]


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (THINKS, LONG[:2], [ASKED + NO_THOUGHT, "Red." + END, "\n"]),
        (THINKS, LONG, [ASKED + NO_THOUGHT, "Red." + END, AGAIN + NO_THOUGHT, "Yes." + END, "\n"]),
        (THINKS, [USER, THOUGHT], [ASKED + "<think>\n", "Hm.\n</think>\n\nRed." + END, "\n"]),
        (
            THINKS,
            [USER, THOUGHT, *LONG[2:]],
            [
                ASKED + "<think>\n",
                "Hm.\n</think>\n\nRed." + END,
                AGAIN + "<think>\n",
                "\n</think>\n\nYes." + END,
                "\n",
            ],
        ),
        (APART, [USER, THOUGHT], [ASKED, "<think>Hm.</think>Red." + END, "\n"]),
        (EMPTY, LONG[:2], [ASKED + "[]", "Red." + END, "\n"]),
        (EMPTY, LONG, [ASKED + "[]", "Red." + END, AGAIN + "[]", "Yes." + END, "\n"]),
        (PRINTS, LONG[:2], [ASKED.replace(END + "\n", ""), "Red." + END]),
        (
            PRINTS,
            LONG,
            [ASKED.replace(END + "\n", ""), "Red." + END, AGAIN[1:].replace(END + "\n", ""), "Yes." + END],
        ),
    ],
)
def test_each_answer_is_learned_behind_the_prompt_that_asks_for_it(template, messages, expected):
    assert pieces(template, messages) == expected


def test_a_prompt_is_what_the_template_makes_of_it():
    asked = [*LONG[:2], LONG[2]]
    assert pieces(THINKS, asked, True) == [ASKED + "Red." + END + AGAIN + NO_THOUGHT]
    (whole,) = pieces(EMPTY, asked, True)
    assert whole == ASKED + "Red." + END + AGAIN + "[]"


def test_a_template_that_leaves_answers_out_is_refused():
    template = "{{ messages | length }}{% for m in messages if m.role == 'user' %}" + TEXT + "{% endfor %}"
    with pytest.raises(ValueError, match="does not write each answer once behind its prompt"):
        pieces(template, LONG)


def test_labels_are_the_ids_they_stand_at():
    tokenizer = make_tokenizer(THINKS, ["<|video|>", "V", "<|im_start|>"])
    ids, labels = Conversation(tokenizer, "<|video|>").tensors(LONG, "VV")
    assert torch.equal(labels[labels >= 0], ids[labels >= 0])
