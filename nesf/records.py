"""Recorded runs: what a training or a predictor left behind, checked and read again.

results/<dataset>/<method>/<preset>/<seed-N or fold-K>/
    run.json          what ran: command, commit, config, dataset, versions, device, time, memory
    metrics.json      per split the summary of `nesf.metrics.evaluate`
    materials.csv     per split and material the same errors, `MATERIAL_COLUMNS`, and certificates
    log.csv           per epoch the losses of a training, its `LOG_COLUMNS`
    model.safetensors, model.json   the weights, of seed 0 or fold 0
    analysis/<name>/  what an analysis of the model made (`nesf_studies.record`)
results/table1.csv    mean and deviation over seeds or folds, beside the paper's
results/SHA256SUMS    of every file that is published
results/benchmarks/<name>/*.json   what `make bench` measured
The forms of the JSON files are in schema/.
"""

from __future__ import annotations

import functools
import json
import platform
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.data.dataset import SPLITS, Dataset
from nesf.data.streaming import StreamedDataset
from nesf.files import read_json, sha256_of, write_atomically, write_json
from nesf.forms import FORMAT, cut
from nesf.metrics import CERTIFICATE_COLUMNS, ERRORS, Metrics
from nesf.saved import versions
from nesf_io.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

MATERIAL_COLUMNS = (
    "split",
    "id",
    "formula",
    "n_atoms_actual",
    "n_atoms_detected",
    *ERRORS,
    "matched",
    "match_rmse",
)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class RecordedRun:
    """A recorded run: content of `run.json` and of `metrics.json` ({} before it is scored)."""

    folder: Path
    run: dict[str, Any]
    metrics: dict[str, dict[str, Any]]

    def log(self) -> pd.DataFrame:
        """Return the losses per epoch (`log.csv`)."""
        return read_csv(self.folder / "log.csv")

    def materials(self) -> pd.DataFrame:
        """Return the errors per split and material (`materials.csv`)."""
        return read_csv(self.folder / "materials.csv")


