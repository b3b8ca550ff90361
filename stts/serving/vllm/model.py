"""A pruned Molmo2 under vLLM: our vision side, vLLM's LLM, dropped windows gone before the ViT's sixth block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.molmo2 import (
    Molmo2ForConditionalGeneration,
    Molmo2TextModel,
    _get_weights_with_merged_embedding,
)
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...data.processors.molmo2 import VIDEO_TOKEN
from ..layout import (
    COLUMNS,
    VISUAL,
    Stretch,
    embed,
    first_positions,
    lay_out,
    place_survivors,
    read_columns,
    with_columns,
)
from ..vision import VisionSide
from .attention import see_each_other
from .processing import Dummy, Info, Processor
from .settings import settings_of


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummy)
class STTSMolmo2ForConditionalGeneration(nn.Module, SupportsMultiModal):
    """What vLLM builds for folders whose config.json says this name."""

    supports_mrope = True
    """Three numbers a token in place of one position: see layout.first_positions."""
    supports_multimodal_pruning = True
    supported_video_pruning_methods = ("evs", "vidcom2")  # vLLM knows these; others: settings.chosen_settings
    hf_to_vllm_mapper = Molmo2ForConditionalGeneration.hf_to_vllm_mapper
    packed_modules_mapping = Molmo2ForConditionalGeneration.packed_modules_mapping

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return VIDEO_TOKEN

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        self.config = config = model_config.hf_config
        stts = settings_of(model_config)
        self.prunes, self.compact = stts.prune_ratio > 0, stts.position_ids == "compact"
        with self._mark_tower_model(vllm_config, "video"):
            self.vision = VisionSide(config, stts)
        text = config.text_config
        section = text.rope_parameters.pop("mrope_section")  # the runner's business: the LLM has plain RoPE
        with self._mark_language_model(vllm_config):
            self.model = Molmo2TextModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        text.rope_parameters["mrope_section"] = section
        self.lm_head = ParallelLMHead(text.vocab_size, text.hidden_size)
        self.logits_processor = LogitsProcessor(text.vocab_size)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors
        self.visual = see_each_other(self.model.layers)

    def get_language_model(self) -> nn.Module:
        return self.model

    # ------------------------------------------------------------------ what stands in a video's place

    def embed_multimodal(self, **kwargs: object) -> list[Tensor]:
        """An embedding for each placeholder of each video, with columns beside it where something is pruned."""
        if kwargs.get("pixel_values_videos") is None:
            return []
        frames = kwargs["video_grids"].view(-1, 3)[:, 0].tolist()
        counts = kwargs["video_num_ids"].flatten().tolist()
        videos = zip(
            self.vision.encode(kwargs["pixel_values_videos"], frames),
            kwargs["video_ids"].split(counts),
            kwargs["video_visual"].split(counts),
            strict=True,
        )
        return [self._rows(*video) for video in videos]

    def _rows(self, encoded: tuple[Tensor, Tensor], ids: Tensor, visual: Tensor) -> Tensor:
        features, keep = encoded
        span = lay_out(ids, visual, keep, self.config.image_patch_id, keep.numel() - len(features))
        embeds = embed(span, self.model.embed_input_ids, features)
        return with_columns(embeds, span) if self.prunes else embeds

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence) -> tuple[Tensor, int]:
        """Positions before the ViT has run."""
        stretches, flags = [], []
        for feature in mm_features:
            visual, where = feature.data["video_visual"].data, feature.mm_position
            stretches.append(Stretch(where.offset, where.length, len(visual)))
            flags.append(visual)
        rows, ahead = first_positions(len(input_tokens), stretches, self.compact)
        for stretch, visual in zip(stretches, flags, strict=True):
            if stretch.kept == stretch.total:  # nothing is dropped, so that all is known
                rows[1, stretch.start : stretch.start + stretch.kept] = visual.cpu().long() * VISUAL
        return rows, ahead

    def recompute_mrope_positions(
        self,
        input_ids: Sequence[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Take the columns off the embeddings, and say where their tokens stand. vLLM wants the last number, by
        which positions run ahead of tokens, on the host: the one wait a video, as with its own pruning models."""
        rows, embeds = mrope_positions, []
        for given in multimodal_embeddings:
            embedding, *where = read_columns(given)
            rows = place_survivors(rows, *where, self.compact)
            embeds.append(embedding)
        return embeds, rows, int(rows[0, -1]) + 1 - len(input_ids)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        width = self.config.text_config.hidden_size
        if any(x.shape[1] == width + COLUMNS for x in multimodal_embeddings or ()):
            raise RuntimeError("vLLM left the columns beside the embeddings: its runner does not prune")
        return SupportsMultiModal.embed_input_ids(
            self, input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )

    # ------------------------------------------------------------------ the LLM

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        self.visual.start(positions[1] == VISUAL)
        return self.model(input_ids, positions[0], intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        vision: list[tuple[str, Tensor]] = []

        def text() -> Iterable[tuple[str, Tensor]]:
            for name, tensor in weights:
                if VisionSide.owns(name):
                    vision.append((name, tensor))
                else:
                    yield name, tensor

        merged = _get_weights_with_merged_embedding(text())
        loaded = AutoWeightsLoader(self).load_weights(merged, mapper=self.hf_to_vllm_mapper)
        self.vision.load(vision)
        return loaded | {name for name, _ in self.named_parameters() if name.startswith("vision.")}
