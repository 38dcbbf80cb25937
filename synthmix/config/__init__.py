"""The configuration: what can be set (``schema``) and how it is read (``load``)."""

from synthmix.config.schema import (
    MODES,
    DataConfig,
    EvaluationConfig,
    GenerationConfig,
    GridConfig,
    HardwareConfig,
    MixingConfig,
    ModelConfig,
    MonitoringConfig,
    StoreConfig,
    StudyConfig,
    TrainingConfig,
    WandbConfig,
)

__all__ = [
    "MODES",
    "DataConfig",
    "EvaluationConfig",
    "GenerationConfig",
    "GridConfig",
    "HardwareConfig",
    "MixingConfig",
    "ModelConfig",
    "MonitoringConfig",
    "StoreConfig",
    "StudyConfig",
    "TrainingConfig",
    "WandbConfig",
]