def commit() -> str:
    """Return the commit of the clone (`-dirty`: a package differs), or `unknown`."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / ".git").exists():
        return "unknown"
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(clone), *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "--verify", "HEAD"),
                ("status", "--porcelain", "--", "nesf*"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head}-dirty" if changes else head


def command_line(arguments: Sequence[str], program: Sequence[str] = ("nesf",)) -> str:
    """Return the command as a user would repeat it; absolute paths are cut to their last part."""
    return shlex.join(
        [
            *program,
            *(
                re.sub(r"^(--[\w-]+=)?/(?:.*/)?([^/]+)/?$", lambda m: (m[1] or "") + m[2], a)
                for a in arguments
            ),
        ]
    )


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return the part of `run.json` that the machine decides; `device` as torch names it."""
    import torch

    cuda = device.startswith("cuda")
    installed = {name: metadata.version(name) for name in ("scipy", "pandas", "pymatgen")}
    return {
        "versions": versions() | installed,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if cuda else _cpu(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": peak_memory(),
        "peak_gpu_memory_bytes": int(torch.cuda.max_memory_allocated(device)) if cuda else None,
    }


def write_run(
    folder: Path,
    dataset: Dataset | StreamedDataset,
    about: Mapping[str, Any],
    *,
    device: str = "cpu",
    peak_before: int = 0,
) -> dict[str, Any]:
    """Write `run.json`, after what it describes has ended (time and memory are known then).

    Args:
        folder: the run's; the weights in it, if any, are hashed.
        dataset: what was trained on or predicted for.
        about: `method`, `preset`, `seed`, `command`, `config` ({} where there is nothing to choose)
            and `wall_time_seconds` (in all, or one number a stage); optionally `finished`,
            `started` (UTC), `commit` (that of the start), and further entries, kept as given.
        device: where it computed.
        peak_before: peak memory of the sessions that this one resumed, bytes.

    Returns:
        The content written.

    Raises:
        DataError: the content is not valid; the message says where.
    """
    weights, machine = Path(folder) / WEIGHTS, environment(device)
    started = (datetime.now(UTC) - timedelta(seconds=seconds(about))).isoformat(timespec="seconds")
    run = {
        "format": FORMAT,
        "dataset": {"name": dataset.name, "fold": dataset.fold, "hash": dataset.hash()},
    }
    # the order of the keys in the file
    run |= dict.fromkeys(("method", "preset", "seed", "command"))
    run |= {
        "commit": commit() if "commit" not in about else None,
        "started": started,
        "wall_time_seconds": None,
        "finished": True,
    }
    run["checkpoint"] = (
        {"file": WEIGHTS, "sha256": sha256_of(weights)} if weights.exists() else None
    )
    run |= (
        machine
        | {"peak_memory_bytes": max(machine["peak_memory_bytes"], peak_before), "config": {}}
        | dict(about)
    )
    write_checked(Path(folder) / "run.json", run, "run")
    return run


def update_run(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change entries of an existing `run.json`, for example add the time of a stage.

    Raises:
        DataError: there is no run.json, or the result is not valid.
    """
    path = Path(folder) / "run.json"
    write_checked(path, read_record(path, "run") | dict(changes), "run")


def kept_scores(
    folder: Path, run: Mapping[str, Any], summaries: Mapping[str, Any], replace: bool
) -> list[str]:
    """Return the splits whose recorded scores stay when those of `summaries` are written."""
    path = folder / "metrics.json"
    recorded = read_json(path) if path.exists() else {}
    if (twice := [split for split in summaries if split in recorded]) and not replace:
        raise ConfigError(f"{path}: holds scores of {twice[0]}; replace them with --replace")
    keep = [split for split in recorded if split not in summaries]
    decodings = [made["reconstruction"] for made in summaries.values()]
    decodings += [run["reconstruction"]] if keep and "reconstruction" in run else []
    # an old record lacks what came later
    if any(d.get(key, v) != v for d in decodings for key, v in decodings[0].items()):
        raise ConfigError(
            f"{folder}: its splits are not decoded in one way; reconstruct and evaluate all of them, or give the other decoding a --label"
        )
    return keep


def write_metrics(folder: Path, metrics: Mapping[str, Metrics], keep: Collection[str] = ()) -> None:
    """Write `metrics.json` and `materials.csv` (6 significant digits).

    They hold exactly these splits, and those of the recorded ones that are to be kept.

    Raises:
        DataError: a split is not train, val or test, or a recorded file is missing.
    """
    import pandas as pd

    summaries = {split: one.summary for split, one in metrics.items()}
    tables = {split: one.materials.assign(split=split) for split, one in metrics.items()}
    if keep:
        recorded = read_json(Path(folder) / "metrics.json")
        summaries |= {split: recorded[split] for split in keep}
        materials = read_csv(Path(folder) / "materials.csv")
        tables |= {split: materials[materials["split"] == split] for split in keep}
    order = sorted(summaries, key=lambda s: SPLITS.index(s) if s in SPLITS else len(SPLITS))
    write_checked(
        Path(folder) / "metrics.json", {split: summaries[split] for split in order}, "metrics"
    )
    materials = pd.concat([tables[split] for split in order])
    known = [c for c in CERTIFICATE_COLUMNS if c in materials]
    materials = materials[[*MATERIAL_COLUMNS, *known]]
    write_atomically(
        Path(folder) / "materials.csv",
        materials.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    )


def read_run(folder: Path) -> RecordedRun:
    """Read one recorded run.

    Raises:
        DataError: run.json is missing or broken, or metrics.json is broken.
    """
    folder = Path(folder)
    run, scores = read_record(folder / "run.json", "run"), folder / "metrics.json"
    return RecordedRun(folder, run, read_record(scores, "metrics") if scores.exists() else {})


def read_record(path: Path, schema: str) -> Any:
    """Read a JSON file that agrees with a schema.

    Raises:
        DataError: it is missing or broken; the message says where.
    """
    content = read_json(path)
    if problems := schema_problems(schema, content):
        raise DataError(
            f"{path}: {problems[0]}; make it again, or mend it and check with scripts/validate_results.py"
        )
    return content


def run_folders(root: Path) -> list[Path]:
    """Return every folder under `root` that holds a run.json or a metrics.json, sorted."""
    found = {p.parent for name in ("run.json", "metrics.json") for p in Path(root).rglob(name)}
    hidden = {p for p in found if any(n.startswith(".") for n in p.relative_to(root).parts)}
    return sorted(found - hidden, key=_natural)


def all_runs(root: Path) -> list[RecordedRun]:
    """Return every recorded run under `root`, sorted by folder (fold-2 before fold-10).

    Raises:
        DataError: a run is broken; the message names it.
    """
    return [read_run(folder) for folder in run_folders(root)]


def seconds(run: Mapping[str, Any]) -> float:
    """Return the wall-clock time of a run in all, s."""
    wall = run["wall_time_seconds"]
    return float(sum(wall.values()) if isinstance(wall, Mapping) else wall)


@functools.cache
def _validator(name: str) -> Any:
    # where it is installed, jsonschema builds its grammar, which takes seconds, for a format (iri)
    # that no schema here has
    grammar = "rfc3987_syntax"
    loaded = sys.modules.setdefault(grammar, None)  # type: ignore[arg-type]
    from jsonschema import Draft202012Validator

    if loaded is None:
        del sys.modules[grammar]
    return Draft202012Validator(
        json.loads(
            resources.files("nesf").joinpath(f"schema/{name}.json").read_text(encoding="utf-8")
        )
    )


def schema_problems(name: str, content: Any) -> list[str]:
    """Return the violations of schema/`name`.json as sentences."""
    try:
        json.dumps(content, allow_nan=False)
    except ValueError:
        # Python reads and writes NaN and Infinity; JSON, and with it every other reader, knows
        # neither
        return [f"{name}.json: holds NaN or Infinity, which JSON has not; write null"]
    return [
        f"{name}.json: {error.json_path}: {cut(error.message, 300)}"
        for error in _validator(name).iter_errors(content)
    ]


def write_checked(path: Path, content: Any, schema: str) -> None:
    """Write JSON that agrees with a schema.

    Raises:
        DataError: it does not; nothing is written.
    """
    if problems := schema_problems(schema, content):
        raise DataError(f"{path}: {problems[0]}; nothing was written")
    write_json(path, content)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a recorded table.

    Raises:
        DataError: there is no such file, or it is no table.
    """
    import pandas as pd

    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():  # of rows that have more fields than the header
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # The formula NaN (sodium nitride) is text; so only an empty field is a missing one.
            return pd.read_csv(
                path, keep_default_na=False, na_values=[""], dtype={"id": str}, index_col=False
            )
    # pandas' own errors are ValueErrors
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a table ({why}); make it again") from None


def _natural(path: Path) -> list[Any]:
    """Return a sort key in which fold-2 comes before fold-10, and cpu before cpu-consistent."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", "\0".join(path.parts))
    ]


def _cpu() -> str:
    """Return the name of the processor."""
    try:
        names = re.findall(
            r"^model name\s*:\s*(.+)$",
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"),
            re.MULTILINE,
        )
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def peak_memory() -> int:
    """Return the peak resident memory of this process, bytes; 0 where it is not known (Windows)."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )  # macOS counts bytes, Linux KiB
