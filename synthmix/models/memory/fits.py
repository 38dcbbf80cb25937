"""Whether a model fits on a machine profile, and which change, or which other profile, makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from synthmix.config import config_names, load_hardware
from synthmix.config.schema import HardwareConfig, ModelConfig, TrainingConfig
from synthmix.config.strategies import zero_stage
from synthmix.errors import ConfigError
from synthmix.models.memory.dimensions import Dimensions, dimensions_of
from synthmix.models.memory.estimate import ERROR, GIB, Need, inference_need, training_need
from synthmix.models.memory.states import world

#: Names of the parts, in the order in which they are told.
_PARTS = ("weights", "gradients", "optimizer", "activations", "loss", "cache", "communication", "buffers")


@dataclass(frozen=True)
class Fit:
    """What a model needs of a profile, beside what there is.

    Attributes:
        model: the model's name.
        hardware: the profile.
        length: tokens of the longest document.
        training, inference: the peaks; inference with one sequence at a time, since more are taken as they fit.
        sequences: how many can be decoded at once, at most as many as asked for; None where the memory is not known.
    """

    model: str
    hardware: HardwareConfig
    length: int
    training: Need
    inference: Need
    sequences: int | None

    @property
    def state(self) -> str:
        """``fits``, ``close`` (within the estimate's error of the limit), ``too much``, or ``unknown``."""
        if self.hardware.memory_gib is None:
            return "unknown"
        share = self.device_gib / self.hardware.memory_gib
        if self.hardware.host_memory_gib is not None:
            share = max(share, self.host_gib / self.hardware.host_memory_gib)
        return "too much" if share > 1 + ERROR else "close" if share > 1 / (1 + ERROR) else "fits"

    @property
    def device_gib(self) -> float:
        """GiB of a device, for whichever phase needs more."""
        return max(self.training.total, self.inference.total) / GIB

    @property
    def host_gib(self) -> float:
        """GiB of a node's memory that offloading takes."""
        return self.training.host_total / GIB


def examine(
    model: ModelConfig, hardware: HardwareConfig, length: int, batch_size: int = 32, sequences: int = 128
) -> Fit:
    """What a model needs of a profile.

    Args:
        model, hardware: the pair.
        length: tokens of the longest document.
        batch_size: examples of an optimizer step.
        sequences: those to be decoded at once.
    """
    return _fit(dimensions_of(model), hardware, length, batch_size, sequences)


def _fit(shape: Dimensions, hardware: HardwareConfig, length: int, batch_size: int, sequences: int) -> Fit:
    training = training_need(shape, hardware, length, batch_size)
    return Fit(
        shape.name, hardware, length, training, inference_need(shape, hardware, length, 1),
        sequences_that_fit(shape, hardware, length, sequences),
    )  # fmt: skip


def sequences_that_fit(shape: Dimensions, hardware: HardwareConfig, length: int, wanted: int) -> int | None:
    """How many sequences of ``length`` tokens can be decoded at once: ``wanted`` or fewer, and 1 at least.

    None where the profile does not say what a device has.
    """
    if hardware.memory_gib is None:
        return None
    limit = hardware.memory_gib * GIB / (1 + ERROR)
    one, two = (inference_need(shape, hardware, length, n).total for n in (1, 2))
    return max(1, min(wanted, 1 + int((limit - one) / (two - one)))) if two > one else wanted


def check_fits(
    model: ModelConfig, hardware: HardwareConfig, training: TrainingConfig, length: int, sequences: int = 128
) -> str | None:
    """Refuses a pair that cannot fit; returns a warning where it is too close to tell.

    Args:
        model, hardware, training: what would be run.
        length: tokens of the longest document.
        sequences: those to be decoded at once.

    Raises:
        ConfigError: with the arithmetic, and the nearest pair that fits.
    """
    found = examine(model, hardware, length, training.batch_size, sequences)
    if found.state in ("unknown", "fits"):
        return None
    if found.state == "close":
        return f"hardware = {hardware.name}: {model.name} may not fit: {_arithmetic(found)}"
    said = f"hardware = {hardware.name}: {model.name} does not fit: {_arithmetic(found)}. Expected "
    raise ConfigError(
        [said + (" or ".join(_nearest(found, model, training.batch_size, sequences)) or "a larger machine")]
    )


# -- in words ---------------------------------------------------------------------------------------------------------


def describe_fit(found: Fit) -> str:
    """One line: what a device, and a node, must have."""
    has = "" if found.hardware.memory_gib is None else f" of {found.hardware.memory_gib:g}"
    parts = _parts(found.training.device, found.training.reserve)
    said = f"training {found.training.total / GIB:.1f} GiB{has} a device ({parts})"
    if found.host_gib:
        node = "" if found.hardware.host_memory_gib is None else f" of {found.hardware.host_memory_gib:g}"
        said += f", {found.host_gib:.0f} GiB{node} a node"
    said += f"; evaluation and generation {found.inference.total / GIB:.1f} GiB"
    return said if found.sequences is None else f"{said}, and room for {found.sequences} sequences at once"


def _arithmetic(found: Fit) -> str:
    """What is too much, by part."""
    hardware = found.hardware
    need = found.training if found.training.total >= found.inference.total else found.inference
    said = []
    if hardware.memory_gib is not None and need.total / GIB > hardware.memory_gib / (1 + ERROR):
        asked = f"micro_batch {hardware.micro_batch}, documents of up to {found.length} tokens"
        asked = asked if need.phase == "training" else f"inference_precision {hardware.inference_precision}"
        said.append(
            f"{need.phase} takes about {need.total / GIB:.1f} GiB of a device with {hardware.memory_gib:g} (memory_gib): "
            f"{_parts(need.device, need.reserve)} ({asked})"
        )
    if hardware.host_memory_gib is not None and found.host_gib > hardware.host_memory_gib / (1 + ERROR):
        said.append(
            f"offloading takes about {found.host_gib:.0f} GiB of a node with {hardware.host_memory_gib:g} "
            f"(host_memory_gib): {_parts(found.training.host)}"
        )
    return "; ".join(said)


def _parts(parts: dict[str, float], reserve: float = 0.0) -> str:
    said = [f"{name} {parts[name] / GIB:.1f}" for name in _PARTS if parts.get(name, 0.0) >= 0.05 * GIB]
    return ", ".join(said + ([f"CUDA and fragmentation {reserve / GIB:.1f}"] if reserve else []))


# -- the nearest pair that fits ---------------------------------------------------------------------------------------


def _nearest(found: Fit, model: ModelConfig, batch_size: int, sequences: int) -> Iterator[str]:
    """The same profile with other keys, then another profile; each as words."""
    shape = dimensions_of(model)
    for changes in _changes(found.hardware):
        other = _fit(shape, replace(found.hardware, **changes), found.length, batch_size, sequences)
        if other.state == "fits":
            keys = ", ".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
            yield f"{keys} in its file ({other.device_gib:.1f} GiB{_of_node(other)})"
            break
    others = [_fit(shape, profile, found.length, batch_size, sequences) for profile in _profiles(found.hardware)]
    fitting = [other for other in others if other.state == "fits"]
    if fitting:
        best = min(fitting, key=lambda other: _distance(found.hardware, other.hardware))
        yield f"hardware={best.hardware.name} ({best.device_gib:.1f} GiB{_of_node(best)})"


def _distance(hardware: HardwareConfig, other: HardwareConfig) -> tuple[bool, bool, float]:
    """The same kind of device comes first, then what has least memory; what offloads is slow, and last."""
    memory = other.memory_gib or 0.0
    return other.offload != "none", memory != hardware.memory_gib, memory * world(other)


def _of_node(fit: Fit) -> str:
    return f" a device, {fit.host_gib:.0f} GiB a node" if fit.host_gib else " a device"


def _changes(hardware: HardwareConfig) -> Iterator[dict[str, Any]]:
    """Keys of a profile that save memory, those that cost least time first; a very small micro-batch comes late."""
    offloads = {0: ["none"], 3: ["none", "optimizer", "all"]}.get(zero_stage(hardware), ["none", "optimizer"])
    for precision in dict.fromkeys((hardware.inference_precision, "bf16-true")):
        for offload in offloads[offloads.index(hardware.offload) :]:
            for checkpointing in dict.fromkeys((hardware.activation_checkpointing, True)):
                micro, smallest = hardware.micro_batch, 1 if checkpointing else max(1, hardware.micro_batch // 4)
                while micro >= smallest:
                    keys = {
                        "micro_batch": micro, "activation_checkpointing": checkpointing, "offload": offload,
                        "inference_precision": precision,
                    }  # fmt: skip
                    yield {key: value for key, value in keys.items() if value != getattr(hardware, key)}
                    micro //= 2


def _profiles(hardware: HardwareConfig) -> Iterator[HardwareConfig]:
    """The other profiles under configs/hardware that say what a device has."""
    for name in config_names("hardware"):
        try:
            other = load_hardware(name)
        except ConfigError:
            continue
        if name != hardware.name and other.memory_gib is not None:
            yield other
