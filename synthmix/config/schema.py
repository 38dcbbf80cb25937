"""Every setting of a study as a tree of dataclasses (OmegaConf structured configs).

A field's ``help`` is what ``synthmix run --help`` prints; units stand in the names or in ``unit``. Fields marked
``identity=False`` say where or how fast a cell runs, not what comes out: they stay out of a cell's hash. Fields marked
``since`` came after cells had been computed: they enter the hash where they differ from their default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def _key(
    default: Any, help: str, unit: str = "", choices: tuple[str, ...] = (), identity: bool = True, since: bool = False
) -> Any:
    metadata = {"help": help, "unit": unit, "choices": choices, "identity": identity, "since": since}
    if isinstance(default, (list, dict)) or callable(default):
        factory = default if callable(default) else lambda: type(default)(default)
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


MODES = ("replace", "augment", "accumulate", "recursive")
#: Confidence estimators, in the order of the item table's columns; see :mod:`synthmix.evaluation.confidence`.
CONFIDENCES = ("mean", "sum", "answer", "agreement", "p_true")
#: Filters of a pool; see :mod:`synthmix.generation.filters`.
FILTERS = ("none", "wellformed", "verified", "dedup", "diverse", "curated")
#: What a study can hold or move of a pool; see :mod:`synthmix.generation.levers`.
LEVERS = ("quality", "diversity", "complexity")
#: What writes the samples; see :mod:`synthmix.generation.backends`.
BACKENDS = ("synthmix", "transformers", "vllm")
#: Families whose memory in training is known; see :mod:`synthmix.models.memory`. Others are taken for llama.
ARCHITECTURES = ("gpt_neox", "opt", "llama")
OFFLOADS = ("none", "optimizer", "all")
LOSS_KERNELS = ("sliced", "liger")
#: How the devices of a cell share its training; see :mod:`synthmix.models.strategies`.
STRATEGIES = ("auto", "ddp", "fsdp2", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")


@dataclass
class ModelConfig:
    """A causal LM: one file under configs/model."""

    name: str = _key(MISSING, "name in tables and directories")
    source: str = _key("hub", "where the weights are", choices=("hub", "folder", "nano", "gguf"))
    id: str = _key(MISSING, "Hub repository, folder, nano ladder name, or Python package that ships a GGUF file")
    revision: str | None = _key(None, "Hub revision, pinned")
    gguf_file: str | None = _key(None, "GGUF file inside the folder or package (source: gguf)")
    parameters: int = _key(MISSING, "number of parameters, for tables and cost")
    context: int = _key(2048, "longest document the model takes", "tokens")
    learning_rate: float = _key(1e-5, "peak learning rate where training.learning_rate is null")
    layers: int | None = _key(None, "transformer layers, for cost; null: from its config.json", identity=False)
    width: int | None = _key(None, "heads x head size, for cost; null: from its config.json", identity=False)
    vocabulary: int | None = _key(
        None, "rows of the input embedding, for cost; null: from its config.json", "tokens", identity=False
    )
    tied: bool = _key(False, "the output head is the input embedding (with vocabulary)", identity=False)
    architecture: str | None = _key(
        None,
        "family that the layers are built like, for memory; null: from its config.json, else gpt_neox",
        choices=ARCHITECTURES,
        identity=False,
    )
    heads: int | None = _key(None, "attention heads, for memory; null: from its config.json", identity=False)
    kv_heads: int | None = _key(None, "heads of keys and values, for memory; null: as heads", identity=False)
    mlp_width: int | None = _key(None, "inner width of the MLP, for memory; null: 4 x width", identity=False)


@dataclass
class SlurmConfig:
    """How a site's SLURM is asked for the machine: ``sbatch`` options, and what a job does before it begins."""

    partition: str | None = _key(None, "--partition; null: the site's default")
    account: str | None = _key(None, "--account")
    qos: str | None = _key(None, "--qos")
    gpus: str | None = _key(None, "GPUs of a node, as --gres says it, e.g. gpu:a100:4; null: none is asked for")
    cpus_per_task: int = _key(1, "--cpus-per-task: cores for each device's process", "cores")
    memory: str | None = _key(None, "--mem of a node, e.g. 64G; null: the site's default")
    time: str | None = _key(None, "--time limit of a cell, e.g. 04:00:00; null: the partition's")
    warn_s: int = _key(180, "how long before the limit, or a preemption, a cell is told to save", "seconds")
    max_tasks: int | None = _key(None, "cells of an array that run at once (%K); null: as many as SLURM lets", "cells")
    modules: list[str] = _key(list, "modules that are loaded")
    setup: list[str] = _key(list, "shell lines before a cell, e.g. one that activates an environment")
    container: str | None = _key(None, "what a cell is run through, e.g. apptainer exec --nv image.sif")
    sbatch: list[str] = _key(list, "further options of sbatch")
    srun: list[str] = _key(list, "further options of srun")
    python: str | None = _key(None, "Python that runs a cell; null: the one that submits, in a container python3")


