"""What most pages begin with: the dataset and the trained model that their parameters name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nesf
from nesf_studies.pages.common import recorded_run

if TYPE_CHECKING:
    from nesf.data.dataset import Dataset
    from nesf.saved import TrainedModel


def open_dataset(dataset: str, fold: int = -1, mirror: str = "", data_dir: str = "") -> Dataset:
    """The dataset that a notebook's parameters name, fetched where it is not at hand; prints which it is.

    Args:
        dataset: name or path.
        fold: of a cross-validation; -1: none.
        mirror: copy of the official release; empty: download.
        data_dir: folder of datasets; empty: the user's default.

    Raises:
        DataError: there is no such dataset, or it cannot be had.
    """
    from nesf import data

    folder, copy = (Path(text) if text else None for text in (data_dir, mirror))
    crystals = data.load(dataset, fold=None if fold < 0 else fold, mirror=copy, data_dir=folder, fetch=True)
    print(f"nesf {nesf.__version__}, dataset {crystals.label}, hash {crystals.hash()[:12]}")
    return crystals


def open_model(run: str, crystals: Dataset, *, device: str = "auto") -> tuple[TrainedModel, Path]:
    """The trained model that a notebook's parameters name, and its folder; prints what it was trained on.

    Args:
        run: folder of the run; empty: the one that is recorded for the dataset.
        crystals: the dataset of the page.
        device: auto, cpu, cuda.

    Raises:
        DataError: there is no model, or none is recorded for the dataset.
    """
    from nesf.saved import TrainedModel

    folder = Path(run) if run else recorded_run(crystals.name, fold=crystals.fold)
    model = TrainedModel.load(folder, device)
    print(f"model trained on {model.dataset['name']}, {model.info['epochs_trained']} epochs")
    if model.dataset["hash"] != crystals.hash():
        print("careful: not on this data")
    return model, folder
