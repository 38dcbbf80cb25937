"""Weights, gradients, optimizer and what travels between devices, in bytes, by strategy.

The stages are those of Rajbhandari et al. 2020 (arXiv 1910.02054, section 5) as DeepSpeed and Lightning carry them out;
AdamW has two moments. What ``precision`` means depends on the strategy:

* auto, ddp: ``bf16-mixed`` is autocast. Everything is kept in fp32, and backward holds bf16 copies of the matrices.
  ``bf16-true`` keeps everything, moments included, in bf16.
* deepspeed: both are DeepSpeed's bf16 engine. Weights are in bf16, and the optimizer has fp32 weights of its own beside
  its moments. Gradients are summed in fp32, which makes stage 1 keep all of them (its BF16_Optimizer). In ``32-true``
  the optimizer has a second copy too.
* fsdp2: weights, gradients and moments are kept in fp32; in bf16 of either kind a layer is gathered, and multiplied, in
  bf16.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from synthmix.config.schema import HardwareConfig
from synthmix.config.strategies import zero_stage
from synthmix.models.memory.activations import Numbers
from synthmix.models.memory.dimensions import Dimensions

#: Elements that ZeRO sends together, and that it steps together; see :mod:`synthmix.models.zero`.
BUCKET = {"cpu": 10_000_000, "gpu": 200_000_000}
SUB_GROUP = 1_000_000_000
#: Elements that ZeRO-3 gathers ahead of use, and those after which it lets go of what will be used again (DeepSpeed's
#: stage3_prefetch_bucket_size and stage3_max_reuse_distance). From the head, backward comes back over as much.
PREFETCH, REUSE = 50_000_000, 1_000_000_000
#: Elements of the buffers through which parameters come from a disk (Lightning's five of 1e8).
NVME_BUFFERS = 500_000_000


@dataclass(frozen=True)
class States:
    """Bytes on each device, and ``host`` in each node's memory.

    Attributes:
        weights, optimizer: at all times; the optimizer's are its fp32 weights, where it has some, and its moments.
        copies: of the weights, which autocast makes for forward and backward.
        gradients: of all parameters, once they are there.
        always: whether gradients have memory also when there are none.
        communication: buckets.
        gathered: layers that are whole for a while, in forward and backward.
        stepping: what the optimizer's step holds beside.
        host: what is offloaded, by part.
    """

    weights: float
    gradients: float
    optimizer: float
    copies: float = 0.0
    always: bool = False
    communication: float = 0.0
    gathered: float = 0.0
    stepping: float = 0.0
    host: dict[str, float] = field(default_factory=dict)


def world(hardware: HardwareConfig) -> int:
    """Devices that a cell trains on."""
    return hardware.devices * hardware.nodes


def numbers(hardware: HardwareConfig) -> Numbers:
    """Bytes of what a profile computes in."""
    if hardware.precision == "32-true":
        return Numbers(4, 4, 4)
    plain = hardware.strategy in ("auto", "ddp")
    return Numbers(2, 4, 4) if plain and hardware.precision == "bf16-mixed" else Numbers(2, 2, 2)


def states(model: Dimensions, hardware: HardwareConfig) -> States:
    """What training a model takes on a profile, without activations."""
    if zero_stage(hardware):
        found = _zero(model, hardware, zero_stage(hardware))
        return found if hardware.offload == "none" else _offloaded(model, hardware, found)
    return _fsdp2(model, hardware) if hardware.strategy == "fsdp2" else _copies(model, hardware)


def _copies(model: Dimensions, hardware: HardwareConfig) -> States:
    """Everything on each device; with several, buckets that gradients are reduced in."""
    size = 2 if hardware.precision == "bf16-true" else 4
    whole = float(size * model.parameters)
    copies = 2.0 * model.blocks if numbers(hardware).is_autocast else 0.0
    return States(whole, whole, 2 * whole, copies, communication=whole if world(hardware) > 1 else 0.0)


def _fsdp2(model: Dimensions, hardware: HardwareConfig) -> States:
    """A share of everything in fp32; embeddings and head gathered throughout, and two layers at a time.

    Gradients of a group are there in the precision of the products, and in fp32 while they are reduced.
    """
    share, size = 4.0 * model.parameters / world(hardware), numbers(hardware).compute
    outer = model.parameters - model.blocks
    gathered = size * (outer + 2 * model.block)
    return States(share, share, 2 * share, gathered=gathered + (size + 4) * max(model.block, outer))


def _zero(model: Dimensions, hardware: HardwareConfig, stage: int) -> States:
    n, share, size = float(model.parameters), float(model.parameters) / world(hardware), numbers(hardware).weight
    found = States(size * (share if stage == 3 else n), 4 * (n if stage == 1 else share), 12 * share, always=True)
    bucket = float(BUCKET[hardware.accelerator] * size)
    if stage == 3:
        gathered = size * min(n, REUSE / 2 + PREFETCH)
        return replace(found, communication=bucket, gathered=gathered, stepping=4 * min(share, SUB_GROUP))
    if stage == 1 and size == 2:  # BF16_Optimizer has no buckets
        return found
    buckets = bucket * (2 if hardware.accelerator == "gpu" else 1)  # one is filled while the other is sent
    return replace(found, communication=buckets, stepping=4 * share)


def _offloaded(model: Dimensions, hardware: HardwareConfig, device: States) -> States:
    """The optimizer, its gradients and, with ``offload: all``, the weights in the nodes' memory, or on their disks."""
    n, size = float(model.parameters) / hardware.nodes, numbers(hardware).weight
    stage = zero_stage(hardware)
    # gradients as the optimizer takes them, and as they are summed: stage 3 in fp32, the others as the weights are
    host = {"optimizer": 12 * n, "gradients": (4 + (4 if stage == 3 else size)) * n}
    weights = device.weights
    if hardware.offload == "all":
        host, weights = {"weights": size * n} | host, 0.0
    if hardware.offload_folder is not None:  # what is not on the disk: buffers of parameters, and of a sub-group
        step = 16 * min(model.parameters / world(hardware), SUB_GROUP)
        host = {"buffers": hardware.devices * (NVME_BUFFERS * size + step)}
    gradients = device.gradients if stage == 1 else 0.0
    # the largest gradient, on its way to the host
    buckets = device.communication + 4 * model.table
    return States(weights, gradients, 0.0, communication=buckets, gathered=device.gathered, host=host)
