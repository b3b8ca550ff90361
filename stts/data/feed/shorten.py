"""Making an example that is too long fit, by its text alone."""

from __future__ import annotations

from typing import Any

from ..processors.base import IGNORE
from .budget import Size
from .collator import Collator


def shorten(example: dict[str, Any], collate: Collator) -> dict[str, Any]:
    """Cut the end of an example's text until a row can hold it; its video stays whole.

    What is left ends with the last answer token that fits: of a conversation the first turns, of an answer its
    beginning. Raises ValueError naming the example when its frames are too many or no answer token is left.
    """
    budget, size = collate.budget, collate.size(example)
    length = len(example["input_ids"]) - max(size.tokens - (budget.tokens or size.tokens), 0)
    supervised = (example["labels"][: max(length, 0)] != IGNORE).nonzero()
    visual = example["mm_token_type_ids"].nonzero()
    end = int(supervised[-1]) + 1 if len(supervised) else 0
    if not budget.holds(Size(0, size.frames)) or end <= (int(visual[-1]) if len(visual) else 0):
        try:
            collate.refuse(example)
        except ValueError as error:
            raise ValueError(f"{error}; cutting its text is not enough") from None
    return example | {key: example[key][:end] for key in ("input_ids", "labels", "mm_token_type_ids")}
