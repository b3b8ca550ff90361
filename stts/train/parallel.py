"""One model over many devices: sharded with torch's fully_shard (FSDP2), its checkpoints, and back in one piece.

DDP keeps a whole copy on every device and needs nothing from here. Sharded, a device holds its share of every tensor;
the processes gather a unit's weights together just before it runs. So all of them must run the same units in the same
order, whatever is in their batches: `lockstep` of the model sees to that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.checkpoint.state_dict import set_state_dict as put_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from ..files.shards import ShardReader
from ..hosts.base import Host

SHARDS = "shards"
"""Folder of a checkpoint that holds weights and optimizer state, in torch's distributed format."""


def units(model: nn.Module) -> list[nn.Module | list[nn.Module]]:
    """What is gathered and freed at a time: each ViT block, the scorer, the adapter, each LLM layer. Embeddings, last
    norm and head are gathered with the model itself."""
    host = model.host
    adapter = [model.get_submodule(path) for path in host.adapter_at]
    adapter = [part for one in adapter for part in (one if isinstance(one, nn.ModuleList) else [one])]
    return [*host.blocks, host.scorer, adapter, *host.layers]


def shard(
    model: nn.Module, device: torch.device, num_processes: int, bf16: bool, reshard: bool = True
) -> nn.Module:
    """Shard a pruning model over all processes, in place.

    bf16: weights are gathered in bfloat16, gradients summed in float32, shards and optimizer stay as they are;
    reshard: free a unit's weights after its forward pass and gather them again in the backward pass. Raises
    ValueError for a model that cannot run in lockstep.
    """
    if type(model.host).still is Host.still:
        raise ValueError(f"a {type(model).__name__} cannot be sharded yet: train it with parallel=ddp")
    mesh = init_device_mesh(device.type, (num_processes,))
    _begin_alike(model, device)
    policy = MixedPrecisionPolicy()
    if bf16:  # inputs are left to autocast, under which training runs anyway
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for unit in units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model.host.scorer, "score_windows")
    model.lockstep = True
    return model


def _begin_alike(model: nn.Module, device: torch.device) -> None:
    """Give every process the weights of the first, as DDP does: shards of different fresh weights would not fit."""
    for tensor in (*model.parameters(), *model.buffers()):
        sent = tensor.detach().to(device)
        dist.broadcast(sent, 0)
        tensor.detach().copy_(sent)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on a model."""
    return isinstance(model, FSDPModule)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a norm over all of them, shards of all processes included; returns that norm, ()."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def write_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write weights and optimizer state, every process its share. All processes must call it together.

    Raises OSError when it cannot be written.
    """
    try:
        with _one_process_is_fine():
            dcp.save(_tensors(*_state(model, optimizer)), storage_writer=dcp.FileSystemWriter(folder))
    except CheckpointException as error:
        reasons = "; ".join(f"process {rank}: {why}" for rank, (why, _) in error.failures.items())
        raise OSError(f"{folder}: {reasons}") from error


def read_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Inverse of write_shards, on any number of processes. Only tensors are read, and no code is run.

    Raises ValueError when the folder does not hold this model's tensors.
    """
    weights, moments = _state(model, optimizer)
    tensors, reader = _tensors(weights, moments), ShardReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    for name in tensors:  # anything else would be unpickled
        if not isinstance(stored.get(name), TensorStorageMetadata):
            raise ValueError(f"{folder} holds no tensor {name}")
    with _one_process_is_fine():
        dcp.load(tensors, storage_reader=reader)
    put_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_options())


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    """Shards may be written and read by one process; torch would warn each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        yield


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """Weights by name; optimizer state as "state.<name>.<what>" and settings, which are no tensors."""
    return get_state_dict(model, optimizer, options=_options())


def _options() -> StateDictOptions:
    return StateDictOptions(flatten_optimizer_state_dict=True)


def _tensors(weights: dict, moments: dict) -> dict[str, Tensor]:
    """What goes to disk: everything but the optimizer's settings, which the run's own settings give."""
    state = {f"model.{name}": value for name, value in weights.items()}
    return state | {f"optim.{name}": value for name, value in moments.items() if isinstance(value, Tensor)}


def gather(model: nn.Module) -> dict[str, Tensor]:
    """All weights, whole, in the memory of the first process; {} elsewhere. All processes must call it together."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def in_one_piece(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A model of the class and settings of a sharded or otherwise changed one, with these weights, on the CPU."""
    cls = type(model)
    cls = cls.__bases__[1] if is_sharded(model) else cls
    with torch.device("meta"):  # no memory, and no random numbers drawn
        whole = cls(copy.deepcopy(model.config))
    whole.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():
        set_module_tensor_to_device(whole, name, "cpu", buffer.cpu())
    whole.generation_config = model.generation_config
    return whole.train(model.training)
