"""What notebooks need beside the science: parameters that are checked, the recorded runs of the repository, tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nesf.config import Config
from nesf.errors import ConfigError, DataError
from nesf.files import read_json
from nesf.results import all_runs, paper_table, read_benchmark, read_run, run_folder, table

if TYPE_CHECKING:
    from pandas import DataFrame

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
BENCHMARKS = ("speed", "scaling", "profile", "agreement", "memory")
RESULTS = Path(__file__).resolve().parent.parent / "results"  # in a clone of the repository; a package installed without one has no recorded runs

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


def recorded_benchmark(name: str) -> dict[str, dict[str, Any]]:
    """What is recorded under `results/benchmarks/<name>`: kind (`BENCHMARKS`) to its content; a kind that was not measured is left out.

    Raises:
        DataError: nothing is recorded under that name, or a record is broken.
    """
    folder = RESULTS / "benchmarks" / name
    found = {kind: read_benchmark(folder, kind) for kind in BENCHMARKS if (folder / f"{kind}.json").exists()}
    if not found:
        names = sorted({p.parent.name for p in (RESULTS / "benchmarks").glob("*/speed.json")})
        raise DataError(
            f"{folder}: no such recorded benchmark; there are {', '.join(names) or 'none'}; make one with `make bench OUT=results/benchmarks/{name}`"
        )
    return found


def recorded_streaming() -> DataFrame:
    """What is recorded of training on streamed datasets (`streaming.json` under `results/benchmarks`), one row a measurement; empty where nothing is."""
    import pandas as pd

    lists = [
        value for file in sorted((RESULTS / "benchmarks").rglob("streaming.json")) for value in read_json(file).values() if isinstance(value, list)
    ]
    return pd.DataFrame([row for value in lists for row in value if isinstance(row, dict)]).dropna(axis=1, how="all").fillna("–")


def memory_table(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Recorded peak memory of decoding (`memory.json`), each case in a process of its own."""
    import pandas as pd

    columns = {r["case"]: (f"{r['particles']:,}", f"{r['atoms']:,}", f"{r['seconds']:.1f} s", f"{r['peak_memory_bytes'] / 1e9:.2f} GB") for r in rows}
    return pd.DataFrame(columns, index=["particles", "atoms found", "time", "peak memory"]).T


def agreement_table(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Recorded disagreement of the modes of decoding with the plain algorithm (`agreement.json`), per split."""
    import pandas as pd

    shown = [r for r in rows if "disagree" in r]
    table = pd.DataFrame(shown, columns=["split", "case", "crystals", "disagree", "largest_distance", "tolerance"]).set_index(["split", "case"])
    table["disagree, %"] = 100 * table["disagree"] / table["crystals"]
    return table.rename(columns={"largest_distance": "largest distance of the others, Å", "tolerance": "tolerance, Å"})


def speed_table(timings: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Recorded timings (`speed.json`): median seconds, the unit they are for, and the ratio to the plain reference of the same run."""
    import pandas as pd

    rows = {
        (t["group"], t["case"]): {
            "median": f"{t['median']:.3g} s"
            if t["median"] >= 0.1
            else f"{1e3 * t['median']:.3g} ms"
            if t["median"] >= 1e-4
            else f"{1e6 * t['median']:.3g} µs",
            "per": t["unit"],
            "rounds": t["rounds"],
            "times faster than plain": _ratio(t["ratio"]),
            "by the fastest rounds": _ratio(t["ratio_of_minima"]),
        }
        for t in timings
    }
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["what", "case"]))


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def config_table(configs: Mapping[str, Config]) -> DataFrame:
    """Where configurations differ: one row per key, one column per name."""
    import pandas as pd

    flat = {
        name: {
            f"{section}.{key}": str(value)
            for section, values in config.to_dict().items()
            if isinstance(values, dict)
            for key, value in values.items()
        }
        for name, config in configs.items()
    }
    table = pd.DataFrame(flat)
    return table[table.nunique(axis=1) > 1]


