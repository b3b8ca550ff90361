"""Outputs of the published implementation on small cases (tests/data/goldens), and a ViT with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from safetensors.torch import load_file
from torch import Tensor
from transformers.models.molmo2.modeling_molmo2 import Molmo2VisionConfig, Molmo2VisionModel

from stts import insert_stts
from stts.hosts.molmo2 import Molmo2Vision, patch_grid
from stts.pruning.attention import install
from stts.pruning.config import STTSConfig
from stts.pruning.memory import Clips
from stts.pruning.packing import Packing
from stts.pruning.run import Run
from stts.pruning.scorer import STTSScorer
from tests.helpers.paths import DATA

FOLDER = DATA / "goldens"
_NAMES = {
    "transformer.resblocks.": "layers.",
    ".attention.wq": ".self_attn.q_proj",
    ".attention.wk": ".self_attn.k_proj",
    ".attention.wv": ".self_attn.v_proj",
    ".attention.wo": ".self_attn.o_proj",
    ".feed_forward.w1": ".mlp.fc1",
    ".feed_forward.w2": ".mlp.fc2",
    ".attention_norm": ".layer_norm1",
    ".ffn_norm": ".layer_norm2",
}
_SCORER_NAMES = {
    "patch_token_pooler.wq": "pooling.q_proj",
    "patch_token_pooler.wk": "pooling.k_proj",
    "patch_token_pooler.wv": "pooling.v_proj",
    "patch_token_pooler.wo": "pooling.o_proj",
    "mlp.w1": "fc1",
    "mlp.w2": "fc2",
    "mlp.w3": "fc3",
}
PUBLISHED_SCORER = "transformer.temporal_token_scorer."


@cache
def golden(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def case(name: str, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "/"): v for k, v in golden(name).items() if k.startswith(prefix + "/")}


def our_name(name: str) -> str:
    """A parameter's published name -> its name in the ViT of golden_vit."""
    if name.startswith(PUBLISHED_SCORER):
        for old, new in _SCORER_NAMES.items():
            name = name.replace(PUBLISHED_SCORER + old, "scorer." + new)
    for old, new in _NAMES.items():
        name = name.replace(old, new)
    return name


def golden_vit(name: str, heads: int, grid: int, patch: int, **stts) -> Molmo2VisionModel:
    """The golden ViT as transformers' tower with our scorer in it; by itself it prunes nothing."""
    weights = golden(name)
    dim, mlp = (
        weights["positional_embedding"].shape[1],
        len(weights["transformer.resblocks.0.feed_forward.w1.bias"]),
    )
    config = Molmo2VisionConfig(
        hidden_size=dim,
        intermediate_size=mlp,
        num_hidden_layers=7,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=dim // heads,
        image_size=[grid * patch, grid * patch],
        patch_size=patch,
    )
    settings = STTSConfig(prune_ratio=0, scorer_hidden_dims=(mlp, mlp), scorer_activation="silu", **stts)
    vit = insert_stts(Molmo2VisionModel(config), settings)
    scorer = {k: v for k, v in weights.items() if k.startswith(PUBLISHED_SCORER)}
    vit.scorer = STTSScorer.from_published(scorer, heads)
    host = {our_name(k): v for k, v in weights.items() if k not in scorer}
    missing, unexpected = vit.load_state_dict(host, strict=False)
    assert not unexpected
    assert all(k.startswith("scorer.") for k in missing)
    return vit.eval()


@dataclass(frozen=True)
class Features:
    """What blocks of a ViT said of the patches it kept."""

    hidden_states: dict[int, Tensor]
    """(K, D) of each block that was asked for, frame by frame."""
    packing: Packing
    keep: Tensor
    scores: Tensor
    """(F, W), like keep."""
    scored: Tensor


def encode(
    vit: Molmo2VisionModel, pixels: Tensor, stts: STTSConfig, videos: Sequence[int], layers: Sequence[int]
) -> Features:
    """Run a Molmo2 tower that has a scorer, pruning as stts says. videos: frames of each."""
    clips = Clips(tuple(videos), (patch_grid(vit.config),) * len(videos), 3)
    install(vit.config)
    run = Run(Molmo2Vision(vit), clips, stts.for_windows(3), vit.scorer, collect=layers)
    with run.active():
        Molmo2VisionModel.forward(vit, pixels)
    (found,) = run.groups
    return Features(run.collected, run.kept_packing, found.keep, found.scores, found.scored)
