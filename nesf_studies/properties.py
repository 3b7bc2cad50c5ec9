"""Properties predicted from latent vectors (Supplementary Note 4, Table S3).

The references are the mean of training and two descriptions of the composition alone. The network
never sees a property. Three regression methods of scikit-learn predict it from the latent vectors,
with the paper's settings and with settings chosen on the validation split. The test split chooses
nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pymatgen.core import Element
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import mean_squared_error
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf.data.dataset import SPLITS, Dataset
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError, DataError
from nesf_studies.style import NESF, SECOND, TRIVIAL, name_rows, subplots

# the rows of Table S3, and their units
PAPERS = {"energy_above_hull": "eV/atom", "total_magnetization": "µB", "band_gap": "eV"}
GEOMETRY = {"volume_per_atom": "Å³", "n_atoms": "atoms"}  # known of every crystal
Splits: TypeAlias = Mapping[str, np.ndarray]  # split name to an array with a row a crystal
LATENT, COMPOSITION, FRACTIONS, MEAN = (
    "latent vector",
    "composition",
    "element fractions",
    "mean of training",
)
REGRESSORS = ("SVR", "kNN", "MLP")
NEIGHBOURS = (1, 2, 3, 5, 10, 20)  # k tried on the validation split
PENALTIES = (1.0, 10.0, 100.0)  # C of the SVR tried on the validation split, on standardised values
EPOCHS_BETWEEN = 10  # after so many the MLP is compared on the validation split
PROPERTIES = {
    name: f"{name.replace('_', ' ')}, {unit}" for name, unit in (PAPERS | GEOMETRY).items()
}
INPUTS = {LATENT: NESF, COMPOSITION: SECOND, FRACTIONS: "#CC79A7"}  # their colours
LOWEST = -0.6  # R² below are drawn at the left border
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86)  # electrons of their cores
_ELEMENT = (
    "Z",
    "group",
    "row",
    "atomic_mass",
    "X",
    "atomic_radius",
    "mendeleev_no",
    "melting_point",
    "electron_affinity",
    "molar_volume",
)


@dataclass(frozen=True)
class Parameters:
    """What is predicted, and with what."""

    # columns of the dataset, separated by commas; empty: the paper's three where known, else the
    # volume per atom
    targets: str = ""
    # training crystals, drawn at random among those whose property is known; 0: all
    n_train: int = 0
    seed: int = 0  # of that draw and of the MLP
    epochs: int = 1000  # of the MLP (Supplementary Note 4)
    neighbours: int = 5  # k (Supplementary Note 4)
    penalty: float = 1.0  # C of the SVR (Supplementary Note 4)
    tube: float = 0.1  # ε of the SVR, in the property's unit (Supplementary Note 4)

    def __post_init__(self) -> None:
        for name in ("epochs", "neighbours", "penalty"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: a number above 0 is expected")


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Make Table S3 for a model and the properties that a dataset knows.

    `scores`: one row per property, input, regressor, setting (`paper`, or `chosen` on validation:
    which is in `choice`) and split. `predictions`: of the test crystals, by the setting and
    regressor that is best on validation for each input. `known`: per property and split how many
    crystals have it, how many hold an element that the model does not know (left out), mean and
    standard deviation.

    Raises:
        DataError: fewer than two values of a property are known.
    """
    usable, left_out = {}, {}
    for split in SPLITS:
        crystals = dataset.split(split)
        fits = known_elements(crystals, model.vocabulary)
        usable[split], left_out[split] = crystals.select(np.flatnonzero(fits)), int((~fits).sum())
    inputs = {
        LATENT: {
            split: model.encode(crystals).cpu().double().numpy()
            for split, crystals in usable.items()
        },
        COMPOSITION: {split: composition_features(crystals) for split, crystals in usable.items()},
        FRACTIONS: {
            split: element_fractions(crystals, model.vocabulary)
            for split, crystals in usable.items()
        },
    }
    scores, predictions, known = [], [], []
    names = targets(dataset, parameters.targets)
    with tqdm(
        total=len(names) * len(inputs), unit="table", desc="regressions", disable=not progress
    ) as bar:
        for name, unit in names.items():
            values = {split: property_values(crystals, name) for split, crystals in usable.items()}
            rows = _rows_with_value(values, name, parameters)
            for split, every in values.items():
                has = every[np.isfinite(every)]
                about = {
                    "n": len(every),
                    "known": len(has),
                    "unknown_elements": left_out[split],
                    "used": len(rows[split]),
                }
                known.append(
                    {
                        "property": name,
                        "unit": unit,
                        "split": split,
                        **about,
                        "mean": has.mean(),
                        "std": has.std(),
                    }
                )
            y = {split: values[split][rows[split]] for split in SPLITS}
            mean = {split: np.full(len(y[split]), y["train"].mean()) for split in SPLITS}
            scores.append(
                _scored(y, mean, property=name, input=MEAN, regressor="", setting="", choice="")
            )
            test = pd.DataFrame(
                {
                    "property": name,
                    "id": np.array(usable["test"].ids)[rows["test"]],
                    "actual": y["test"],
                }
            )
            for source, features in inputs.items():
                x = {split: features[split][rows[split]] for split in SPLITS}
                fitted = fit_all(x, y, parameters, scale=source == COMPOSITION)
                scores += [
                    _scored(y, p, property=name, input=source, regressor=r, setting=s, choice=c)
                    for (r, s), (c, p) in fitted.items()
                ]
                best = min(
                    fitted, key=lambda key: mean_squared_error(y["val"], fitted[key][1]["val"])
                )
                test[f"from {source}"], test[f"{source} by"] = (
                    fitted[best][1]["test"],
                    f"{best[0]}, {best[1]}",
                )
                bar.update()
            predictions.append(test)
    return {
        "scores": pd.concat(scores, ignore_index=True),
        "predictions": pd.concat(predictions, ignore_index=True),
        "known": pd.DataFrame(known),
    }


