"""Maps to crystals: recursive watershed of the binary map, centroid and species of each part.

The public code's algorithm, with two of its habits that its results rest on: erosion stops at the
bounding box of a component, and only the first component of a map sees a watershed (`_divided`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from skimage import measure, morphology, segmentation
from tqdm import tqdm

from nesf.crystals import Crystals, lattice_parameters, standard_lattice
from nesf.metrics import evaluate
from nesf_icsg3d.config import DecodingConfig, VoxelConfig
from nesf_icsg3d.voxels import origin, voxelise

FACES = ndimage.generate_binary_structure(3, 1)  # a voxel and its six neighbours
LABEL_FRACS = (1.0, 0.85, 0.70, 0.50)


def segment(binary: np.ndarray, config: DecodingConfig, iteration: int = 1) -> np.ndarray:
    """Divide a map into atoms.

    A face-connected component of at least `min_voxels` voxels is an atom if its convexity (voxels
    over convex hull) is ≥ `min_convexity`. Otherwise it is eroded, labelled and regrown by a
    watershed, and its parts are divided again while they are few for their size.

    Args:
        binary: [n, n, n], bool, or labels of parts that do not belong together.
        iteration: depth of the recursion.

    Returns:
        [n, n, n] labels from 1, 0 where there is no atom.
    """
    result = np.zeros(binary.shape, np.int32)
    components = measure.label(binary.astype(np.int32), connectivity=1)
    counts = np.bincount(components.ravel())
    for label, box in enumerate(ndimage.find_objects(components), start=1):
        if counts[label] < config.min_voxels:
            continue
        component = components[box] == label
        if component.sum() / _hull_voxels(component) >= config.min_convexity:
            parts = component.astype(np.int32)
        else:
            parts = _divided(component, regrow=label == 1)
            n_parts = len(np.unique(parts)) - 1
            if (
                parts.astype(bool).sum() // config.voxels_per_atom > n_parts
                and iteration < config.max_iterations
            ):
                parts = segment(parts, config, iteration + 1)
        inside = parts > 0
        result[box][inside] = parts[inside] + result.max()
    return result


def _hull_voxels(component: np.ndarray) -> int:
    """Return the number of voxels in the convex hull, at least those of the component."""
    with warnings.catch_warnings():
        # a flat component has no hull in space: its own voxels are counted
        warnings.simplefilter("ignore")
        return max(int(morphology.convex_hull_image(component).sum()), int(component.sum()))


def _divided(component: np.ndarray, *, regrow: bool) -> np.ndarray:
    """Return labels of the parts that erosion separates, [n, n, n] as the component in its box.

    Args:
        component: bool, within its bounding box.
        regrow: let parts and background share the eroded voxels in a watershed. The background
            reaches nearly all of them first, so that it matters in niches and holes only, in about
            1 % of the divided components. published code: compares with 1 a mask that holds the
            component's label, so that only component 1 has voxels to share / here: as published.
    """
    eroded = ndimage.binary_erosion(component, FACES, border_value=1)
    parts = measure.label(eroded)
    if not regrow:
        return parts
    unknown = ndimage.binary_dilation(component, FACES) & ~eroded
    markers = np.where(unknown, 0, parts + 1)  # 1: far from the component
    grown = segmentation.watershed(component.astype(np.int32), markers)
    return np.where(grown > 1, grown - 1, 0)


def find_atoms(
    species: np.ndarray, binary: np.ndarray, config: DecodingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Find the atoms of one crystal.

    Args:
        species: [n, n, n], most probable atomic number of each voxel, 0 for none.
        binary: [n, n, n], bool, whether a voxel belongs to an atom (probability ≥
            `binary_threshold`).

    Returns:
        Centroids [N, 3] in voxels, 0 being the centre of the first one, and atomic numbers [N]: the
        most frequent but 0. A part without a species is no atom. Of equally frequent numbers the
        smallest (published code: the largest; it decides for one atom of LCS6Å's test split).
    """
    parts = segment(binary, config)
    centroids, numbers = [], []
    for label, box in enumerate(ndimage.find_objects(parts), start=1):
        if box is None:
            continue
        inside = parts[box] == label
        counts = np.bincount(species[box][inside])
        counts[0] = 0
        if counts.any():
            centroids.append(np.argwhere(inside).mean(0) + [axis.start for axis in box])
            numbers.append(int(counts.argmax()))
    return np.array(centroids).reshape(-1, 3), np.array(numbers, dtype=np.int64)


