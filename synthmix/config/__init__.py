"""The configuration: what can be set (``schema``) and how it is read (``load``, ``hardware``)."""

from synthmix.config.hardware import load_hardware
from synthmix.config.load import (
    config_names,
    describe,
    find_config,
    load_model,
    load_study,
)
from synthmix.config.schema import (
    CONFIDENCES,
    MODES,
    DataConfig,
    EvaluationConfig,
    GenerationConfig,
    GridConfig,
    HardwareConfig,
    MixingConfig,
    ModelConfig,
    MonitoringConfig,
    SlurmConfig,
    StoreConfig,
    StudyConfig,
    TrainingConfig,
    WandbConfig,
)

__all__ = [
    "CONFIDENCES",
    "MODES",
    "DataConfig",
    "EvaluationConfig",
    "GenerationConfig",
    "GridConfig",
    "HardwareConfig",
    "MixingConfig",
    "ModelConfig",
    "MonitoringConfig",
    "SlurmConfig",
    "StoreConfig",
    "StudyConfig",
    "TrainingConfig",
    "WandbConfig",
    "config_names",
    "describe",
    "find_config",
    "load_hardware",
    "load_model",
    "load_study",
]
