"""The hyperparameter search of Supplementary Note 7 as data: its eight steps, the runs that repeat them, and the winner of each step.

A candidate is a labelled run of the workflow (`workflow/search/`, written by `scripts/write_search.py`), and there are two ways to go through the steps.
*Side by side* (`trial-search-STEP-NUMBER`): each step starts from what the paper adopted in the steps before, so nothing waits. *One after the other*, as in
the paper: each step starts from the winners recorded in the steps before (`followed`); its runs are those of side by side for as long as these winners are
what the paper adopted, and `trial-followed-STEP-NUMBER` from then on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

from nesf.errors import ConfigError
from nesf.records import RecordedRun

if TYPE_CHECKING:
    from pandas import DataFrame

UNCHANGED = "trial-search-unchanged"  # label of the runs that show what another seed does to the configuration at the start
PRIMARY, SECONDARY = "number_of_atoms_error_percent", "position_error_actual_angstrom"  # the paper's rule; the second one where the first is equal


Won: TypeAlias = Mapping[int, Mapping[str, Any]]  # number of a step to the values of its winner


@dataclass(frozen=True)
class Step:
    """A step of the search.

    Attributes:
        number: 1-8.
        title: what is searched.
        candidates: each the values that it sets, dotted keys of `nesf.config.Config`.
        adopted: the values that the paper's network has in the end.
        note: what the paper, or the text of it, leaves open.
    """

    number: int
    title: str
    candidates: tuple[Mapping[str, Any], ...]
    adopted: Mapping[str, Any]
    note: str

    def label(self, place: int, won: Won | None = None) -> str:
        """The label under which a candidate is recorded; `won`: as for `settings`."""
        kind = "search" if won is None or all(dict(won[s.number]) == dict(s.adopted) for s in steps() if s.number < self.number) else "followed"
        return f"trial-{kind}-{self.number}-{place + 1:02d}"


def initial() -> dict[str, Any]:
    """The configuration that the search starts from."""
    return dict(_content()["initial"])


def steps() -> tuple[Step, ...]:
    """The eight steps."""
    found = []
    for step in _content()["steps"]:
        if "grid" in step:
            candidates = tuple(dict(zip(step["grid"], values, strict=True)) for values in itertools.product(*step["grid"].values()))
        else:
            candidates = tuple(step["candidates"])
        found.append(Step(step["number"], step["title"], candidates, step["adopted"], step["note"]))
    return tuple(found)


def settings(step: Step, candidate: Mapping[str, Any], won: Won | None = None) -> dict[str, Any]:
    """All values that a candidate trains with: the initial ones, those of the steps before, and its own.

    Args:
        step: of the candidate.
        candidate: the values that it sets.
        won: the winners of all steps before; None for what the paper adopted in them.
    """
    values = initial()
    for earlier in steps():
        if earlier.number < step.number:
            values |= dict(earlier.adopted if won is None else won[earlier.number])
    return values | dict(candidate)


def entries(
    dataset: str,
    *,
    preset: str = "cpu",
    numbers: Sequence[int] = range(1, 9),
    seeds: int = 1,
    further: Mapping[str, Any] | None = None,
    won: Won | None = None,
) -> list[dict[str, Any]]:
    """The candidates as runs of a workflow configuration (`nesf_studies.plan.planned_runs`), scored on the validation split.

    Args:
        dataset: name.
        preset: for all that the search does not set (sampling, schedule).
        numbers: of the steps.
        seeds: how many for each candidate; paper: not stated.
        further: more dotted keys and values, for example a smaller number of epochs.
        won: the winners of all steps before the last of `numbers` (`followed`); None for what the paper adopted.

    Raises:
        ConfigError: there is no such step.
    """
    known = {step.number: step for step in steps()}
    for number in numbers:
        if number not in known:
            raise ConfigError(f"step {number} of the search does not exist; choose from {min(known)} to {max(known)}")
    common = {"dataset": dataset, "preset": preset, "seeds": seeds, "splits": ["val"]}
    return [
        {**common, "label": known[number].label(place, won), "set": settings(known[number], candidate, won) | dict(further or {})}
        for number in numbers
        for place, candidate in enumerate(known[number].candidates)
    ]


def unchanged(dataset: str, *, preset: str = "cpu", seeds: int = 3, further: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The configuration at the start with several seeds, as one run of a workflow configuration: a search that changes nothing."""
    values = initial() | dict(further or {})
    return {"dataset": dataset, "preset": preset, "seeds": seeds, "splits": ["val"], "label": UNCHANGED, "set": values}


def followed(runs: Sequence[RecordedRun], dataset: str, split: str = "val") -> dict[int, Mapping[str, Any]]:
    """The winners of the steps one after the other, each step started from the winners before it, as far as all candidates are recorded.

    Args:
        runs: recorded runs.
        dataset: name.
        split: the paper: val.
    """
    won: dict[int, Mapping[str, Any]] = {}
    for step in steps():
        part = candidates(runs, dataset, split, won=won, numbers=[step.number])
        if not (part["n"] > 0).all():
            break
        won[step.number] = step.candidates[int(part["wins"].to_numpy().argmax())]
    return won


