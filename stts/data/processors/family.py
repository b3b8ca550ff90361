"""What the processors of a family of models say of it, and how they begin."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from .base import Processor
from .conversation import Conversation

SETTINGS_FILE = "video_preprocessor_config.json"


class FamilyProcessor(Processor):
    """Turns one conversation, with or without a clip, into one unbatched example: see base.Processor.

    images: settings of the folder's image processor, which are only handed on. Raises ValueError when the tokenizer
    lacks something the prompt needs.
    """

    model_types: ClassVar[tuple[str, ...]]
    """Of config.json, that it serves."""
    family: ClassVar[str]
    """Their name, for messages."""
    theirs: ClassVar[str]
    """transformers' class of it."""
    tokens: ClassVar[tuple[str, ...]]
    """That the vocabulary must have, and no text may contain."""
    written: ClassVar[str]
    """What the chat template writes where a video goes."""
    placeholder: ClassVar[str]
    """The token that stands for a window."""
    placeholder_setting: ClassVar[str]
    """Its number in config.json."""
    kind: ClassVar[str] = "video"
    """What the chat template calls a video."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, images: dict[str, Any] | None = None) -> None:
        vocab = tokenizer.get_vocab()
        if missing := [token for token in self.tokens if token not in vocab]:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}: use the one that comes with a {self.family} model"
            )
        self.conversation = Conversation(tokenizer, self.written, self.tokens, kind=self.kind)
        self.tokenizer, self.images = tokenizer, images or {}
        self.video_id = vocab[self.placeholder]
