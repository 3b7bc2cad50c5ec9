"""The hyperparameter search of Supplementary Note 7: its steps, the runs that repeat them, winners.

A candidate is a labelled run of the workflow (`workflow/search/`, written by
`scripts/write_search.py`), and there are two ways to go through the steps. *Side by side*
(`trial-search-STEP-NUMBER`): each step starts from what the paper adopted in the steps before, so
nothing waits. *One after the other*, as in the paper: each step starts from the winners recorded in
the steps before (`followed`); its runs are those of side by side for as long as these winners are
what the paper adopted, and `trial-followed-STEP-NUMBER` from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from matplotlib.figure import Figure

from nesf.files import read_json
from nesf.records import RecordedRun
from nesf_io.errors import ConfigError
from nesf_studies.links import GIVEN, PAPER, from_runs
from nesf_studies.record import folders, metric_rows
from nesf_studies.style import NESF, TRIVIAL, WIDEST, PageFigure, name_rows

# label of the runs that show what another seed does to the configuration at the start
UNCHANGED = "trial-search-unchanged"
# the paper's rule; the second one where the first is equal
PRIMARY, SECONDARY = "number_of_atoms_error_percent", "position_error_actual_angstrom"
_SEARCH = read_json(Path(__file__).with_name("search_steps.json"))
# number of a step and the values of its winner
Winners: TypeAlias = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Step:
    """A step of the search."""

    number: int  # 1-8
    title: str
    # each the values that it sets, dotted keys of `nesf.config.Config`
    candidates: tuple[Mapping[str, Any], ...]
    adopted: Mapping[str, Any]  # the values that the paper's network has in the end
    note: str  # what the paper, or the text of it, leaves open

    def label(self, place: int, winners: Winners | None = None) -> str:
        """Return the label under which a candidate is recorded; `winners`: as for `settings`."""
        as_adopted = winners is None or all(
            winners[s.number] == s.adopted for s in steps()[: self.number - 1]
        )
        return f"trial-{'search' if as_adopted else 'followed'}-{self.number}-{place + 1:02d}"


def initial() -> dict[str, Any]:
    """Return the configuration that the search starts from."""
    return dict(_SEARCH["initial"])


def steps() -> tuple[Step, ...]:
    """Return the eight steps."""
    found = []
    for step in _SEARCH["steps"]:
        grid = step.get("grid", {})
        candidates = step.get("candidates") or [
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        ]
        found.append(
            Step(step["number"], step["title"], tuple(candidates), step["adopted"], step["note"])
        )
    return tuple(found)


def settings(
    step: Step, candidate: Mapping[str, Any], winners: Winners | None = None
) -> dict[str, Any]:
    """Return all values that a candidate trains with: initial, of the steps before, and its own.

    `winners`: of all steps before; None for what the paper adopted in them.
    """
    values = initial()
    for earlier in steps()[: step.number - 1]:
        values |= earlier.adopted if winners is None else winners[earlier.number]
    return values | dict(candidate)


def entries(
    dataset: str,
    *,
    preset: str,
    numbers: Sequence[int] = range(1, 9),
    further: Mapping[str, Any] | None = None,
    winners: Winners | None = None,
) -> list[dict[str, Any]]:
    """Return the candidates as runs of a workflow configuration, scored on the validation split.

    `preset` gives all that the search does not set; `further`: more dotted keys and values, for
    example a smaller number of epochs; `winners`: of all steps before the last of `numbers`
    (`followed`), None for what the paper adopted.

    Raises:
        ConfigError: there is no such step.
    """
    known = {step.number: step for step in steps()}
    if unknown := sorted(set(numbers) - set(known)):
        raise ConfigError(
            f"step {unknown[0]} of the search does not exist; choose from {min(known)} to {max(known)}"
        )
    # paper: number of seeds not stated
    common = {"dataset": dataset, "preset": preset, "seeds": 1, "splits": ["val"]}
    return [
        {
            **common,
            "label": known[number].label(place, winners),
            "set": settings(known[number], candidate, winners) | dict(further or {}),
        }
        for number in numbers
        for place, candidate in enumerate(known[number].candidates)
    ]


def unchanged(
    dataset: str, *, preset: str, further: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the initial configuration as a run of the workflow with several seeds."""
    values = initial() | dict(further or {})
    return {
        "dataset": dataset,
        "preset": preset,
        "seeds": 3,
        "splits": ["val"],
        "label": UNCHANGED,
        "set": values,
    }


def followed(runs: Sequence[RecordedRun], dataset: str) -> dict[int, Mapping[str, Any]]:
    """Return the winners one step after the other, as far as all candidates are recorded."""
    winners: dict[int, Mapping[str, Any]] = {}
    for step in steps():
        part = candidates(runs, dataset, winners=winners).query("step == @step.number")
        if not (part["n"] > 0).all():
            break
        winners[step.number] = step.candidates[int(part["wins"].to_numpy().argmax())]
    return winners


def outcome(winners: Winners) -> pd.DataFrame:
    """Return the values (text) at the start, after these winners, and in the paper's network."""
    columns = {"start": initial(), "this search": initial(), "the paper": initial()}
    for step in steps():
        columns["this search"] |= winners.get(step.number, {})
        columns["the paper"] |= step.adopted
    return pd.DataFrame(columns).map(_short).rename_axis("key")