def read_lengths(coordinates: np.ndarray, voxels: VoxelConfig, *, slip: bool) -> np.ndarray:
    """Return cell lengths [B, 3] (Å), from the range of each coordinate channel [B, 3, n, n, n].

    `slip`: the published code takes 1/n off once more, -3.1 %.
    """
    flat = coordinates.reshape(len(coordinates), 3, -1)
    whole = 1 - 1 / voxels.n  # the channels end one voxel short of the box
    lengths = (flat.max(-1) - flat.min(-1)) / voxels.extent / whole
    return lengths * whole if slip else lengths


def to_crystals(
    ids: Iterable[str],
    atoms: Sequence[tuple[np.ndarray, np.ndarray]],
    lengths: np.ndarray,
    angles: np.ndarray,
    origins: np.ndarray,
    voxels: VoxelConfig,
) -> Crystals:
    """Turn atoms in voxels into crystals in the standard setting, which undoes the voxelisation.

    Args:
        atoms: B times centroids [N_i, 3] in voxels and atomic numbers [N_i] (`find_atoms`).
        lengths: [B, 3], Å.
        angles: [B, 3], radians; the published variant has 90°.
        origins: [B, 3], the fractional coordinates that voxelisation took away
            (`nesf_icsg3d.voxels.origin`). The maps do not hold them; the published code compares
            without them, which is the same where the lengths are right.
    """
    lattice = standard_lattice(lengths, angles)
    fractional = [
        (c + 0.5) * (voxels.extent / voxels.n) - voxels.margin + o
        for (c, _), o in zip(atoms, origins, strict=True)
    ]
    return Crystals.from_arrays(
        ids,
        [f @ cell for f, cell in zip(fractional, lattice, strict=True)],
        [z for _, z in atoms],
        lattice,
    )


def oracle(
    crystals: Crystals,
    voxels: VoxelConfig,
    decoding: DecodingConfig | None = None,
    *,
    progress: bool = False,
) -> Crystals:
    """Return what perfect networks could reach: the segments of the true species maps.

    The true lattice is kept.
    """
    decoding = decoding or DecodingConfig()
    species = voxelise(crystals, voxels, progress=progress).species.numpy()
    found = [
        find_atoms(s, s != 0, decoding)
        for s in tqdm(species, desc="segmenting", unit="crystal", disable=not progress)
    ]
    lengths, angles = lattice_parameters(crystals.lattice)
    return to_crystals(crystals.ids, found, lengths, angles, origin(crystals), voxels)


def choose_label_frac(
    crystals: Crystals,
    voxels: VoxelConfig,
    candidates: Sequence[float] = LABEL_FRACS,
    *,
    progress: bool = False,
) -> float:
    """Return the `label_frac` with which the oracle errs least: in number of atoms, then positions.

    Args:
        crystals: a validation (or training) split; never the test split.
        candidates: the first of equally good ones is taken.
    """
    errors = []
    for label_frac in candidates:
        found = oracle(crystals, replace(voxels, label_frac=label_frac), progress=progress)
        summary = evaluate(crystals, found, match=False).summary
        errors.append(
            (
                summary["number_of_atoms_error_percent"],
                summary["position_error_actual_angstrom"] or float("inf"),
            )
        )
    return candidates[errors.index(min(errors))]