def chosen_on_validation(scores: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Return R² of a split, by the regressor and setting of the highest R² on validation.

    One row per property, a column per input: R², and `<input> by`: regressor and setting.
    """
    fitted = scores[scores["regressor"].fillna("") != ""]
    keys = ["property", "input", "regressor", "setting"]
    values = fitted.pivot_table(index=keys, columns="split", values="r2", sort=False)
    best = values.loc[values.groupby(keys[:2], sort=False)["val"].idxmax()].reset_index(keys[2:])
    r2, by = (
        column.unstack("input", sort=False)
        for column in (best[split], best["regressor"] + ", " + best["setting"])
    )
    return r2.join(by.add_suffix(" by")).rename_axis(columns=None)


def targets(dataset: Dataset, names: str = "") -> dict[str, str]:
    """Return the named properties (default: `Parameters.targets`), with units.

    Raises:
        DataError: a property is named that the dataset does not have.
    """
    columns = sorted(
        k for k, v in dataset.split("train").properties.items() if v.dtype.kind in "fiub"
    )
    papers = {k: unit for k, unit in PAPERS.items() if k in columns}
    if not names:
        return papers or {"volume_per_atom": GEOMETRY["volume_per_atom"]}
    units = dict.fromkeys(columns, "") | papers | GEOMETRY
    chosen = [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in units]:
        raise DataError(
            f"{dataset.label}: {unknown[0]!r} is not a number that is known of its crystals; choose from {', '.join(units)}"
        )
    return {name: units[name] for name in chosen}


def property_values(crystals: Crystals, name: str) -> np.ndarray:
    """Return a property of each crystal [B] (a column, or one of `GEOMETRY`), NaN where unknown."""
    if name in crystals.properties:
        return crystals.properties[name].astype(float)
    if name == "n_atoms":
        return crystals.n_atoms.astype(float)
    if name == "volume_per_atom":
        return np.abs(np.linalg.det(crystals.lattice)) / crystals.n_atoms
    raise DataError(
        f"{name!r} is neither a column of the dataset nor known from the structure ({', '.join(GEOMETRY)})"
    )


def composition_features(crystals: Crystals) -> np.ndarray:
    """Return statistics of elemental properties over the composition [B, 62], as Magpie does.

    For each of twelve properties of the elements (`_element_table`): mean and mean absolute
    deviation, weighted by the fractions of the elements, smallest, largest and range; the number of
    elements; and the atoms of the reduced formula, for what belongs to a cell grows with them.
    """
    table = _element_table()
    features = []
    for i in range(len(crystals)):
        elements, counts = np.unique(crystals.species[crystals.atoms(i)], return_counts=True)
        values, fraction = table[elements], counts / counts.sum()
        mean = fraction @ values
        low, high = values.min(0), values.max(0)
        size = [len(elements), counts.sum() / np.gcd.reduce(counts)]
        features.append(
            np.concatenate([mean, fraction @ np.abs(values - mean), low, high, high - low, size])
        )
    return np.array(features).reshape(len(crystals), -1)


def element_fractions(crystals: Crystals, vocabulary: tuple[int, ...]) -> np.ndarray:
    """Return the share of each element among the atoms [B, A], A elements in the vocabulary."""
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    counts = np.zeros((len(crystals), len(vocabulary)))
    np.add.at(counts, (owner, np.searchsorted(vocabulary, crystals.species)), 1)
    return counts / crystals.n_atoms[:, None]


def _element_table() -> np.ndarray:
    """Return properties of each element [Z, 12]; unknown ones are the median of the elements.

    `_ELEMENT`, the first ionisation energy, and the electrons outside of the noble-gas core.
    """
    table = np.full((104, len(_ELEMENT) + 2), np.nan)
    with warnings.catch_warnings():  # pymatgen warns of each value that it does not know
        warnings.simplefilter("ignore")
        for z in range(1, 104):
            element = Element.from_Z(z)
            values = [getattr(element, name) for name in _ELEMENT]
            values += [
                next(iter(element.ionization_energies), None),
                z - max(n for n in NOBLE_GASES if n < z),
            ]
            table[z] = [np.nan if v is None else float(v) for v in values]
    return np.where(np.isnan(table), np.nanmedian(table, axis=0), table)


def fit_all(
    x: Splits, y: Splits, parameters: Parameters, *, scale: bool
) -> dict[tuple[str, str], tuple[str, Splits]]:
    """Fit the three regressors with the paper's settings, and with settings chosen on validation.

    paper: latent vectors as they are (no scaling is mentioned); the errors of its kNN on training
    crystals are 0, so neighbours are weighted by distance.
    chosen: SVR and kNN on standardised inputs (SVR: outputs too) with the C or k, the MLP with the
    epoch, of the lowest squared error on validation.

    `x`: inputs [n, features]; `y`: values [n]; `scale`: standardise the inputs for the paper's
    settings too (features of different units). Gives for each regressor and setting what was chosen
    (text), and the predictions of each split.
    """

    def predicted(model: Any, scaled: bool) -> Splits:
        fitted = (make_pipeline(StandardScaler(), model) if scaled else model).fit(
            x["train"], y["train"]
        )
        return {split: fitted.predict(x[split]) for split in SPLITS}

    def knn(k: int) -> KNeighborsRegressor:
        return KNeighborsRegressor(min(k, len(y["train"])), weights="distance")

    svr = SVR(C=parameters.penalty, epsilon=parameters.tube)
    standardised = {
        c: TransformedTargetRegressor(SVR(C=c, epsilon=0.1), transformer=StandardScaler())
        for c in PENALTIES
    }
    penalties = {
        f"C = {c:g}, standardised": predicted(model, True) for c, model in standardised.items()
    }
    neighbours = {f"k = {k}, standardised": predicted(knn(k), True) for k in NEIGHBOURS}
    return {
        ("SVR", "paper"): (
            f"C = {parameters.penalty:g}, ε = {parameters.tube:g}",
            predicted(svr, scale),
        ),
        ("SVR", "chosen"): _best(penalties, y["val"]),
        ("kNN", "paper"): (
            f"k = {parameters.neighbours}",
            predicted(knn(parameters.neighbours), scale),
        ),
        ("kNN", "chosen"): _best(neighbours, y["val"]),
        **_fit_mlp(x, y, parameters, scale),
    }


def _fit_mlp(
    x: Splits, y: Splits, parameters: Parameters, scale: bool
) -> dict[tuple[str, str], tuple[str, Splits]]:
    """Train the MLP once; predict with it as it is at the end and was when best on validation."""
    scaler = StandardScaler().fit(x["train"])
    inputs = {
        split: (scaler.transform(x[split]) if scale else x[split]).astype(np.float32)
        for split in SPLITS
    }
    mlp = MLPRegressor(
        hidden_layer_sizes=(128, 128, 64),
        batch_size=min(200, len(y["train"])),
        learning_rate_init=1e-3,
        random_state=parameters.seed,
    )
    lowest, best, best_epoch = np.inf, mlp, 0
    for epoch in range(1, parameters.epochs + 1):
        mlp.partial_fit(inputs["train"], y["train"])  # one epoch; Adam goes on where it was
        if epoch % EPOCHS_BETWEEN == 0 or epoch == parameters.epochs:
            error = mean_squared_error(y["val"], mlp.predict(inputs["val"]))
            if error < lowest:
                lowest, best, best_epoch = error, copy.deepcopy(mlp), epoch
    ends = {"paper": (parameters.epochs, mlp), "chosen": (best_epoch, best)}
    return {
        ("MLP", s): (f"{n} epochs", {split: m.predict(inputs[split]) for split in SPLITS})
        for s, (n, m) in ends.items()
    }


def table_s3() -> pd.DataFrame:
    """Read Table S3 as printed: regressor, property, dataset, split, mse, mae, r2."""
    return pd.read_csv(Path(__file__).with_name("paper_table_s3.csv"))


def implied_variances(known: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return the variances that Table S3 implies beside ours: exchanged rows would show.

    One row per split and property; `Table S3`: MSE / (1 - R²), median of the three regressors, of
    the paper's dataset icsg3d or lcs6.
    """
    paper = table_s3().query("dataset == @dataset and r2 < 0.9999")
    paper = (
        paper.assign(variance=paper["mse"] / (1 - paper["r2"]))
        .groupby(["split", "property"])["variance"]
        .median()
    )
    here = (known.set_index(["split", "property"])["std"] ** 2).rename("here")
    order = [(split, name) for split in SPLITS for name in PAPERS]
    return pd.concat([paper.rename("Table S3"), here], axis=1).reindex(
        pd.MultiIndex.from_tuples(order, names=["split", "property"])
    )


def known_elements(crystals: Crystals, vocabulary: tuple[int, ...]) -> np.ndarray:
    """Return whether the model knows all elements of a crystal, [B]."""
    return np.array(
        [
            np.isin(crystals.species[crystals.atoms(i)], vocabulary).all()
            for i in range(len(crystals))
        ],
        bool,
    )


def _rows_with_value(values: Splits, name: str, parameters: Parameters) -> dict[str, np.ndarray]:
    """Return the indices of the crystals whose property is known, of the training ones a draw."""
    rows = {split: np.flatnonzero(np.isfinite(y)) for split, y in values.items()}
    for split, known in rows.items():
        if len(known) < 2:
            raise DataError(
                f"{name}: known of {len(known)} crystals of split {split} that the model can encode; at least 2 are needed"
            )
    if 0 < parameters.n_train < len(rows["train"]):
        rows["train"] = np.sort(
            np.random.default_rng(parameters.seed).choice(
                rows["train"], parameters.n_train, replace=False
            )
        )
    return rows


def _scored(y: Splits, predicted: Splits, **about: str) -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        mse, mae = (
            mean_squared_error(y[split], predicted[split]),
            np.abs(y[split] - predicted[split]).mean(),
        )
        variance = np.var(y[split])
        rows.append(
            {
                **about,
                "split": split,
                "n": len(y[split]),
                "mse": mse,
                "mae": mae,
                "r2": 1 - mse / variance if variance else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _best(tried: Mapping[str, Splits], actual: np.ndarray) -> tuple[str, Any]:
    choice = min(tried, key=lambda name: mean_squared_error(actual, tried[name]["val"]))
    return choice, tried[choice]


def property_scores(
    scores: pd.DataFrame, *, paper: pd.DataFrame | None = None, title: str = ""
) -> Figure:
    """Draw R² on test of every regressor and input, a panel a property; grey: the mean of training.

    `paper`: rows of Table S3 of one dataset, drawn as hollow circles.
    """
    shown = list(dict.fromkeys(scores["property"]))
    lines = [(regressor, source) for regressor in REGRESSORS for source in INPUTS]
    figure, axes = subplots(len(shown), 2.5 * len(shown) + 1.7, 4.0)
    name_rows(axes, [", ".join(line) for line in lines])
    for ax, name in zip(axes, shown, strict=True):
        part = scores.query("split == 'test' and property == @name")
        ax.axvline(part.loc[part["input"] == MEAN, "r2"].iloc[0], color=TRIVIAL, linewidth=2)
        for cell in part[part["input"] != MEAN].itertuples():
            marker = "<" if cell.r2 < LOWEST else {"paper": "o", "chosen": "D"}[cell.setting]
            row = lines.index((cell.regressor, cell.input))
            ax.plot(
                max(cell.r2, LOWEST),
                row,
                marker,
                color=INPUTS[cell.input],
                markersize=6,
                clip_on=False,
            )
        if paper is not None:
            for cell in paper.query("property == @name and split == 'test'").itertuples():
                ax.plot(
                    cell.r2,
                    lines.index((cell.regressor, LATENT)),
                    "o",
                    markerfacecolor="none",
                    markeredgecolor="black",
                    markersize=11,
                )
        ax.set(xlim=(LOWEST, 1.02), xlabel="R² (1: perfect)")
        ax.set_title(PROPERTIES.get(name, name), fontsize=10)
    markers = {"the paper's settings": "o", "chosen on validation": "D"}
    handles = [
        Line2D([], [], marker=marker, color="black", linestyle="", label=label)
        for label, marker in markers.items()
    ]
    if paper is not None:
        handles.append(
            Line2D(
                [],
                [],
                marker="o",
                markersize=10,
                markerfacecolor="none",
                color="black",
                linestyle="",
                label="Table S3",
            )
        )
    handles.append(Line2D([], [], color=TRIVIAL, linewidth=2, label="mean of training"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def property_parity(predictions: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw predicted against known values of the test crystals, a panel a property."""
    shown = list(dict.fromkeys(predictions["property"]))
    figure, axes = subplots(len(shown), max(5.0, 2.9 * len(shown) + 0.5), 3.6)
    for ax, name in zip(axes, shown, strict=True):
        part = predictions[predictions["property"] == name]
        for (source, colour), marker in zip(INPUTS.items(), "o^v", strict=True):
            ax.scatter(
                part["actual"],
                part[f"from {source}"],
                s=14,
                color=colour,
                marker=marker,
                alpha=0.6,
                edgecolor="none",
                label=f"from {source}",
            )
        ends = np.array([part["actual"].min(), part["actual"].max()])
        ax.plot(ends, ends, color="black", linewidth=0.8)
        ax.set(
            xlabel=f"known {PROPERTIES.get(name, name)}",
            ylabel="predicted" if ax is axes[0] else "",
        )
        ax.set_title(f"n = {len(part)}", fontsize=10)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(title)
    return figure