def recorded_summaries(dataset: str, *, split: str = "test", fold: int | None = None) -> dict[str, dict[str, Any]]:
    """What is recorded of a dataset: ours (preset cpu) and the predictors, as `metrics_table` takes them; {} where nothing is."""
    found = {}
    for name, method, preset in (
        ("ours", "nesf", "cpu"),
        ("copy", "copy", "default"),
        ("constant", "constant", "default"),
        ("oracle", "oracle", "default"),
    ):
        folder = run_folder(RESULTS, dataset, method, preset, seed=0, fold=fold)
        if (folder / "run.json").exists() and split in (metrics := read_run(folder).metrics):
            found[name] = metrics[split]
    return found


def trials_table(dataset: str, *, split: str = "val") -> DataFrame:
    """The recorded trials of a recipe (presets `trial-*`) and what came of them (`cpu`): settings, cost, and errors on the validation split."""
    import pandas as pd

    runs = [
        r for r in all_runs(RESULTS / dataset / "nesf") if (r.run["preset"].startswith("trial-") or r.run["preset"] == "cpu") and split in r.metrics
    ]
    keys = {
        "number_of_atoms_error_percent": "atoms, %",
        "position_error_actual_angstrom": "position, Å",
        "species_error_actual_percent": "species, %",
        "lattice_angle_error_degree": "angle, °",
    }
    rows = []
    for run in runs:
        sampling, training = run.run["config"]["sampling"], run.run["config"]["training"]
        share = sampling["global_share"]
        row = {
            "batch": training["batch_size"],
            "rate": training["learning_rate"],
            "queries": f"{sampling['n_position']} + {sampling['n_species']}",
            "global": "full grid's" if share is None else f"{share:g}",
            "epochs": training["epochs"],
            "weights": "lowest loss" if training["early_stopping"] else "last",
            "minutes": f"{run.run['wall_time_seconds']['train'] / 60:.1f}",
        }
        rows.append(row | {short: _text(k, run.metrics[split][k]) for k, short in keys.items()})
    names = ["cpu" if r.run["preset"] == "cpu" else "trial" for r in runs]
    return pd.DataFrame(rows, index=names).sort_values(["epochs", "batch", "rate"], kind="stable")


def presets_table(dataset: str, presets: Sequence[str], *, split: str = "val") -> DataFrame:
    """Recorded presets beside each other: epochs, minutes of training and errors, mean ± standard deviation over n seeds or folds."""
    import pandas as pd

    runs = [r for r in all_runs(RESULTS / dataset / "nesf") if r.run["preset"] in presets and split in r.metrics]
    errors = table(runs, split)
    columns = {}
    for name in presets:
        same, shown = [r.run for r in runs if r.run["preset"] == name], errors[errors["preset"] == name].set_index("metric")["text"]
        if not same:
            continue
        minutes = [r["wall_time_seconds"]["train"] / 60 for r in same]
        column = {"n": str(len(same)), "epochs": ", ".join(sorted({str(r["config"]["training"]["epochs"]) for r in same}))}
        column["training, minutes"] = " ".join(f"{m:.1f}" for m in minutes)
        columns[name] = column | {LABELS[k]: shown.get(k, "–") for k in LABELS if k in shown.index}
    return pd.DataFrame(columns)


def metrics_table(summaries: Mapping[str, Mapping[str, Any]], *, dataset: str, split: str = "test") -> DataFrame:
    """Methods beside each other, with the paper's own NeSF where it has the dataset.

    Args:
        summaries: name of the method to `Metrics.summary`.
        dataset: name; decides whether there is a column of the paper.
        split: train, val or test; likewise.

    Returns:
        One row per metric, one column per method; text, with the paper's number of digits.
    """
    import pandas as pd

    columns = {method: {k: _text(k, summary.get(k)) for k in LABELS} for method, summary in summaries.items()}
    published = paper_table().query("dataset == @dataset and method == 'nesf' and split == @split")
    if len(published):
        columns["paper"] = dict(zip(published["metric"], published["text"], strict=True))
    return pd.DataFrame(columns, index=list(LABELS)).fillna("–").rename(index=LABELS)


def _text(metric: str, value: float | int | None) -> str:
    """A number with the digits that the paper gives it."""
    if value is None:
        return "–"
    digits = 0 if metric.startswith("n_") else 4 if metric.startswith("position") or metric == "match_rmse" else 2
    return f"{value:.{digits}f}"
