"""The hyperparameter search of Supplementary Note 7 as data: its eight steps, the runs that repeat them, and the winner of each step.

A candidate is a labelled run of the workflow (`workflow/search/`, written by `scripts/write_search.py`), and there are two ways to go through the steps.
*Side by side* (`trial-search-STEP-NUMBER`): each step starts from what the paper adopted in the steps before, so nothing waits. *One after the other*, as in
the paper: each step starts from the winners recorded in the steps before (`followed`); its runs are those of side by side for as long as these winners are
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

from nesf.errors import ConfigError
from nesf.files import read_json
from nesf.records import RecordedRun
from nesf_studies.record import metric_rows
from nesf_studies.style import NESF, TRIVIAL

UNCHANGED = "trial-search-unchanged"  # label of the runs that show what another seed does to the configuration at the start
PRIMARY, SECONDARY = "number_of_atoms_error_percent", "position_error_actual_angstrom"  # the paper's rule; the second one where the first is equal
Winners: TypeAlias = Mapping[int, Mapping[str, Any]]  # number of a step and the values of its winner


@dataclass(frozen=True)
class Step:
    """A step of the search."""

    number: int  # 1-8
    title: str  # what is searched
    candidates: tuple[Mapping[str, Any], ...]  # each the values that it sets, dotted keys of `nesf.config.Config`
    adopted: Mapping[str, Any]  # the values that the paper's network has in the end
    note: str  # what the paper, or the text of it, leaves open

    def label(self, place: int, winners: Winners | None = None) -> str:
        """Return the label under which a candidate is recorded; `winners`: as for `settings`."""
        as_adopted = winners is None or all(dict(winners[s.number]) == dict(s.adopted) for s in steps() if s.number < self.number)
        return f"trial-{'search' if as_adopted else 'followed'}-{self.number}-{place + 1:02d}"


def initial() -> dict[str, Any]:
    """Return the configuration that the search starts from."""
    return dict(_content()["initial"])


def steps() -> tuple[Step, ...]:
    """Return the eight steps."""
    found = []
    for step in _content()["steps"]:
        if "grid" in step:
            candidates = tuple(dict(zip(step["grid"], values, strict=True)) for values in itertools.product(*step["grid"].values()))
        else:
            candidates = tuple(step["candidates"])
        found.append(Step(step["number"], step["title"], candidates, step["adopted"], step["note"]))
    return tuple(found)


def _content() -> dict[str, Any]:
    return read_json(Path(__file__).with_name("search_steps.json"))


def settings(step: Step, candidate: Mapping[str, Any], winners: Winners | None = None) -> dict[str, Any]:
    """Return all values that a candidate trains with: the initial ones, those of the steps before, and its own.

    Args:
        step: of the candidate.
        candidate: the values that it sets.
        winners: of all steps before; None for what the paper adopted in them.
    """
    values = initial()
    for earlier in steps():
        if earlier.number < step.number:
            values |= dict(earlier.adopted if winners is None else winners[earlier.number])
    return values | dict(candidate)


def entries(
    dataset: str,
    *,
    preset: str = "cpu",
    numbers: Sequence[int] = range(1, 9),
    seeds: int = 1,
    further: Mapping[str, Any] | None = None,
    winners: Winners | None = None,
) -> list[dict[str, Any]]:
    """Return the candidates as runs of a workflow configuration, scored on the validation split.

    Args:
        dataset: name.
        preset: for all that the search does not set (sampling, schedule).
        numbers: of the steps.
        seeds: how many for each candidate; paper: not stated.
        further: more dotted keys and values, for example a smaller number of epochs.
        winners: of all steps before the last of `numbers` (`followed`); None for what the paper adopted.

    Raises:
        ConfigError: there is no such step.
    """
    known = {step.number: step for step in steps()}
    for number in numbers:
        if number not in known:
            raise ConfigError(f"step {number} of the search does not exist; choose from {min(known)} to {max(known)}")
    common = {"dataset": dataset, "preset": preset, "seeds": seeds, "splits": ["val"]}
    return [
        {**common, "label": known[number].label(place, winners), "set": settings(known[number], candidate, winners) | dict(further or {})}
        for number in numbers
        for place, candidate in enumerate(known[number].candidates)
    ]


def unchanged(dataset: str, *, preset: str = "cpu", seeds: int = 3, further: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the configuration at the start with several seeds, as one run of a workflow configuration: a search that changes nothing."""
    values = initial() | dict(further or {})
    return {"dataset": dataset, "preset": preset, "seeds": seeds, "splits": ["val"], "label": UNCHANGED, "set": values}


def followed(runs: Sequence[RecordedRun], dataset: str, split: str = "val") -> dict[int, Mapping[str, Any]]:
    """Return the winners of the steps one after the other, each step started from the winners before it, as far as all candidates are recorded."""
    winners: dict[int, Mapping[str, Any]] = {}
    for step in steps():
        part = candidates(runs, dataset, split, winners=winners, numbers=[step.number])
        if not (part["n"] > 0).all():
            break
        winners[step.number] = step.candidates[int(part["wins"].to_numpy().argmax())]
    return winners


def outcome(winners: Winners) -> pd.DataFrame:
    """Show where a search one step after the other has come to: for each key its value (text) at the start, after these winners, and in the paper's network."""
    ended, adopted = initial(), initial()
    for step in steps():
        ended |= dict(winners.get(step.number, {}))
        adopted |= dict(step.adopted)
    columns = {"start": initial(), "this search": ended, "the paper": adopted}
    return pd.DataFrame({name: {key: _short(value) for key, value in values.items()} for name, values in columns.items()}).rename_axis("key")