def candidates(
    runs: Sequence[RecordedRun], dataset: str, *, winners: Winners | None = None
) -> pd.DataFrame:
    """Return every candidate of every step, and what is recorded of it.

    `winners`: of the steps, each started from those before it (`followed`): the steps up to the one
    after the last of them are shown; None for steps that start from what the paper adopted. One row
    per step and candidate: `settings` (text), n (seeds), the mean of `PRIMARY` and `SECONDARY` over
    them (NaN where nothing is recorded), `adopted` (by the paper) and `wins` (the paper's rule,
    among those recorded). `attrs["folders"]`: of the runs, by label.
    """
    shown = steps()[: None if winners is None else len(winners) + 1]
    table = pd.DataFrame(
        [
            {
                "step": s.number,
                "label": s.label(i, winners),
                "settings": described(c),
                "adopted": dict(c) == dict(s.adopted),
            }
            for s in shown
            for i, c in enumerate(s.candidates)
        ]
    )
    recorded = metric_rows(runs).query(
        "dataset == @dataset and method == 'nesf' and split == 'val'"
    )
    errors = recorded.pivot_table(
        index="preset", columns="metric", values="value", dropna=False
    ).reindex(columns=[PRIMARY, SECONDARY])
    seeds = recorded.groupby("preset")["run"].nunique()
    table = table.join(errors, on="label").assign(
        n=table["label"].map(seeds).fillna(0).astype(int), wins=False
    )
    ranked = table[table["n"] > 0].sort_values(
        ["step", PRIMARY, SECONDARY], kind="stable", na_position="last"
    )
    table.loc[ranked.drop_duplicates("step").index, "wins"] = True
    table.attrs["folders"] = {
        label: folders(runs, dataset, "nesf", label) for label in ranked["label"]
    }
    return table[["step", "label", "settings", "n", PRIMARY, SECONDARY, "adopted", "wins"]]


def winner_table(table: pd.DataFrame) -> pd.DataFrame:
    """Set the winner of each step of `candidates` beside what the paper adopted."""
    rows, made_by = {}, []
    for step in steps():
        part = table[table["step"] == step.number]
        winner = next(iter(part.loc[part["wins"], "label"]), "")
        made_by.append(table.attrs["folders"].get(winner, []))
        rows[step.number, step.title] = {
            "candidates": len(part),
            "recorded": int((part["n"] > 0).sum()),
            "winner among them": next(iter(part.loc[part["wins"], "settings"]), "–"),
            "adopted by the paper": described(step.adopted),
            "note": step.note,
        }
    index = pd.MultiIndex.from_tuples(rows, names=["step", "what"])
    given = {"candidates": GIVEN, "recorded": GIVEN, "adopted by the paper": PAPER, "note": PAPER}
    return from_runs(pd.DataFrame(list(rows.values()), index=index), given, rows=made_by)


def decisions(table: pd.DataFrame) -> dict[str, float]:
    """Count in how many steps of `candidates` the paper's choice wins.

    Steps count that are recorded as a whole; `expected by chance`: how often the paper's choice would
    win if the winner of each step were drawn.
    """
    whole = table.groupby("step").filter(lambda part: bool((part["n"] > 0).all()))
    by_step = whole.groupby("step")["adopted"]
    return {
        "steps recorded": by_step.ngroups,
        "with the paper's choice": int(by_step.any().sum()),
        "the paper's choice wins": int((whole["wins"] & whole["adopted"]).sum()),
        "expected by chance": float(by_step.mean().sum()),
    }


def seed_spread(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """Return mean and standard deviation of `PRIMARY` of each recipe with several seeds."""
    rows = metric_rows(runs).query(
        "method == 'nesf' and split == 'val' and metric == @PRIMARY and fold.isna()"
    )
    spread = rows.groupby(["dataset", "preset"], sort=False)["value"].agg(["size", "mean", "std"])
    names = {"size": "seeds", "mean": "mean, %", "std": "standard deviation, %"}
    spread = spread[spread["size"] > 1].rename(columns=names)
    return from_runs(
        spread, rows=[folders(runs, name, "nesf", preset) for name, preset in spread.index]
    )


def described(values: Mapping[str, Any]) -> str:
    """Write values in short: `weight_position = 10`; equal widths after each other as 128×7."""
    return ", ".join(f"{key.partition('.')[2]} = {_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:g}"
    groups = [(width, len(list(same))) for width, same in itertools.groupby(value)]
    return "[" + ", ".join(f"{width}×{n}" if n > 1 else str(width) for width, n in groups) + "]"


def search_steps(candidates: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw `PRIMARY` of recorded candidates, a panel a step; blue: the winner, ring: the paper."""
    parts = dict(iter(candidates[candidates["n"] > 0].groupby("step")))
    heights = [0.6 + 0.24 * len(part) for part in parts.values()]
    figure = PageFigure(figsize=(WIDEST, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for ax, (step, part) in zip(axes, parts.items(), strict=True):
        for y, (_, row) in enumerate(part.iterrows()):
            ax.plot(row[PRIMARY], y, "o", color=NESF if row["wins"] else TRIVIAL, markersize=6)
            if row["adopted"]:
                ax.plot(
                    row[PRIMARY],
                    y,
                    "o",
                    markerfacecolor="none",
                    markeredgecolor="black",
                    markersize=11,
                )
        name_rows([ax], part["settings"].tolist())
        ax.tick_params(axis="y", labelsize=8)
        ax.set_title(f"step {step}", loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("number-of-atoms error, % (lower is better)")
    figure.suptitle(title)
    return figure