def outcome(won: Won) -> DataFrame:
    """Where a search one step after the other has come to: one row per key, its value (text) at the start, after the steps of `won`, and in the paper's network."""
    import pandas as pd

    ended, adopted = initial(), initial()
    for step in steps():
        ended |= dict(won.get(step.number, {}))
        adopted |= dict(step.adopted)
    columns = {"start": initial(), "this search": ended, "the paper": adopted}
    return pd.DataFrame({name: {key: _short(value) for key, value in values.items()} for name, values in columns.items()}).rename_axis("key")


def candidates(
    runs: Sequence[RecordedRun], dataset: str, split: str = "val", *, won: Won | None = None, numbers: Sequence[int] | None = None
) -> DataFrame:
    """Every candidate of every step, and what is recorded of it.

    Args:
        runs: recorded runs; those with a label of the search count.
        dataset: name.
        split: the paper: val.
        won: the winners of the steps, each started from those before it (`followed`): the steps up to the one after the last of them are shown; None
            for steps that start from what the paper adopted.
        numbers: of the steps that are shown; None for all.

    Returns:
        One row per step and candidate: `step`, `label`, `settings` (text), n (seeds), the mean of `PRIMARY` and `SECONDARY` over them (NaN where nothing
        is recorded), `adopted` (by the paper) and `wins` (the paper's rule, among those recorded).
    """
    import pandas as pd

    recorded: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run.run["dataset"]["name"] == dataset and run.run["method"] == "nesf" and split in run.metrics:
            recorded.setdefault(run.run["preset"], []).append(run.metrics[split])
    rows: list[dict[str, Any]] = []
    for step in steps():
        if (won is not None and step.number > len(won) + 1) or (numbers is not None and step.number not in numbers):
            continue
        for place, candidate in enumerate(step.candidates):
            label = step.label(place, won)
            same = recorded.get(label, [])
            row = {"step": step.number, "label": label, "settings": described(candidate), "n": len(same)}
            row |= {key: _mean([s[key] for s in same]) for key in (PRIMARY, SECONDARY)}
            rows.append(row | {"adopted": dict(candidate) == dict(step.adopted)})
    table = pd.DataFrame(rows)
    table["wins"] = False
    for _, part in table[table["n"] > 0].groupby("step"):
        ranked = part.sort_values([PRIMARY, SECONDARY], kind="stable", na_position="last")
        table.loc[ranked.index[0], "wins"] = True
    return table


def winners(table: DataFrame) -> DataFrame:
    """One row per step of `candidates`: how many candidates are recorded, the winner among them by the paper's rule, and what the paper adopted."""
    import pandas as pd

    rows = {}
    for step in steps():
        part = table[table["step"] == step.number]
        won = part[part["wins"]]
        rows[step.number, step.title] = {
            "candidates": len(part),
            "recorded": int((part["n"] > 0).sum()),
            "winner among them": won["settings"].iloc[0] if len(won) else "–",
            "adopted by the paper": described(step.adopted),
            "note": step.note,
        }
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["step", "what"]))


def decisions(table: DataFrame) -> dict[str, float]:
    """In how many steps of `candidates` the paper's choice wins.

    Returns:
        `steps recorded` as a whole, `with the paper's choice` among their candidates, `the paper's choice wins`, and `expected by lot`: how often it
        would win if the winner of each step were drawn.
    """
    whole = table.groupby("step").filter(lambda part: bool((part["n"] > 0).all()))
    by_step = whole.groupby("step")["adopted"]
    return {
        "steps recorded": by_step.ngroups,
        "with the paper's choice": int(by_step.any().sum()),
        "the paper's choice wins": int((whole["wins"] & whole["adopted"]).sum()),
        "expected by lot": float(by_step.mean().sum()),
    }


def seed_spread(runs: Sequence[RecordedRun], split: str = "val") -> DataFrame:
    """What a search that changes nothing finds: mean and standard deviation of `PRIMARY` over the seeds of each configuration that has several."""
    import pandas as pd

    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        about = run.run
        if about["method"] == "nesf" and split in run.metrics and about["dataset"]["fold"] is None:
            values.setdefault((about["dataset"]["name"], about["preset"]), []).append(run.metrics[split][PRIMARY])
    rows = {key: {"seeds": len(v), "mean, %": _mean(v), "standard deviation, %": pd.Series(v).std()} for key, v in values.items() if len(v) > 1}
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["dataset", "preset"]))


def described(values: Mapping[str, Any]) -> str:
    """Values in short: `weight_position = 10, latent_size = 192`; of widths that follow each other in number, 128×7."""
    return ", ".join(f"{key.partition('.')[2]} = {_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:g}"
    groups = [(width, len(list(same))) for width, same in itertools.groupby(value)]
    return "[" + ", ".join(f"{width}×{n}" if n > 1 else str(width) for width, n in groups) + "]"


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else float("nan")


def _content() -> dict[str, Any]:
    return json.loads(resources.files("nesf_studies.analysis").joinpath("search_steps.json").read_text(encoding="utf-8"))
