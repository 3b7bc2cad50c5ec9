"""Errors by the hyperparameters of decoding (Supplementary Note 3, Figures S5, S6).

One hyperparameter is changed at a time, the others keep their defaults. What a change does not
touch is computed once: a batch of crystals is encoded once; more iterations go on from fewer; the
score threshold, the radius and the particle count of the suppression need no movement; the species
grid needs no atoms to be detected again. Only another grid of particles starts anew. The result is
that of as many separate reconstructions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from tqdm import tqdm

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, concatenate, pad
from nesf.data.dataset import Box, Dataset
from nesf.decode import (
    DetectedAtoms,
    Particles,
    build_crystals,
    decode,
    detect_atoms,
    initialize_particles,
    move_particles,
    score_particles,
    start_boxes,
)
from nesf.decoding_fields import GroundTruthFields, NeuralFields, StructureFields
from nesf.fields import box_grid
from nesf.metrics import evaluate
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError, DataError
from nesf_studies.style import ICSG3D, NESF, ORACLE, SECOND, subplots

# Label and values of each hyperparameter, in the order of the paper's rows (top to bottom in
# Figures S5 and S6), the default among them. The paper's own values are in its drawings only; these
# reach from far below to far above the default. species_range 0: the atom's own position alone.
HYPERPARAMETERS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "grid_interval": ("global grid interval, Å", (0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0)),
    "iterations": ("iterations", (1, 2, 4, 8, 16, 32, 64, 128)),
    "score_threshold": ("score threshold, Å", (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.5, 3.0)),
    "nms_radius": ("suppression radius, Å", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0)),
    "min_particles": ("fewest particles of an atom", (1, 2, 5, 10, 20, 50, 100, 200)),
    "species_interval": ("local grid interval, Å", (0.05, 0.1, 0.125, 0.25, 0.5)),
    "species_range": ("local grid range, Å", (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)),
}
VALUES = {name: values for name, (_, values) in HYPERPARAMETERS.items()}
PANELS = {
    "position_error_actual_angstrom": "position error (actual), Å",
    "species_error_actual_percent": "species error (actual), %",
    "number_of_atoms_error_percent": "number-of-atoms error, %",
}
ERRORS = tuple(PANELS)  # the paper's columns
# the position error that counts crystals in which nothing is detected, where the table has it
CHARGED = "position_error_actual_charged_angstrom"
NETWORK, TRUE_FIELDS = "network", "true fields"


@dataclass(frozen=True)
class Parameters:
    """What is decoded, and which hyperparameters are changed."""

    # paper: not stated; val, because the defaults may be judged by it
    split: Literal["train", "val", "test"] = "val"
    n_crystals: int = 0  # so many of the split, drawn at random; 0: all
    seed: int = 0  # of that draw
    mode: Literal["fast", "exact"] = "fast"  # of the decoding (`ReconstructionConfig.mode`)
    only: str = ""  # names of hyperparameters, separated by commas; empty: all seven
    # decode the ground-truth fields as well: what the steps lose without a network
    true_fields: bool = True

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in VALUES:
                raise ConfigError(
                    f"only = {self.only!r}: {name!r} is not a hyperparameter of the reconstruction; choose from {', '.join(VALUES)}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that are changed."""
        return tuple(n.strip() for n in self.only.split(",")) if self.only else tuple(VALUES)


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Return the table of `sensitivity` of a split, for the fields `network` and `true fields`."""
    crystals = sample(dataset.split(parameters.split), parameters.n_crystals, parameters.seed)
    config = replace(model.config.decoding, mode=parameters.mode)
    values = {name: sorted({*VALUES[name], getattr(config, name)}) for name in parameters.names}
    model.autoencoder.eval()
    make_fields: dict[str, Callable[[int, int], StructureFields]] = {
        NETWORK: NeuralFields(model.autoencoder, model.encode(crystals)).of
    }
    if parameters.true_fields:
        padded = pad(crystals, model.vocabulary, model.device)
        make_fields[TRUE_FIELDS] = lambda start, stop: GroundTruthFields(
            padded.select(torch.arange(start, stop, device=model.device))
        )
    tables = {
        name: sensitivity(crystals, make, model, config, values, progress=progress)
        for name, make in make_fields.items()
    }
    return {
        "sensitivity": pd.concat(
            [
                table.assign(fields=name)[["fields", *table.columns]]
                for name, table in tables.items()
            ],
            ignore_index=True,
        )
    }


def sample(crystals: Crystals, n: int, seed: int) -> Crystals:
    """Draw n of the crystals without replacement, in their order; n = 0: all.

    Raises:
        DataError: there are fewer.
    """
    if n > len(crystals):
        raise DataError(
            f"n_crystals = {n}: the split has {len(crystals)}; ask for fewer, or 0 for all"
        )
    return (
        crystals.select(
            np.sort(np.random.default_rng(seed).choice(len(crystals), n, replace=False))
        )
        if n
        else crystals
    )


def sensitivity(
    crystals: Crystals,
    make_fields: Callable[[int, int], StructureFields],
    model: TrainedModel,
    config: ReconstructionConfig,
    values: Mapping[str, Sequence[float]],
    *,
    progress: bool = False,
) -> pd.DataFrame:
    """Return the errors for each value of each hyperparameter, the others as in `config`.

    `make_fields`: the fields of the crystals from one index to another; `values`: names of
    `ReconstructionConfig` to the values that are tried. One row per hyperparameter and value:
    `is_default`, n_crystals, `ERRORS`, the position error that charges crystals in which nothing
    was detected, how many these are, and `atoms_detected_percent`: all detected atoms of all actual
    ones.
    """
    size = max(1, config.max_queries // max(len(box_grid(model.box, config.grid_interval)), 1))
    parts: dict[tuple[str, float], list[Crystals]] = {
        (name, value): [] for name in values for value in values[name]
    }
    with tqdm(
        total=len(crystals),
        unit="crystal",
        desc="decoding with every value",
        disable=not progress,
        mininterval=1,
    ) as bar:
        for start in range(0, len(crystals), size):
            stop = min(start + size, len(crystals))
            made = decode_with_each(
                make_fields(start, stop),
                crystals.ids[start:stop],
                model.box,
                model.vocabulary,
                config,
                values,
                model.device,
            )
            for key, part in made.items():
                parts[key].append(part)
            bar.update(stop - start)
    rows = []
    for (name, value), decoded in parts.items():
        found = concatenate(decoded)
        summary = evaluate(crystals, found, match=False).summary
        row = {
            "hyperparameter": name,
            "value": value,
            "is_default": value == getattr(config, name),
            "n_crystals": len(crystals),
        }
        row |= {key: summary[key] for key in (*ERRORS, CHARGED, "n_nothing_detected")}
        rows.append(
            row
            | {"atoms_detected_percent": 100 * float(found.n_atoms.sum() / crystals.n_atoms.sum())}
        )
    # not defined where no atom at all was detected
    return pd.DataFrame(rows).astype(dict.fromkeys((*ERRORS, CHARGED), float))


@torch.no_grad()
def decode_with_each(
    fields: StructureFields,
    ids: Sequence[str],
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig,
    values: Mapping[str, Sequence[float]],
    device: torch.device | str = "cpu",
) -> dict[tuple[str, float], Crystals]:
    """Decode a batch with each value in place of the default; shared steps are done once.

    Arguments are those of `nesf.decode.decode`; `values`: names of `ReconstructionConfig` to
    values, as are the keys of what is returned.
    """

    def finish(detected: Sequence[DetectedAtoms], changed: ReconstructionConfig) -> Crystals:
        return build_crystals(fields, detected, ids, vocabulary, changed, device).crystals

    made: dict[tuple[str, float], Crystals] = {}
    scored: dict[int, Particles] = {}
    boxes = start_boxes(fields, len(ids), box, config)
    moved, done = initialize_particles(boxes, config, device), 0
    for n in sorted({config.iterations, *map(int, values.get("iterations", ()))}):
        moved, done = _move_on(fields, moved, done, n, config), n
        scored[n] = score_particles(fields, moved, config)
    particles = scored[config.iterations]
    detected = detect_atoms(particles, len(ids), config)
    default = finish(detected, config)
    for name, value in [(name, value) for name, tried in values.items() for value in tried]:
        changed = replace(config, **{name: value})  # type: ignore[arg-type]
        if changed == config:
            made[name, value] = default
        elif name == "iterations":
            made[name, value] = finish(detect_atoms(scored[int(value)], len(ids), config), config)
        elif name == "grid_interval":
            made[name, value] = decode(fields, ids, box, vocabulary, changed, device).crystals
        elif name in ("score_threshold", "nms_radius", "min_particles"):
            made[name, value] = finish(detect_atoms(particles, len(ids), changed), changed)
        elif name in ("species_interval", "species_range"):
            made[name, value] = finish(detected, changed)
    return made


def _move_on(
    fields: StructureFields, particles: Particles, done: int, n: int, config: ReconstructionConfig
) -> Particles:
    """Do step 2 from iteration `done` to n; a particle that has a score has arrived before."""
    moving = particles.scores.isnan()
    rest = replace(
        config, iterations=n - done, rough_iterations=max(0, config.rough_iterations - done)
    )
    moved = move_particles(fields, particles.select(moving), rest)
    return Particles.join([particles.select(~moving), moved])


def tolerant_range(table: pd.DataFrame, tolerance: float = 0.1) -> pd.DataFrame:
    """Return the values about each default for which no error is worse by more than a tolerance.

    One row per hyperparameter of `table` (`sensitivity`): default, `from` and `to` (the tried
    values next to each other that are within it), and the lowest value of each error with the value
    of the hyperparameter that gives it.
    """
    rows = {}
    for name, group in table.groupby("hyperparameter", sort=False):
        group = group.sort_values("value", ignore_index=True)
        place = int(group.index[group["is_default"]][0])
        errors = pd.DataFrame({error: drawn_error(group, error) for error in ERRORS}).astype(float)
        good = (errors <= errors.loc[place] * (1 + tolerance) + 1e-9).all(axis=1).tolist()
        low = max((i + 1 for i in range(place) if not good[i]), default=0)
        high = min((i - 1 for i in range(place, len(good)) if not good[i]), default=len(good) - 1)
        row: dict[str, float] = {
            "default": group.loc[place, "value"],
            "from": group.loc[low, "value"],
            "to": group.loc[high, "value"],
        }
        for error in ERRORS:
            best = errors[error].idxmin()
            row |= {
                f"lowest {error}": errors.loc[best, error],
                f"{error} at": group.loc[best, "value"],
            }
        rows[name] = row
    return pd.DataFrame(rows).T.rename_axis("hyperparameter")


def drawn_error(table: pd.DataFrame, error: str) -> pd.Series:
    """Return an error as it is drawn: a position error charges crystals without a detected atom."""
    charged = error == ERRORS[0] and CHARGED in table
    return table[CHARGED].fillna(table[error]) if charged else table[error]


def free_hyperparameters(table: pd.DataFrame, tolerance: float = 0.1) -> pd.Series:
    """Tell for each hyperparameter whether the next tried values do no harm (`tolerant_range`).

    At an end of the tried values only one side is asked.
    """
    found = tolerant_range(table, tolerance)
    tried = table.groupby("hyperparameter", sort=False)["value"].agg(["min", "max"])
    below = (found["from"] < found["default"]) | (found["default"] == tried["min"])
    return below & ((found["to"] > found["default"]) | (found["default"] == tried["max"]))


def jumps(table: pd.DataFrame) -> pd.DataFrame:
    """List values at which crystals begin or cease to have a detected atom, and what that does.

    One row per step between two tried values with another number of crystals without an atom:
    hyperparameter, `from`, `to`, their numbers, and the position error (actual) and charged.
    """
    rows = []
    for name, group in table.groupby("hyperparameter", sort=False):
        ordered = group.sort_values("value").to_dict("records")
        for one, two in itertools.pairwise(ordered):
            if one["n_nothing_detected"] != two["n_nothing_detected"]:
                rows.append(
                    {"hyperparameter": name, "from": f"{one['value']:g}", "to": f"{two['value']:g}"}
                    | {
                        label: f"{one[key]:.{digits}f} → {two[key]:.{digits}f}"
                        for label, key, digits in (
                            ("without an atom", "n_nothing_detected", 0),
                            ("position (actual), Å", ERRORS[0], 3),
                            ("the same, charged, Å", CHARGED, 3),
                        )
                    }
                )
    columns = ["hyperparameter", "from", "to"]
    return pd.DataFrame(rows, columns=None if rows else columns).set_index("hyperparameter")


def sensitivity_curves(curves: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Draw a row of panels a hyperparameter, a column an error (Figures S5, S6); dashed: default.

    `curves`: for each label the rows of `sensitivity` that it shows; the label of the true fields
    has the oracle's colour. Position errors are charged (`drawn_error`); hollow where in some
    crystal nothing is detected.
    """
    shown = [
        name
        for name in HYPERPARAMETERS
        if any((table["hyperparameter"] == name).any() for table in curves.values())
    ]
    figure, axes = subplots(len(PANELS), 8.6, 1.0 + 1.6 * len(shown), n_rows=len(shown))
    others = iter((NESF, SECOND, ICSG3D, "#CC79A7"))
    styles = [
        (ORACLE if TRUE_FIELDS in label else next(others, "black"), marker)
        for label, marker in zip(curves, itertools.cycle("os^D"), strict=False)
    ]
    for row, name in enumerate(shown):
        for column, (error, label) in enumerate(PANELS.items()):
            ax = axes[row * len(PANELS) + column]
            for (curve, table), (colour, marker) in zip(curves.items(), styles, strict=True):
                part = table[table["hyperparameter"] == name].sort_values("value")
                values_drawn = drawn_error(part, error)
                ax.plot(
                    part["value"],
                    values_drawn,
                    color=colour,
                    marker=marker,
                    markersize=4,
                    label=curve,
                )
                if error == ERRORS[0] and "n_nothing_detected" in part:
                    without = part["n_nothing_detected"] > 0
                    ax.plot(
                        part["value"][without],
                        values_drawn[without],
                        marker=marker,
                        linestyle="",
                        markersize=4,
                        color=colour,
                        markerfacecolor="white",
                    )
                for default in part.loc[part["is_default"], "value"][:1]:
                    ax.axvline(default, color="black", linestyle="--", linewidth=0.8)
            if not name.startswith("species"):
                values = sorted(
                    {
                        float(v)
                        for table in curves.values()
                        for v in table.loc[table["hyperparameter"] == name, "value"]
                    }
                )
                ax.set_xscale("log")
                few = values if len(values) < 7 else values[:: 2 if len(values) < 9 else 3]
                ax.set_xticks(few, [f"{v:g}" for v in few])
                ax.xaxis.set_minor_formatter(NullFormatter())
                ax.tick_params(axis="x", which="minor", length=0)
            ax.set_ylim(bottom=0, top=max(ax.get_ylim()[1], 1e-3))
            ax.set_xlabel(HYPERPARAMETERS[name][0], fontsize=9)
            ax.tick_params(labelsize=8)
            if row == 0:
                ax.set_title(label, fontsize=10)
    if len(curves) > 1:
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(curves),
            frameon=False,
        )
    figure.suptitle(title)
    return figure
