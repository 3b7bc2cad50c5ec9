"""Parameters that are checked, the recorded runs of the repository, and how metrics are named and written."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nesf
from nesf.errors import ConfigError, DataError
from nesf.methods import run_folder
from nesf_studies.paper import digits

if TYPE_CHECKING:
    from nesf.data.dataset import Dataset
    from nesf.saved import TrainedModel

LABELS = {
    "number_of_atoms_error_percent": "number of atoms, %",
    "position_error_actual_angstrom": "position (actual), Å",
    "position_error_detected_angstrom": "position (detected), Å",
    "species_error_actual_percent": "species (actual), %",
    "species_error_detected_percent": "species (detected), %",
    "lattice_length_error_angstrom": "lattice length, Å",
    "lattice_angle_error_degree": "lattice angle, °",
    "match_rate_percent": "match rate, % (higher is better)",
    "match_rmse": "match RMSE, (V/N)^⅓",
    "n_nothing_detected": "crystals with nothing detected",
}
TITLES = {"icsg3d": "ICSG3D", "lcs6": "LCS6Å", "ybco": "YBCO-like"}  # the paper's datasets, in the order of its Table 1
TABLE1 = tuple(LABELS)[:7]  # the metrics of the paper's tables
RESULTS = Path(__file__).resolve().parents[1] / "results"  # in a clone of the repository; a package installed without one has no recorded runs

_OF_IPYTHON = {"In", "Out", "exit", "quit", "get_ipython", "open"}
_EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def check_parameters(namespace: MutableMapping[str, Any], **choices: Sequence[Any]) -> None:
    """Refuse unknown names and unusable values: papermill only warns of the former, and takes any of the latter. A notebook calls it first of all, right after its cell tagged `parameters`.

    The declarations in that cell, `name: type = value  # help`, say which parameters there are and what they hold.

    Args:
        namespace: the notebook's `globals()`.
        choices: parameter to the values that it may take.

    Raises:
        ConfigError: a name that is not declared, a value of another type, or none of its choices; the message names it.
    """
    declared: dict[str, type] = namespace.get("__annotations__", {})
    if not namespace.get("_parameters_checked"):  # when cells are run again by hand, the notebook's own variables are there too
        given = {k for k, v in namespace.items() if not k.startswith("_") and not isinstance(v, ModuleType) and v is not check_parameters}
        unknown = sorted(given - set(declared) - _OF_IPYTHON)
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not a parameter of this notebook; its parameters are {', '.join(declared)}")
    for name, kind in declared.items():
        value = namespace[name]
        fits = isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))
        if not fits:
            raise ConfigError(f"parameter {name} = {value!r}: {_EXPECTED[kind]} is expected")
        if name in choices and value not in choices[name]:
            raise ConfigError(f"parameter {name} = {value!r}: choose from {', '.join(map(str, choices[name]))}")
    namespace["_parameters_checked"] = True


def recorded_run(dataset: str, *, method: str = "nesf", preset: str = "cpu", seed: int = 0, fold: int | None = None) -> Path:
    """The folder of a run that is recorded in the repository.

    Raises:
        DataError: it is not recorded; the message names the command that makes it.
    """
    folder = run_folder(RESULTS, dataset, method, preset, seed=seed, fold=fold)
    if not (folder / "run.json").exists():
        chosen = f"--fold {fold}" if fold is not None else f"--seed {seed}"
        raise DataError(
            f"{folder}: no such recorded run; make one with `nesf run {dataset} --preset {preset} {chosen} --out DIR` and give its folder as parameter `run`"
        )
    return folder


def unbroken(text: str) -> str:
    """With spaces at which a line is not broken."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def number_text(metric: str, value: float | int | None) -> str:
    """A number with the digits that the paper gives it."""
    if value is None:
        return "–"
    return f"{value:.{digits(metric)}f}"


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
