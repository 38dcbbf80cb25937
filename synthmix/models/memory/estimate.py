"""What a model takes of a machine profile's devices, and of its nodes' memory: arithmetic, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from synthmix.config.schema import HardwareConfig
from synthmix.config.strategies import zero_stage
from synthmix.models.memory import activations
from synthmix.models.memory.dimensions import Dimensions
from synthmix.models.memory.states import States, numbers, states, world

GIB = 2.0**30
#: How far the estimate is taken to be off, as a share of it.
ERROR = 0.10
#: Bytes of a device that no tensor has: the CUDA context and its libraries, and a communicator's buffers where several
#: devices take part. Estimated, not yet measured.
CONTEXT, COMMUNICATOR = 0.75 * GIB, 0.75 * GIB
#: What is lost between blocks of the allocator, as a share of what tensors take. Estimated, not yet measured.
FRAGMENTATION = 0.03
#: Tokens, padding included, that reading prompts and scoring texts takes at once; see :mod:`synthmix.generation.engine`.
READ_TOKENS = 8192


@dataclass(frozen=True)
class Need:
    """Bytes at the moment when most is needed.

    Attributes:
        phase: ``training``, or ``inference``: evaluation and generation.
        moment: of training: ``loss`` (the end of forward), ``backward`` (its beginning), ``last layer``, ``first
            layer``, ``embedding``, or ``step``.
        device: by part, on each device: weights, gradients, optimizer, activations, loss, communication, cache.
        reserve: what no tensor has.
        host: by part, in each node's memory.
    """

    phase: str
    moment: str
    device: dict[str, float]
    reserve: float = 0.0
    host: dict[str, float] = field(default_factory=dict)

    @property
    def tensors(self) -> float:
        """What tensors take of a device: the allocator's own peak (``torch.cuda.max_memory_allocated``)."""
        return sum(self.device.values())

    @property
    def total(self) -> float:
        """Bytes of a device."""
        return self.tensors + self.reserve

    @property
    def host_total(self) -> float:
        """Bytes of a node's memory."""
        return sum(self.host.values())


def training_need(model: Dimensions, hardware: HardwareConfig, length: int, batch_size: int = 32) -> Need:
    """The peak of an optimizer step.

    Args:
        model: its sizes.
        hardware: the profile; of its keys those of strategy, precision and micro-batch.
        length: tokens of the longest document.
        batch_size: examples of a step, over all devices.
    """
    micro = min(hardware.micro_batch, -(-batch_size // world(hardware)))
    accumulates = micro * world(hardware) < batch_size
    found = states(model, hardware)
    moments = _moments(model, hardware, found, float(micro * length), accumulates)
    name, parts = max(moments.items(), key=lambda moment: sum(moment[1].values()))
    return Need("training", name, parts, _reserve(hardware, parts), found.host)


def _moments(
    model: Dimensions, hardware: HardwareConfig, found: States, tokens: float, accumulates: bool
) -> dict[str, dict[str, float]]:
    """Parts by moment: when the loss is known; in backward, at its beginning, in the first layer and in the embedding;
    when the optimizer steps."""
    kind, device, checkpointing = numbers(hardware), hardware.accelerator, hardware.activation_checkpointing
    loss, table, tables = _loss(model, hardware, tokens), kind.weight * float(model.table), 1 if model.tied else 2
    kept = activations.all_layers(model, tokens, kind, device, checkpointing)
    layer = activations.layer(model, tokens, kind, device)
    working = activations.backward(model, tokens, kind)
    there = accumulates or found.always
    some = found.gradients if there else 0.0
    most = found.gradients * (1.0 if there else 1 - (model.block + (tables - 1) * model.table) / model.parameters)
    # a gradient that is added to one that is there; a tied table has one of each use, and their sum
    adding = table if there and not found.always else 0.0
    last = adding + (0.0 if tables == 2 else 2 * table)
    copies = found.copies / (model.layers if checkpointing else 1)

    def at(gradients: float, held: float, beside: float = 0.0) -> dict[str, float]:
        always = {"weights": found.weights, "gradients": gradients, "optimizer": found.optimizer}
        travelling = found.communication + (found.gathered if held else 0.0)
        return always | {"activations": held, "loss": beside, "communication": travelling}

    head = 0.0 if there else table
    return {
        "loss": at(some, found.copies + kept, loss.forward),
        "backward": at(some, copies + kept, loss.backward),
        "last layer": at(some + head, copies + kept + working + (layer if checkpointing else 0.0)),
        "first layer": at(most, copies + layer + working),
        "embedding": at(found.gradients + last, 2 * tokens * model.width * kind.residual),
        "step": at(found.gradients + found.stepping, 0.0),
    }


def _loss(model: Dimensions, hardware: HardwareConfig, tokens: float) -> activations.Loss:
    if zero_stage(hardware) == 3:
        return activations.whole_loss(model, tokens, numbers(hardware))
    return activations.sliced_loss(model, tokens, numbers(hardware), hardware.accelerator)


def inference_need(model: Dimensions, hardware: HardwareConfig, length: int, sequences: int = 128) -> Need:
    """The peak of evaluation and generation; each device has a copy of the model.

    Args:
        model: its sizes.
        hardware: the profile; of its keys ``inference_precision``.
        length: tokens of the longest document, prompt included.
        sequences: those decoded together.
    """
    size = 2 if hardware.inference_precision == "bf16-true" else 4
    # keys and values, and as much again as the cache keeps to grow into
    cache = 2.0 * size * 2 * model.layers * model.kv_width * sequences * length
    tokens = float(max(READ_TOKENS, length))
    reading = size * tokens * (6 * model.width + 2 * model.mlp_width)
    choosing = 3.0 * 4 * sequences * model.vocabulary
    parts = {"weights": float(size * model.parameters), "cache": cache, "activations": reading + choosing}
    return Need("inference", "", parts, _reserve(hardware, parts))


def _reserve(hardware: HardwareConfig, parts: dict[str, float]) -> float:
    if hardware.accelerator == "cpu":
        return 0.0
    between = COMMUNICATOR if world(hardware) > 1 else 0.0
    return CONTEXT + between + FRAGMENTATION * sum(parts.values())
