"""What every page needs: checked parameters, dataset, model, recorded runs, names of metrics.

torch is loaded by `open_dataset` and `open_model` only, so that a notebook's first cell can check
its parameters at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nesf
from nesf.methods import run_folder
from nesf_io.errors import ConfigError, DataError
from nesf_studies.reads import is_there, watch

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
# the paper's datasets, in the order of its Table 1
TITLES = {"icsg3d": "ICSG3D", "lcs6": "LCS6Å", "ybco": "YBCO-like"}
TABLE1 = tuple(LABELS)[:7]  # the metrics of the paper's tables
# in a clone of the repository; a package installed without one has no recorded runs
RESULTS = Path(__file__).resolve().parents[1] / "results"

_IPYTHON_NAMES = {"In", "Out", "exit", "quit", "get_ipython", "open"}
_EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def limit_threads() -> None:
    """Use one thread on a machine of up to 4 cores, unless OMP_NUM_THREADS is set."""
    # two threads wait for each other as soon as something else runs
    if "OMP_NUM_THREADS" not in os.environ and (os.cpu_count() or 1) <= 4:
        os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that are loaded from now on
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)


def check_parameters(namespace: MutableMapping[str, Any], **choices: Sequence[Any]) -> None:
    """Refuse unknown names and values among a notebook's `globals()`, which papermill lets pass.

    A notebook calls it right after its cell tagged `parameters`, whose declarations, `name: type =
    value  # help`, say which parameters there are; `choices` are the values that some of them may
    take.

    Raises:
        ConfigError: a name that is not declared, a value of another type, or none of its choices;
            the message names it.
    """
    declared: dict[str, type] = namespace.get("__annotations__", {})
    # when cells are run again by hand, the notebook's own variables are there too
    if not namespace.get("_parameters_checked"):
        given = {
            k
            for k, v in namespace.items()
            if not k.startswith("_") and not isinstance(v, ModuleType) and v is not check_parameters
        }
        unknown = sorted(given - set(declared) - _IPYTHON_NAMES)
        if unknown:
            raise ConfigError(
                f"{unknown[0]!r} is not a parameter of this notebook; its parameters are {', '.join(declared)}"
            )
    for name, kind in declared.items():
        value = namespace[name]
        if not isinstance(value, int | float if kind is float else kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            raise ConfigError(f"parameter {name} = {value!r}: {_EXPECTED[kind]} is expected")
        if name in choices and value not in choices[name]:
            raise ConfigError(
                f"parameter {name} = {value!r}: choose from {', '.join(map(str, choices[name]))}"
            )
    namespace["_parameters_checked"] = True
    limit_threads()
    watch()
    from nesf_studies.style import use_svg  # loads matplotlib

    use_svg()


def open_dataset(dataset: str, fold: int = -1, mirror: str = "", data_dir: str = "") -> Dataset:
    """Load the dataset that a notebook's parameters name, or fetch it, and print which it is.

    A fold of -1 is none; without `mirror`, a copy of the official release, it is downloaded;
    without `data_dir` datasets lie in the user's default folder.
    """
    from nesf.data import load

    folder, copy = (Path(text) if text else None for text in (data_dir, mirror))
    crystals = load(
        dataset, fold=None if fold < 0 else fold, mirror=copy, data_dir=folder, fetch=True
    )
    print(f"nesf {nesf.__version__}, dataset {crystals.label}, hash {crystals.hash()[:12]}")
    return crystals


def open_model(run: str, crystals: Dataset, *, device: str = "auto") -> tuple[TrainedModel, Path]:
    """Load the model of a run (empty: the one recorded for the dataset), and print its training."""
    from nesf.saved import TrainedModel

    folder = Path(run) if run else recorded_run(crystals.name, fold=crystals.fold)
    model = TrainedModel.load(folder, device)
    print(f"model trained on {model.dataset['name']}, {model.info['epochs_trained']} epochs")
    if model.dataset["hash"] != crystals.hash():
        print("careful: not on this data")
    return model, folder


def recorded_run(
    dataset: str,
    *,
    method: str = "nesf",
    preset: str = "cpu",
    seed: int = 0,
    fold: int | None = None,
) -> Path:
    """Return the folder of a run that is recorded in the repository.

    Raises:
        DataError: it is not recorded; the message names the command that makes it.
    """
    folder = run_folder(RESULTS, dataset, method, preset, seed=seed, fold=fold)
    if not is_there(folder / "run.json"):
        command = f"nesf run {dataset} --preset {preset} {f'--seed {seed}' if fold is None else f'--fold {fold}'} --out DIR"
        raise DataError(
            f"{folder}: no such recorded run; make one with `{command}` and give its folder as parameter `run`"
        )
    return folder


def unbroken(text: str) -> str:
    """Replace spaces by no-break spaces."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def digits(metric: str) -> int:
    """Return the number of decimals that the paper gives a metric."""
    return (
        0
        if metric.startswith("n_")
        else 4
        if metric.startswith("position") or metric == "match_rmse"
        else 2
    )


def number_text(metric: str, value: float | None) -> str:
    """Write a value with the paper's number of decimals; – where it is undefined (None or NaN)."""
    return "–" if value is None or value != value else f"{value:.{digits(metric)}f}"
