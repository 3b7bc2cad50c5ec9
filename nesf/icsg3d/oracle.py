"""What the maps and the segmentation could reach if both networks were perfect: ground-truth maps to atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from nesf.crystals import Crystals, lattice_parameters
from nesf.icsg3d.config import DecodingConfig, VoxelConfig
from nesf.icsg3d.segmentation import find_atoms, to_crystals
from nesf.icsg3d.voxels import origin, voxelise
from nesf.metrics import evaluate

LABEL_FRACS = (1.0, 0.85, 0.70, 0.50)


def oracle(crystals: Crystals, voxels: VoxelConfig, decoding: DecodingConfig | None = None, *, progress: bool = False) -> Crystals:
    """Voxelise crystals and segment the true species map; the true lattice is kept.

    Args:
        crystals: B crystals.
        voxels: grid; its `label_frac` decides how much neighbouring atoms overlap.
        decoding: limits of the segmentation.
        progress: show a progress bar.

    Returns:
        B crystals with the same ids, to be scored with `nesf.metrics.evaluate`.
    """
    decoding = decoding or DecodingConfig()
    species = voxelise(crystals, voxels, progress=progress).species.numpy()
    found = [find_atoms(s, s != 0, decoding) for s in tqdm(species, desc="segmenting", unit="crystal", disable=not progress)]
    lengths, angles = lattice_parameters(crystals.lattice)
    return to_crystals(crystals.ids, [c for c, _ in found], [z for _, z in found], lengths, angles, origin(crystals), voxels)


def choose_label_frac(crystals: Crystals, voxels: VoxelConfig, candidates: Sequence[float] = LABEL_FRACS, *, progress: bool = False) -> float:
    """The `label_frac` with which the oracle errs least: in the number of atoms, then in their positions.

    Args:
        crystals: a validation (or training) split; never the test split.
        voxels: grid.
        candidates: values to try; the first of equally good ones is taken.
        progress: show progress bars.
    """
    errors = []
    for label_frac in candidates:
        found = oracle(crystals, replace(voxels, label_frac=label_frac), progress=progress)
        summary = evaluate(crystals, found, match=False).summary
        errors.append((summary["number_of_atoms_error_percent"], summary["position_error_actual_angstrom"] or float("inf")))
    return candidates[errors.index(min(errors))]