@dataclass
class HardwareConfig:
    """A machine profile: one file under configs/hardware."""

    name: str = _key("cpu", "name of the profile")
    accelerator: str = _key("cpu", "Lightning accelerator", choices=("cpu", "gpu"))
    devices: int = _key(1, "devices a cell trains on")
    nodes: int = _key(1, "nodes a cell trains on")
    precision: str = _key("32-true", "Lightning precision", choices=("32-true", "bf16-mixed", "bf16-true"))
    strategy: str = _key(
        "auto",
        "how devices share training: copies (ddp, which auto is with several), or parts (fsdp2; ZeRO's stages)",
        choices=STRATEGIES,
    )
    offload: str = _key(
        "none", "what ZeRO keeps off the device: the optimizer (stage 1 up), or parameters too (3)", choices=OFFLOADS
    )
    offload_folder: str | None = _key(None, "fast local disk that ZeRO-3 offloads to; null: the node's memory")
    micro_batch: int = _key(32, "examples a device takes at once; 32-example batches accumulate", "examples")
    activation_checkpointing: bool = _key(
        False, "compute a layer's activations again in backward instead of keeping them"
    )
    padding_free: bool = _key(False, "train on rows laid end to end, where attention keeps them apart without padding")
    compile: bool = _key(False, "torch.compile for training")
    loss_kernel: str = _key(
        "sliced", "output head and cross-entropy: our slices, or liger-kernel's (GPU)", choices=LOSS_KERNELS
    )
    inference_precision: str = _key(
        "32-true",
        "precision of evaluation and generation; another one makes other cells",
        choices=("32-true", "bf16-true"),
    )
    memory_gib: float | None = _key(None, "memory of a device; null: unknown, nothing is refused", "GiB")
    host_memory_gib: float | None = _key(None, "memory of a node, for what is offloaded; null: unknown", "GiB")
    threads: int | None = _key(None, "CPU threads a worker uses; null: cores / workers")
    peak_tflops: float | None = _key(None, "peak of a device at this precision, for cost; null: unknown", "TFLOP/s")
    train_utilisation: float = _key(0.3, "share of the peak that training is taken to reach until measured")
    read_utilisation: float = _key(0.05, "the same for reading prompts and scoring texts, in fp32")
    write_utilisation: float = _key(0.03, "the same for writing token by token, in fp32")
    slurm: SlurmConfig = _key(SlurmConfig, "")


@dataclass
class GridConfig:
    """Axes that differ from the study's own; null takes the study's. A study is the union of its grids."""

    tasks: list[str] | None = _key(None, "tasks")
    models: list[str] | None = _key(None, "models")
    modes: list[str] | None = _key(None, "mixing modes")
    proportions: list[float] | None = _key(None, "synthetic proportions")
    iterations: int | None = _key(None, "iterations")
    seeds: list[int] | None = _key(None, "seeds")


@dataclass
class MixingConfig:
    """How real and synthetic examples are put together."""

    holds: str = _key("dataset", "where the ratio holds", choices=("dataset", "batch"))
    nested: bool = _key(True, "the synthetic examples at 10 % are among those at 20 %; false: draws from pools of N")
    init_from: str = _key("previous", "weights that iteration t starts from", choices=("previous", "phase0", "base"))


@dataclass
class DataConfig:
    """Which records a cell sees."""

    root: str | None = _key(None, "folder with local data sets; null: $SYNTHMIX_DATA, else the Hub", identity=False)
    train_examples: int | None = _key(None, "size N of the training set; null: all", "examples")
    validation_examples: int = _key(200, "held out of train for monitoring, never the test set", "examples")
    test_examples: int | None = _key(None, "test items; null: all", "items")
    difficulty: float = _key(0.5, "difficulty of the nano tasks, 0 to 1")


@dataclass
class TrainingConfig:
    """Fine-tuning; the defaults are the paper's (section 3.4)."""

    epochs: int = _key(3, "passes over the training set")
    max_steps: int | None = _key(None, "stop after so many optimizer steps, for trials", "steps")
    learning_rate: float | None = _key(None, "peak learning rate; null: the model's own")
    batch_size: int = _key(32, "examples an optimizer step sees, whatever the hardware", "examples")
    weight_decay: float = _key(0.0, "AdamW weight decay (not on biases and norms)")
    betas: list[float] = _key([0.9, 0.999], "AdamW betas")
    warmup: float = _key(0.03, "share of the steps spent warming up")
    schedule: str = _key("linear", "learning rate after the warm-up", choices=("linear", "cosine", "constant"))
    gradient_clip: float = _key(1.0, "gradient norm is clipped to this; 0: off")
    loss: str = _key("document", "tokens that the loss covers", choices=("document", "completion"))
    max_tokens: int | None = _key(None, "longest training document; null: the model's context", "tokens")


