"""Parts that train: ZeRO against the plain path, every strategy on a CPU, and utilisation and memory by speed option.

Every variant is a fit of the project's own (fit.py) in processes of its own, from the same weights on the same text.
What memory does not hold, or an option that this machine has not, is a figure too: ``{"error": ...}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import _machine
import _scale
from _machine import GIB, Options
from _scale import LEARNING_RATE

from synthmix.config import HardwareConfig, ModelConfig
from synthmix.models.flops import shape_of
from synthmix.models.memory import dimensions_of, training_need

#: How far a loss may be from the plain path's in bf16: with 8 bits of mantissa, weights that differ by rounding, and a
#: loss near 10, a tenth of a percent; and in fp32, where only the order of sums differs.
BF16_NOISE, FP32_NOISE = 2e-2, 2e-4

#: Errors that are what there is to know of a variant on this machine; others are tried again.
OUTCOMES = ("OutOfMemoryError", "OutOfMemory", "ConfigError", "UserError")

Variants = Mapping[str, dict[str, Any]]


def zero(size: str, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]) -> dict[str, Any]:
    """ZeRO-2 and ZeRO-3, and the plain path: fifty steps each, and how far apart the losses are."""
    variants: dict[str, dict[str, Any]] = {
        "plain": {"strategy": "auto", "devices": 1},
        "zero-2": {"strategy": "deepspeed_stage_2"},
        "zero-3": {"strategy": "deepspeed_stage_3"},
    }
    if size == "6.9b":  # where ZeRO has one device to share among, and fp32 gradients beside its bf16 ones
        variants["zero-3, optimizer offload"] = {"strategy": "deepspeed_stage_3", "offload": "optimizer"}
    return _fits(size, variants, options, save, found, options.steps or (4 if options.toy else 50))


def strategies(
    size: str, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]
) -> dict[str, Any]:
    """Every strategy beside one process."""
    variants: dict[str, dict[str, Any]] = {"plain": {"strategy": "auto", "devices": 1}, "ddp": {"strategy": "ddp"}}
    variants |= {f"zero-{stage}": {"strategy": f"deepspeed_stage_{stage}"} for stage in (1, 2, 3)}
    variants["fsdp2"] = {"strategy": "fsdp2"}
    return _fits(size, variants, options, save, found, options.steps or (4 if options.toy else 50))


def utilisation(
    size: str, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]
) -> dict[str, Any]:
    """Tokens a second, model FLOPs utilisation and peak memory of one device by speed option."""
    free = {"padding_free": True}
    variants: dict[str, dict[str, Any]] = {"sdpa": {}, "padding-free": free, "liger": free | {"loss_kernel": "liger"}}
    if not options.toy:  # the compiler's minute is no toy
        variants |= {
            "compile": {"compile": True},
            "padding-free, compile": free | {"compile": True},
            "padding-free, compile, liger": free | {"compile": True, "loss_kernel": "liger"},
            "padding-free, checkpointing": free | {"activation_checkpointing": True},
        }
    if size == "6.9b":
        variants["padding-free, bf16-true"] = free | {"precision": "bf16-true"}
    steps = options.steps or (4 if options.toy else 40)
    return _fits(size, {k: {**v, "devices": 1} for k, v in variants.items()}, options, save, found, steps)


def _fits(
    size: str,
    variants: Variants,
    options: Options,
    save: Callable[[dict[str, Any]], None],
    found: dict[str, Any],
    steps: int,
) -> dict[str, Any]:
    """Fits each variant that ``found`` has not; what there is goes to ``save`` after each."""
    model = _scale.described(size, options.toy)
    texts, text = _scale.documents(steps * options.batch, model.vocabulary or 0, options)
    folder = _scale.weights(size, options)
    figures = found | {
        "model": model.name, "parameters": model.parameters, "text": text, "batch": options.batch, "steps": steps,
        "variants": found.get("variants", {}), "complete": False, "error": None,
    }  # fmt: skip
    common = {
        "weights": str(folder), "documents": [document.ids for document in texts], "batch": options.batch,
        "steps": steps, "warmup": min(10, steps // 2), "learning_rate": LEARNING_RATE,
    }  # fmt: skip
    for name, changes in variants.items():
        if settled(figures["variants"].get(name)):
            continue
        if options.left < 30:
            return figures
        hardware = hardware_of(model, options, changes)
        refused = host_refusal(model, hardware, options)
        outcome = {"error": refused} if refused else _scale.run_fit(common | {"hardware": hardware}, options)
        figures["variants"][name] = _judged(outcome, model, options, figures["variants"].get(next(iter(variants))))
        say(name, figures["variants"][name])
        save(figures)
    failed = [name for name in variants if not settled(figures["variants"].get(name))]
    return figures | ({"error": f"failed: {', '.join(failed)}"} if failed else {"complete": True})


def host_refusal(model: ModelConfig, keys: Mapping[str, Any], options: Options) -> str | None:
    """Why a fit that offloads is not started; a host whose memory is gone ends processes without a word."""
    need = training_need(dimensions_of(model), HardwareConfig(**keys), _scale.longest(), options.batch).host_total / GIB
    has = _machine.host_gib()
    if need <= has:
        return None
    return f"OutOfMemory: offloading would take about {need:.0f} GiB of the host's memory, of which {has:.0f} are left"


def settled(row: dict[str, Any] | None) -> bool:
    """Whether there is nothing to run again: figures, or that memory does not hold it or the project refuses it."""
    return row is not None and row.get("error", "").split(":")[0] in ("", *OUTCOMES)


def hardware_of(model: ModelConfig, options: Options, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of HardwareConfig; on a GPU the most examples at once that the estimator holds to fit, with activations
    computed again where not even a quarter of the most fits otherwise: a few rows alone leave a GPU idle."""
    gpu = options.accelerator == "gpu"
    keys = {"name": "scale", "accelerator": options.accelerator, "devices": options.devices,
            "precision": "bf16-mixed" if gpu else "32-true", "micro_batch": 4, **changes}  # fmt: skip
    most = max(1, options.batch // keys["devices"])
    if not gpu:
        return keys | {"micro_batch": min(keys["micro_batch"], most)}
    dimensions, memory = dimensions_of(model), _machine.gpus()[0]["memory_gib"]
    assert dimensions is not None
    micro_batches = [size for size in (32, 16, 8, 4, 2, 1) if size <= most]
    for again, sizes in ((False, micro_batches[:3]), (True, micro_batches)):
        for micro_batch in sizes:
            tried = {**keys, "micro_batch": micro_batch}
            tried |= {"activation_checkpointing": True} if again else {}
            need = training_need(dimensions, HardwareConfig(**tried), _scale.longest(), options.batch)
            if need.total / GIB <= memory:
                return tried
    return {**keys, "micro_batch": 1, "activation_checkpointing": True}  # the estimate may be wrong: tried all the same


def _judged(
    outcome: dict[str, Any], model: ModelConfig, options: Options, first: dict[str, Any] | None
) -> dict[str, Any]:
    """With utilisation, the estimator's memory, and the distance from the losses of the first variant."""
    if "error" in outcome:
        return outcome
    flops = shape_of(model).training(outcome["tokens"], outcome["mean_length"])
    outcome["model_tflops_per_device"] = flops / outcome["seconds"] / outcome["hardware"]["devices"] / 1e12
    peak = _machine.peak_tflops() if options.accelerator == "gpu" else None
    outcome["estimated_gib"] = _estimated(outcome, model)
    outcome["peak_tflops"], outcome["mfu"] = peak, outcome["model_tflops_per_device"] / peak if peak else None
    if first is not None and "losses" in first:
        pairs = list(zip(outcome["losses"], first["losses"], strict=True))
        noise = BF16_NOISE if options.accelerator == "gpu" else FP32_NOISE
        outcome["loss_difference"] = max(abs(a - b) for a, b in pairs)
        outcome["within_noise"], outcome["noise"] = outcome["loss_difference"] <= noise, noise
    return outcome


def _estimated(outcome: dict[str, Any], model: ModelConfig) -> float:
    """What the estimator says that tensors take of a device (GiB), for the fullest micro-batch that there was."""
    hardware = HardwareConfig(**outcome["hardware"])
    dimensions = dimensions_of(model)
    assert dimensions is not None
    length = outcome["fullest_tokens"] / hardware.micro_batch
    return training_need(dimensions, hardware, length, outcome["batch"]).tensors / GIB


def say(name: str, row: dict[str, Any]) -> None:
    """A line of the log."""
    if "error" in row:
        print(f"  {name}: {row['error'].splitlines()[0][:150]}", flush=True)
        return
    mfu = f", MFU {100 * row['mfu']:.1f} %" if row.get("mfu") else ""
    apart = f", losses within {row['loss_difference']:.1e} of the first" if "loss_difference" in row else ""
    peak = max(next(iter(rank.values())) for rank in row["peak_gib"])
    print(f"  {name}: {row['tokens_per_s']:,.0f} tokens/s{mfu}, peak {peak:.2f} GiB a rank, "
          f"last loss {row['losses'][-1]:.4f}{apart}", flush=True)  # fmt: skip
