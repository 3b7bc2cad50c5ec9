"""Write nesf_icsg3d/ionic_radii.json from pymatgen's element data: same pymatgen, same bytes.

    python scripts/build_ionic_radii.py

The mean over oxidation states, Å, by atomic number; the voxel baseline takes it for the width of an
atom. Elements without ionic radii are left out: the baseline gives them one default radius.
"""

from __future__ import annotations

from pathlib import Path

from pymatgen.core import Element

from nesf.files import write_json

TABLE = Path(__file__).parents[1] / "nesf" / "icsg3d" / "ionic_radii.json"


def main() -> None:
    """Write the table."""
    radii = {}
    for z in range(1, 119):
        known = list(Element.from_Z(z).ionic_radii.values())
        if known:
            radii[str(z)] = round(float(sum(known) / len(known)), 6)
    write_json(TABLE, radii)


if __name__ == "__main__":
    main()
