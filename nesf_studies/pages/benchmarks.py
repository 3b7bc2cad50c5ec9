"""Tables of recorded benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.errors import DataError
from nesf.files import read_json
from nesf.records import schema_problems
from nesf_studies.pages.common import RESULTS

if TYPE_CHECKING:
    from pandas import DataFrame

BENCHMARKS = ("speed", "scaling", "profile", "agreement", "memory")


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


def read_benchmark(folder: Path, kind: str) -> dict[str, Any]:
    """What `write_benchmark` wrote.

    Raises:
        DataError: it is missing or broken.
    """
    path = Path(folder) / f"{kind}.json"
    content = read_json(path)
    if problems := schema_problems("benchmark", content):
        raise DataError(f"{path}: {problems[0]}; measure again with `python -m benchmarks`")
    return content
