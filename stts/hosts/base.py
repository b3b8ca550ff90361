"""What a host has to say about itself so that stts can prune it: where its parts are, and what lies where in memory.

A subclass of Host describes one architecture. Everything else (scoring, choosing, leaving tokens behind, the LLM's
sequence, generation, saving) is shared. docs/hosts.md has an example.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from ..data.video.pixels import normalize
from ..pruning.config import STTSConfig
from ..pruning.memory import Clips
from ..pruning.scorer import STTSScorer
from ..pruning.windows import Grid

__all__ = ["Clips", "Host", "as_rows", "in_placeholder_order"]


class Host:
    """One architecture, on one model. It is made anew whenever it is asked for and keeps nothing but the model.

    A subclass sets the names below and answers `unit`, `token_id` and `clips`; the rest has defaults that suit most
    models: frames one after the other in memory, patches row-major, one placeholder a window, positions 0, 1, 2, ...
    """

    vision_at: ClassVar[str] = "model.vision_tower"
    """The vision model, by its path in the model; "": the model itself."""
    blocks_at: ClassVar[str] = "encoder.layers"
    """The ModuleList of its blocks, by its path in the vision model. Its forward must loop over it."""
    adapter_at: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector",)
    """What stands between ViT and LLM."""
    layers_at: ClassVar[str] = "model.language_model.layers"
    """The LLM's layers."""
    num_prefix: ClassVar[int] = 0
    """Tokens in front of the patches of each frame: CLS, registers. They are never dropped."""
    tail: ClassVar[str] = "vision"
    """Where survivors go back into a dense tensor, with zeros for dropped tokens, on which the host's own code goes
    on. "vision": behind the vision model. "blocks": behind its last block, if the vision model itself goes on by
    grid. "none": nowhere; `encode` gets the survivors and returns what becomes of them."""
    modality: ClassVar[str] = "video"
    """The key of the features in transformers' mm_encoder_outputs: "image" where frames are images to the model."""
    keys: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    """Arguments of forward that belong to the videos; the first one holds their pixels."""
    adapter_before_pooling: ClassVar[bool] = False
    """Whether the adapter's layers run on patches, which are pooled behind it."""
    mrope: ClassVar[bool] = False
    """Whether positions of LLM tokens have three planes: time, height, width."""
    both_ways: ClassVar[bool] = False
    """Whether visual tokens, those of mm_token_type_ids 1, see each other in both directions."""
    images_beside: ClassVar[bool] = True
    """Whether the class itself takes images and videos in one batch."""
    frame_grid: Grid | None = None
    """Rows and columns of patches of every frame, where all frames have one size."""
    collects: Sequence[int] = ()
    """Zero-based blocks whose outputs `encode` reads off the pass that is active (pruning.blocks.active_pass)."""

    served: ClassVar[bool] = False
    """Whether stts.serving knows the pruning class. The config.json of a saved folder then has its name, by which
    engines find it. Under the transformers class's name they would serve the model unpruned."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    def check_config(cls, config: PreTrainedConfig, where: str | PathLike) -> None:
        """Raises ValueError for a configuration that contradicts itself. where: the folder or hub id it is of."""

    # What a subclass has to answer

    @property
    def unit(self) -> int:
        """Side in patches of the square that one LLM token reads: the window that is scored and dropped as one."""
        raise NotImplementedError

    @property
    def token_id(self) -> int:
        """The placeholder that stands in input_ids for each window of a video."""
        raise NotImplementedError

    def clips(self, inputs: dict[str, Any]) -> Clips:
        """How many frames each video of the inputs has, and how many rows and columns of patches: plain integers.

        inputs: forward's keyword arguments. Asked only where a batch comes without a layout that says so; reading a
        tensor here is the one wait for the device.
        """
        raise NotImplementedError

    # Where patches lie

    def cells(self, grid: Grid) -> Tensor:
        """(h * w,) int64: for each cell of the patch grid, row by row, its place in memory behind the frame's prefix.

        Two cells may name one patch, where LLM tokens share what they read; a patch that none names is never dropped.
        """
        return torch.arange(grid[0] * grid[1])

    def frame_tokens(self, grid: Grid) -> int:
        """Patches of a frame in memory, its prefix not counted."""
        return grid[0] * grid[1]

    def for_survivors(self, kwargs: dict[str, Any], index: Tensor) -> dict[str, Any]:
        """A block's keyword arguments; those with an entry for every token are cut to the tokens of index (K,)."""
        if kwargs.get("position_embeddings") is not None:
            pairs = kwargs["position_embeddings"]
            kwargs["position_embeddings"] = tuple(x.flatten(0, -2).index_select(0, index) for x in pairs)
        return kwargs

    # From pixels to the LLM

    def accept(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Forward's arguments as the class takes them. Pixels that travelled as bytes are normalised;
        mm_token_type_ids go where the class does not know them."""
        key = self.keys[0]
        if (pixels := inputs.get(key)) is not None and pixels.dtype == torch.uint8:
            inputs = inputs | {key: self.floats(pixels)}
        if "mm_token_type_ids" not in inspect.signature(self.model.forward).parameters:
            inputs = {name: x for name, x in inputs.items() if name != "mm_token_type_ids"}
        return inputs

    def floats(self, pixels: Tensor) -> Tensor:
        """Bytes -> pixels as the vision model takes them."""
        return normalize(pixels)

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Call the host's own vision model and adapter.

        Returns the LLM's features in the order of the placeholders, (tokens, D), and further features of the same
        tokens by name (deepstack). With tail "none", in an active run, these are the survivors' alone.
        """
        given = {key: inputs[key] for key in self.keys if inputs.get(key) is not None}
        given.pop("frames_per_video", None)
        method = getattr(self.model.base_model, f"get_{self.modality}_features")
        return as_rows(method(**given, return_dict=True).pooler_output), {}

    def windows_of(self, frames: int, windows: int) -> Tensor:
        """(placeholders of a video,) int64: the window behind each, counted through the video. -1: it always
        stays."""
        return torch.arange(frames * windows)

    def placeholders(self, input_ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        """(B, L) bool, True at the placeholders of videos."""
        return input_ids == self.token_id

    def check_images(self, input_ids: Tensor, of_video: Tensor, inputs: dict[str, Any]) -> None:
        """Raises ValueError for images beside videos that do not fit their placeholders, where the class itself
        would not notice. of_video: (B, L) bool, what `placeholders` gave."""

    def output(self, rows: Sequence[Tensor], extra: dict[str, list[list[Tensor]]]) -> ModelOutput:
        """Features of the kept tokens, batch row by batch row, as the host's forward takes them encoded."""
        return BaseModelOutputWithPooling(pooler_output=tuple(rows), **extra)

    def positions(
        self, input_ids: Tensor, mask: Tensor, inputs: dict[str, Any], clips: Clips
    ) -> tuple[Tensor, Tensor] | None:
        """Positions before anything is dropped, (3, B, L), and how far they run ahead of the tokens, (B, 1).

        None: they are 0, 1, 2, ..., as in most models.
        """
        return None

    def others(self, inputs: dict[str, Any]) -> dict[str, ModelOutput]:
        """Encode the images that stand beside the videos; they lose nothing. Returns mm_encoder_outputs without the
        videos', and removes the images' arguments from inputs."""
        if self.modality == "image" or inputs.get("pixel_values") is None:
            return {}
        begins = ("pixel_values", "image_", "batch_num_images")
        names = {name for name in inputs if name.startswith(begins)} - set(self.keys)
        images = {name: inputs.pop(name) for name in sorted(names)}
        return {"image": self.model.base_model.get_image_features(**images, return_dict=True)}

    def in_order(
        self, features: Tensor, images: dict[str, ModelOutput], input_ids: Tensor
    ) -> tuple[Tensor, dict[str, ModelOutput]]:
        """For models where a video's placeholder is an image's, too: features of both in the order of their
        placeholders, and what is left of images.

        features: (K, D), of videos; images: what `others` gave; input_ids: of survivors.
        """
        return features, images

    def embed(
        self, input_ids: Tensor, features: Tensor, extra: dict[str, list[Tensor]]
    ) -> dict[str, Any] | None:
        """Put features into the embeddings, for hosts whose own forward would wait for the device to find their
        places.

        Returns forward's arguments in place of input_ids (B, L) and encoded videos: inputs_embeds (B, L, D), with
        features (K, D) in their places, and those that bring in `extra`, further features of the same tokens. None:
        the host's own forward does all this.
        """
        return None

    def attach(self) -> None:
        """Add the hooks that `embed` relies on to a model that begins to prune."""

    def detach(self) -> None:
        """Take them away again."""

    def still(self) -> dict[str, Tensor]:
        """The arguments of the smallest video, of one frame and any pixels, on the CPU: what a process without a
        video runs where weights are sharded. Raises NotImplementedError where none is described."""
        raise NotImplementedError

    # What follows from that

    @property
    def vision(self) -> nn.Module:
        """The vision model, which also holds the scorer."""
        return self.model.get_submodule(self.vision_at)

    @property
    def blocks(self) -> nn.ModuleList:
        """The vision model's blocks."""
        return self.vision.get_submodule(self.blocks_at)

    def set_blocks(self, blocks: nn.ModuleList) -> None:
        """Put another list in their place."""
        owner, _, name = self.blocks_at.rpartition(".")
        setattr(self.vision.get_submodule(owner), name, blocks)

    @property
    def layers(self) -> nn.ModuleList:
        """The LLM's layers. With the blocks: the units to shard, to compile and to checkpoint."""
        return self.model.get_submodule(self.layers_at)

    @property
    def scorer(self) -> STTSScorer:
        """What scores the windows."""
        return self.vision.scorer

    @property
    def dims(self) -> tuple[int, int]:
        """Width and attention heads of the vision model."""
        config = self.vision.config
        heads = getattr(config, "num_attention_heads", None) or config.num_heads
        return config.hidden_size, heads

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """How the names of a part's parameters begin. The first part that fits a name wins; a name that fits none is
        the LLM's."""
        vision = f"{self.vision_at}." if self.vision_at else ""
        adapter = tuple(f"{path}." for path in self.adapter_at)
        return {"scorer": (f"{vision}scorer.",), "adapter": adapter, "vision": (vision,)}

    def behind(self, layer: int | Sequence[int]) -> tuple[str, ...]:
        """How the names of the blocks begin that stand behind the last one whose output is read. layer: as
        transformers counts hidden states, 0 in front of all blocks."""
        layers, count = [layer] if isinstance(layer, int) else layer, len(self.blocks)
        last = max(number if number >= 0 else count + 1 + number for number in layers)
        return tuple(f"{self.vision_at}.{self.blocks_at}.{number}." for number in range(last, count))

    @property
    def unread(self) -> tuple[str, ...]:
        """How the names of parameters begin that no video and no text reaches, such as blocks behind the one that is
        read. Training leaves them as they are: nobody may wait for their gradient."""
        return ()

    def settle(self, stts: STTSConfig) -> STTSConfig:
        """The settings as this host takes them, pool_width filled in. Raises ValueError for those it cannot take."""
        if self.mrope and stts.position_ids == "compact":
            raise ValueError(
                "position_ids is 'compact', which means nothing to positions of three planes: leave it at 'original'"
            )
        return stts.for_windows(self.unit)


def as_rows(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Features of all tokens one below the other, (tokens, D), however a model groups them."""
    if isinstance(features, Tensor):
        return features.flatten(0, -2)
    return torch.cat([part.flatten(0, -2) for part in features])


def in_placeholder_order(videos: Tensor, images: Tensor, placeholder: Tensor, of_video: Tensor) -> Tensor:
    """Visual features in the order of their placeholders, row by row.

    videos: (K, D), images: (I, D), each in order; placeholder: (B, L) bool, K + I of them True; of_video: (B, L)
    bool, True at the K of videos. Returns (K + I, D).
    """
    visual = torch.cat([videos, images.to(videos)])
    of_image = (placeholder & ~of_video).flatten()
    of_video = of_video.flatten()
    row = torch.where(of_video, of_video.cumsum(0) - 1, len(videos) + of_image.cumsum(0) - 1)  # (B * L,)
    places = placeholder.flatten().logical_not().byte().argsort(stable=True)[: len(visual)]
    return visual[row[places]]
