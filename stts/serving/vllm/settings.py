"""What vLLM must know of a folder of ours before it builds the model, and what it is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform

from ...pruning.config import STTSConfig
from ..prompts import FPS
from .loader import BACKEND, FRAMES

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

logger = logging.getLogger("vllm.stts")

IN_FLIGHT = 4
"""Steps whose videos the cache of encoded ones must hold at once, so that none is prefilled in pieces."""


def settings_of(model_config: ModelConfig) -> STTSConfig:
    """The settings that are served, once ServedMolmo2 has seen them."""
    return STTSConfig.from_dict(model_config.hf_config.stts)


def chosen_settings(model_config: ModelConfig) -> STTSConfig:
    """The folder's settings, then --hf-overrides '{"stts": {...}}', then --video-pruning-rate and -method.

    "evs" is what vLLM says of the method where nobody chose one: the policy stays. A folder without settings is
    served unpruned unless one is given. Raises ValueError for policy "given".
    """
    saved = PreTrainedConfig.get_config_dict(model_config.model)[0].get("stts") or {"policy": "none"}
    stts = STTSConfig.from_dict(saved | (getattr(model_config.hf_config, "stts", None) or {}))
    asked = model_config.multimodal_config
    if asked.video_pruning_method != "evs":
        stts = stts.replace(policy=asked.video_pruning_method)
    if asked.video_pruning_rate is not None:
        stts = stts.replace(prune_ratio=asked.video_pruning_rate)
    if stts.policy == "given":
        raise ValueError('policy is "given", whose scores no request can bring: choose another one')
    return stts


class ServedMolmo2(VerifyAndUpdateConfig):
    """transformers' Molmo2Config and our settings, in vLLM's words."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        config, asked = model_config.hf_config, model_config.multimodal_config
        stts = chosen_settings(model_config)
        config.stts = stts.to_dict()
        logger.info(
            "stts serves %s: policy %s drops %.0f %% of each video's windows, positions are %s",
            model_config.model,
            stts.policy,
            100 * stts.prune_ratio,
            stts.position_ids,
        )
        asked.video_pruning_rate = stts.prune_ratio  # the hook for positions is called only where one is set
        defaults = {
            "video_backend": BACKEND,
            "num_frames": FRAMES,
            "fps": FPS,
            "size": config.vision_config.image_size[0],
        }
        asked.media_io_kwargs["video"] = defaults | asked.media_io_kwargs.get("video", {})
        text = config.text_config
        text.use_qk_norm = True
        text.rope_theta = text.rope_parameters["rope_theta"]
        # makes the runner keep three positions a token and ask us for them; the LLM has plain RoPE on the first
        text.rope_parameters["mrope_section"] = [text.head_dim // 2, 0, 0]
        # vLLM would let the tokens of each video's stretch see each other, timestamps too: attention.py knows better
        model_config.model_arch_config = replace(model_config.model_arch_config, is_mm_prefix_lm=False)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        parallel = vllm_config.parallel_config
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "decode_context_parallel_size"):
            if (size := getattr(parallel, name)) > 1:
                raise ValueError(
                    f"{name} is {size}, must be 1: models of stts are tested on one device; for more of them run "
                    "more servers, or --data-parallel-size"
                )
        if vllm_config.speculative_config is not None:
            raise ValueError("speculative decoding is not tested with models of stts: leave it out")
        scheduler = vllm_config.scheduler_config
        scheduler.disable_chunked_mm_input = True  # a video's tokens look at each other: all in one piece
        if current_platform.is_cpu():
            only_whole_prompts(vllm_config)
        else:
            only_flex_attention(vllm_config)
        longest = min(scheduler.max_num_batched_tokens, vllm_config.model_config.max_model_len)
        vllm_config.model_config.hf_config.most_video_tokens = longest


def only_whole_prompts(vllm_config: VllmConfig) -> None:
    """attention.OnCPU needs prompts with a video in one piece: no chunks, no prefix found in the cache."""
    scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
    length = vllm_config.model_config.max_model_len
    if cache.enable_prefix_caching:
        logger.warning("prefix caching is off: on a CPU models of stts take every prompt whole")
    cache.enable_prefix_caching = False
    scheduler.enable_chunked_prefill = False
    scheduler.long_prefill_token_threshold = 0
    if scheduler.max_num_batched_tokens < length:
        logger.warning(
            "max_num_batched_tokens is %d, now %d, max_model_len: on a CPU models of stts take every prompt whole",
            scheduler.max_num_batched_tokens,
            length,
        )
        scheduler.max_num_batched_tokens = length
    scheduler.max_num_encoder_input_tokens = scheduler.max_num_batched_tokens
    scheduler.encoder_cache_size = IN_FLIGHT * scheduler.max_num_batched_tokens


def only_flex_attention(vllm_config: VllmConfig) -> None:
    """The one backend on GPUs whose mask can be ours. Attention stays outside of CUDA graphs. Not run."""
    from vllm.config import CUDAGraphMode
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    chosen = vllm_config.attention_config.backend
    if chosen not in (None, AttentionBackendEnum.FLEX_ATTENTION):
        raise ValueError(
            f"--attention-backend is {chosen.name}, must be FLEX_ATTENTION: others cannot hold Molmo2's mask"
        )
    vllm_config.attention_config.backend = AttentionBackendEnum.FLEX_ATTENTION
    if vllm_config.compilation_config.cudagraph_mode is not CUDAGraphMode.NONE:
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.PIECEWISE