def candidates(
    runs: Sequence[RecordedRun], dataset: str, split: str = "val", *, winners: Winners | None = None, numbers: Sequence[int] | None = None
) -> pd.DataFrame:
    """Return every candidate of every step, and what is recorded of it.

    Args:
        runs: recorded runs; those with a label of the search count.
        dataset: name.
        split: the paper: val.
        winners: of the steps, each started from those before it (`followed`): the steps up to the one after the last of them are shown; None for steps that
            start from what the paper adopted.
        numbers: of the steps that are shown; None for all.

    Returns:
        One row per step and candidate: `step`, `label`, `settings` (text), n (seeds), the mean of `PRIMARY` and `SECONDARY` over them (NaN where nothing is
        recorded), `adopted` (by the paper) and `wins` (the paper's rule, among those recorded).
    """
    shown = [s for s in steps() if (winners is None or s.number <= len(winners) + 1) and (numbers is None or s.number in numbers)]
    table = pd.DataFrame(
        [
            {"step": s.number, "label": s.label(i, winners), "settings": described(c), "adopted": dict(c) == dict(s.adopted)}
            for s in shown
            for i, c in enumerate(s.candidates)
        ]
    )
    recorded = metric_rows(runs).query("dataset == @dataset and method == 'nesf' and split == @split")
    errors = recorded.pivot_table(index="preset", columns="metric", values="value", dropna=False).reindex(columns=[PRIMARY, SECONDARY])
    seeds = recorded.groupby("preset")["run"].nunique()
    table = table.join(errors, on="label").assign(n=table["label"].map(seeds).fillna(0).astype(int), wins=False)
    ranked = table[table["n"] > 0].sort_values(["step", PRIMARY, SECONDARY], kind="stable", na_position="last")
    table.loc[ranked.drop_duplicates("step").index, "wins"] = True
    return table[["step", "label", "settings", "n", PRIMARY, SECONDARY, "adopted", "wins"]]


def winner_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per step of `candidates`: how many are recorded, the winner among them by the paper's rule, and what the paper adopted."""
    rows = {}
    for step in steps():
        part = table[table["step"] == step.number]
        rows[step.number, step.title] = {
            "candidates": len(part),
            "recorded": int((part["n"] > 0).sum()),
            "winner among them": next(iter(part.loc[part["wins"], "settings"]), "–"),
            "adopted by the paper": described(step.adopted),
            "note": step.note,
        }
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["step", "what"]))


def decisions(table: pd.DataFrame) -> dict[str, float]:
    """Count in how many steps of `candidates` the paper's choice wins.

    Returns:
        `steps recorded` as a whole, `with the paper's choice` among their candidates, `the paper's choice wins`, and `expected by lot`: how often it would
        win if the winner of each step were drawn.
    """
    whole = table.groupby("step").filter(lambda part: bool((part["n"] > 0).all()))
    by_step = whole.groupby("step")["adopted"]
    return {
        "steps recorded": by_step.ngroups,
        "with the paper's choice": int(by_step.any().sum()),
        "the paper's choice wins": int((whole["wins"] & whole["adopted"]).sum()),
        "expected by lot": float(by_step.mean().sum()),
    }


def seed_spread(runs: Sequence[RecordedRun], split: str = "val") -> pd.DataFrame:
    """Return what a search that changes nothing finds: mean and standard deviation of `PRIMARY` over the seeds of each configuration that has several."""
    rows = metric_rows(runs).query("method == 'nesf' and split == @split and metric == @PRIMARY and fold.isna()")
    spread = rows.groupby(["dataset", "preset"], sort=False)["value"].agg(["size", "mean", "std"])
    names = {"size": "seeds", "mean": "mean, %", "std": "standard deviation, %"}
    return spread[spread["size"] > 1].rename(columns=names)


def described(values: Mapping[str, Any]) -> str:
    """Write values in short: `weight_position = 10, latent_size = 192`; of widths that follow each other in number, 128×7."""
    return ", ".join(f"{key.partition('.')[2]} = {_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:g}"
    groups = [(width, len(list(same))) for width, same in itertools.groupby(value)]
    return "[" + ", ".join(f"{width}×{n}" if n > 1 else str(width) for width, n in groups) + "]"


def search_steps(candidates: pd.DataFrame, *, primary: str, title: str = "") -> Figure:
    """Draw the primary error of every recorded candidate, a panel a step; the winner is blue, the paper's choice has a black ring.

    Args:
        candidates: the table `candidates`; at least one is recorded.
        primary: the column that decides, in percent.
        title: dataset, split and number of seeds.
    """
    recorded = candidates[candidates["n"] > 0]
    shown = list(dict.fromkeys(recorded["step"]))
    heights = [0.6 + 0.24 * int((recorded["step"] == step).sum()) for step in shown]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for ax, step in zip(axes, shown, strict=True):
        part = recorded[recorded["step"] == step].reset_index(drop=True)
        for y, row in part.iterrows():
            ax.plot(row[primary], y, "o", color=NESF if row["wins"] else TRIVIAL, markersize=6)
            if row["adopted"]:
                ax.plot(row[primary], y, "o", markerfacecolor="none", markeredgecolor="black", markersize=11)
        ax.set_yticks(range(len(part)), part["settings"], fontsize=8)
        ax.set_ylim(len(part) - 0.5, -0.5)
        ax.set_title(f"step {step}", loc="left", fontsize=10)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("number-of-atoms error, % (lower is better)")
    figure.suptitle(title)
    return figure
