"""What the book copies beside the page with the live model: scripts, weights, crystals, a picture.

Nothing of it is committed: it is made from a recorded run and its analysis `atlas` when the book is
built (`setup`, an extension of Sphinx).
"""

from __future__ import annotations

import base64
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.data import covalent_radii
from matplotlib.colors import LogNorm
from pymatgen.core import Element

from nesf.crystals import Crystals
from nesf.files import read_json, write_atomically
from nesf.saved import TrainedModel
from nesf_io.errors import DataError
from nesf_studies.live.weights import packed
from nesf_studies.record import RecordedAnalysis, recorded_analysis
from nesf_studies.style import element_colour, subplots

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "results"
RUN = RESULTS / "lcs6/nesf/plus/seed-0"
# modules of the thread with the model, and of the page, each after those that it imports
WORKER = ("gemm", "lattice", "engine", "polish", "cif", "crystal", "atlas", "worker")
PAGE = ("lattice", "crystal", "atlas", "scene", "map", "page")
MARGIN = 0.1  # of a cell, beyond which no atom of the crystals lies
UNKNOWN = 65535
FILES = ("page.js", "model.js", "atlas.js", "still.png")
QUOTED = ("n_materials", "certified_percent", "certified_wrong_percent")  # in the page


def export(folder: Path, run: Path = RUN) -> None:
    """Write page.js, model.js, atlas.js and still.png into a folder.

    Args:
        run: a recorded run with weights, and with the analysis `atlas`.

    Raises:
        DataError: a part is not recorded, or does not belong to the others.
    """
    if _up_to_date(folder, run):
        return
    model, recorded = TrainedModel.load(run, "cpu"), recorded_analysis("atlas", run)
    about, numbers = packed(model)
    if recorded.about["dataset"]["hash"] != model.dataset["hash"]:
        raise DataError(f"{recorded.folder}: is of another dataset than the model; record it again")
    points, crystals = recorded.table("points"), recorded.crystals("crystals")
    header, content = crystal_bytes(points, crystals, pd.read_csv(run / "materials.csv"))
    test = read_json(run / "metrics.json")["test"]
    about |= {"elements": elements(), "recorded": {k: test[k] for k in QUOTED if k in test}}
    about["run"] = f"results/{run.resolve().relative_to(RESULTS).as_posix()}"
    first = int(np.flatnonzero(points["split"] == "test")[0])  # the first one: nobody chooses
    folder.mkdir(parents=True, exist_ok=True)
    words = {
        "model.js": {"about": about, "weights": _text(leading_bytes(numbers))},
        "atlas.js": {"atlasAbout": header, "atlas": _text(content), "first": first},
        "page.js": {"worker": bundle(WORKER)},
    }
    for name, values in words.items():
        assigned = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
        code = f"globalThis.nesfLive = Object.assign(globalThis.nesfLive ?? {{}}, {assigned});\n"
        write_atomically(folder / name, code + (bundle(PAGE) if name == "page.js" else ""))
    write_atomically(folder / "still.png", still(recorded))


def _up_to_date(folder: Path, run: Path) -> bool:
    """Tell whether all files are there and younger than all that they are made from."""
    made = [folder / name for name in FILES]
    sources = [*HERE.iterdir(), *run.glob("*.*"), *(run / "analysis" / "atlas").iterdir()]
    return all(f.exists() for f in made) and min(f.stat().st_mtime for f in made) > max(
        f.stat().st_mtime for f in sources
    )


def bundle(modules: tuple[str, ...]) -> str:
    """Return modules as one classic script, which runs also where the book is opened from disk.

    Each becomes a function that returns what it exports.
    """
    parts = []
    for name in modules:
        code = (HERE / f"{name}.mjs").read_text(encoding="utf-8")
        exported = re.findall(r"^export (?:class|function|const) (\w+)", code, re.MULTILINE)
        code = re.sub(
            r'^import (\{[^}]*\}) from "\./(\w+)\.mjs";$',
            r"const \1 = $\2;",
            code,
            flags=re.MULTILINE,
        )
        code = re.sub(r"^export ", "", code, flags=re.MULTILINE)
        parts.append(
            f"const ${name} = (() => {{\n{code}return {{ {', '.join(exported)} }};\n}})();"
        )
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"


