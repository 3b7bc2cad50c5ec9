"""The voxel baseline and its oracle as methods of `nesf`; added by the entry point `nesf.methods`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.methods import Predictor, TrainedMethod
from nesf_icsg3d import config as icsg3d_config
from nesf_icsg3d.config import VoxelBaselineConfig

if TYPE_CHECKING:
    from nesf.crystals import Crystals
    from nesf.data.dataset import Dataset


def _load(folder: Path, device: str) -> Any:
    from nesf_icsg3d.baseline import VoxelBaseline

    return VoxelBaseline.load(folder, device)


def _preset(name: str, dataset: str) -> VoxelBaselineConfig:
    return icsg3d_config.for_dataset(icsg3d_config.preset(name), dataset)


def _oracle(dataset: Dataset, split: str, config: Any, progress: bool) -> Crystals:
    from nesf_icsg3d.segmentation import oracle

    return oracle(dataset.split(split), config.voxels, config.decoding, progress=progress)


METHODS = (
    TrainedMethod(
        "icsg3d",
        _preset,
        "repaired",
        config_class=VoxelBaselineConfig,
        training="nesf_icsg3d.training",
        machine_decides={"training": {"precision": "auto"}},
        load=_load,
        reconstruct=lambda model, crystals, decoding, progress: model.reconstruct(
            crystals, decoding, seed=model.info["seed"], progress=progress
        ),
        keeps_maps=True,
    ),
    Predictor(
        "icsg3d-oracle",
        lambda name, dataset: _preset(name, dataset).oracle(),
        "repaired",
        predict=_oracle,
    ),
)