@dataclass
class GenerationConfig:
    """How a model writes synthetic examples (phase 1)."""

    mode: str = _key("full", "what the model writes", choices=("full", "answer", "fewshot"))
    temperature: float = _key(0.8, "sampling temperature")
    top_p: float = _key(0.9, "nucleus mass")
    filter: str = _key("none", "which samples enter the pool", choices=FILTERS)
    consistency_samples: int = _key(
        5, "verified: answers sampled to a question where only other answers can tell", "samples"
    )
    perplexity_band: list[float] = _key(
        [0.1, 0.9], "curated: quantiles of the external documents' log-probability that bound the samples'"
    )
    max_tries: float = _key(5.0, "attempts for each example kept, before a pool counts as collapsed")
    shots: int = _key(3, "examples shown in fewshot mode", "examples")
    batch_size: int = _key(128, "sequences decoded together", "sequences", identity=False)
    backend: str = _key(
        "synthmix", "what writes: our engine, transformers' continuous batching, or vLLM", choices=BACKENDS, since=True
    )


@dataclass
class DesignConfig:
    """One lever of the pools moved while others are held: the pool is chosen out of a larger one."""

    move: str | None = _key(None, "lever that is moved: quality, diversity or complexity; null: no design")
    level: float = _key(0.5, "where to, 0 to 1 (quality: the share that is verified; else from least to most)")
    hold: list[str] = _key(list, "levers that stay as in a plain draw", choices=LEVERS)
    oversample: int = _key(3, "samples that pass the filter for each one chosen", "samples")


@dataclass
class EvaluationConfig:
    """What is measured on a trained cell."""

    bins: int = _key(10, "equal-width bins of the ECE")
    confidence: str = _key(
        "auto",
        "estimator behind the headline ECE; answer: mean where none is stated",
        choices=("auto", *CONFIDENCES),
    )
    p_true: bool = _key(
        False, "ask the model whether its answer is true: the confidence p_true (one more forward an item)"
    )
    diversity_samples: int = _key(200, "pool texts over which diversity is measured (fixed N)", "texts")
    pass_samples: int = _key(
        0, "further sampled answers an item, for pass@k and the confidence agreement; 0: none", "samples"
    )
    batch_size: int = _key(128, "sequences scored or decoded together", "sequences", identity=False)
    run_generated_code: bool = _key(
        False, "run programs written by a model (the nano code task always does)", identity=False
    )


@dataclass
class MonitoringConfig:
    """Early warning on the validation split: ECE against the phase 0 baseline."""

    warning: float = _key(0.5, "relative rise of the ECE that warns")
    critical: float = _key(1.0, "relative rise of the ECE that is critical")
    action: str = _key("log", "what a critical alert does to the chain", choices=("log", "halt", "reduce"))
    reduce_to: float = _key(0.5, "reduce: the next iteration's proportion is multiplied by this (recursive has none)")


@dataclass
class WandbConfig:
    """Weights & Biases; metrics.jsonl is the truth, a W&B run is a copy."""

    mode: str = _key("auto", "auto: online with a key, else offline", choices=("auto", "online", "offline", "disabled"))
    project: str = _key("synthmix", "project")
    entity: str | None = _key(None, "entity")
    timeout: float = _key(30.0, "how long sending a run may take; no cell waits for it", "seconds")


@dataclass
class StoreConfig:
    """Where cells live and what stays of them."""

    root: str = _key("runs", "folder of the store")
    keep: str = _key("leaves", "model folders that stay", choices=("none", "leaves", "all"))


@dataclass
class StudyConfig:
    """A study: one file under configs/study, or a path to one."""

    name: str = _key(MISSING, "name of the study", identity=False)
    tasks: list[str] = _key(MISSING, "tasks", identity=False)
    models: list[str] = _key(MISSING, "models: files under configs/model", identity=False)
    modes: list[str] = _key(["replace"], "mixing modes", choices=MODES, identity=False)
    proportions: list[float] = _key(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], "synthetic share of the training set, 0 to 1", identity=False
    )
    iterations: int = _key(1, "generations after the phase 0 baseline", identity=False)
    seeds: list[int] = _key([0, 1, 2], "seeds", identity=False)
    grids: list[GridConfig] = _key(list, "further grids, each with axes of its own", identity=False)
    mixing: MixingConfig = _key(MixingConfig, "")
    data: DataConfig = _key(DataConfig, "")
    training: TrainingConfig = _key(TrainingConfig, "")
    generation: GenerationConfig = _key(GenerationConfig, "")
    design: DesignConfig = _key(DesignConfig, "")
    evaluation: EvaluationConfig = _key(EvaluationConfig, "")
    monitoring: MonitoringConfig = _key(MonitoringConfig, "")
    wandb: WandbConfig = _key(WandbConfig, "", identity=False)
    store: StoreConfig = _key(StoreConfig, "", identity=False)
    hardware: str = _key("cpu", "profile: a file under configs/hardware", identity=False)
    hardware_of: dict[str, str] = _key(dict, "profile of a model, where it is not hardware", identity=False)
    workers: int = _key(
        1, "cells run at once on this machine; on GPUs each has one, in turns", "processes", identity=False
    )