def leading_bytes(numbers: np.ndarray) -> bytes:
    """Return fp32 numbers [n] rounded to their three leading bytes (16 bits of mantissa).

    fp16 would move decoded atoms by up to some 0.01 Å; this moves them by less than 0.001 Å
    (tests/test_live.py).
    """
    bits = (numbers.astype("<f4").view("<u4").astype(np.uint64) + 0x80) >> 8
    return bits.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def crystal_bytes(
    points: pd.DataFrame, crystals: Crystals, materials: pd.DataFrame
) -> tuple[dict[str, Any], bytes]:
    """Return the crystals of the explorer, as atlas.mjs reads them: header and content."""
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    lattice = crystals.lattice.astype(float)
    fractional = np.einsum("ni,nij->nj", crystals.positions, np.linalg.inv(lattice)[owner])
    xy = points[["tsne_1", "tsne_2"]].to_numpy(float)
    centre, half = (xy.max(0) + xy.min(0)) / 2, (xy.max(0) - xy.min(0)).max() / 2
    errors = materials.drop_duplicates("id").set_index("id")["position_error_actual_angstrom"]
    decoded = points["id"].map(errors).where(points["split"] != "train").to_numpy(float)
    splits = points["split"].map({"train": 0, "val": 1, "test": 2})
    content = [
        np.hstack([crystals.lengths, crystals.angles]).astype("<f4"),
        _unit((xy - centre) / (2 * half) + 0.5),
        _tenths_of_milliangstrom(points["field_distance"].to_numpy(float)),
        _tenths_of_milliangstrom(decoded),
        _unit((fractional + MARGIN) / (1 + 2 * MARGIN)),
        crystals.n_atoms.astype(np.uint8),
        splits.to_numpy(np.uint8),
        points["space_group"].fillna(0).to_numpy(np.uint8),
        crystals.species.astype(np.uint8),
    ]
    n_atoms = int(crystals.offsets[-1])
    header: dict[str, Any] = {"n": len(crystals), "n_atoms": n_atoms, "margin": MARGIN}
    header["ids"] = "\n".join(crystals.ids)
    return header, b"".join(np.ascontiguousarray(a).tobytes() for a in content)


def _unit(values: np.ndarray) -> np.ndarray:
    """Return numbers from 0 to 1 as 16 bits."""
    if values.min() < 0 or values.max() > 1:
        raise DataError("an atom of the atlas lies far outside of its cell; record it again")
    return np.round(65535 * values).astype("<u2")


def _tenths_of_milliangstrom(values: np.ndarray) -> np.ndarray:
    """Return lengths, Å, in units of 1e-4 Å as 16 bits; `UNKNOWN` for NaN."""
    scaled = np.clip(np.round(1e4 * values), 0, UNKNOWN - 1)
    return np.where(np.isnan(values), UNKNOWN, scaled).astype("<u2")


def elements() -> list[dict[str, Any]]:
    """Return symbol, colour, covalent radius (Å) and electronegativity by atomic number."""
    found: list[dict[str, Any]] = [
        {"symbol": "", "colour": "", "radius": 0, "electronegativity": 0}
    ]
    for z in range(1, 104):
        element = Element.from_Z(z)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # noble gases have no electronegativity
            x = float(element.X)
        found.append(
            {
                "symbol": element.symbol,
                "colour": element_colour(z),
                "radius": round(float(covalent_radii[z]), 2),
                "electronegativity": round(x, 2) if np.isfinite(x) else 9,
            }
        )
    return found


def still(recorded: RecordedAnalysis) -> bytes:
    """Return the picture that stands in the page without JavaScript, as a PNG file."""
    points = recorded.table("points")
    figure, (ax,) = subplots(1, 9, 6)
    drawn = ax.scatter(
        points["tsne_1"], points["tsne_2"], s=4, c=points["volume"], norm=LogNorm(), linewidth=0
    )
    ax.set_axis_off()
    figure.colorbar(drawn, ax=ax, label="volume of the cell, Å³")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
