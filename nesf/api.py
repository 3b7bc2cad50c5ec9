"""What a researcher calls: structures in, structures out. `import nesf` gives these names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf import data, decode, metrics, runs
from nesf.config import ReconstructionConfig, with_fields
from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import Dataset, bounding_box
from nesf.data.files import Cell, Paths, as_crystals, warn_of
from nesf.data.files import read_structures as read_crystals
from nesf.decode import Reconstruction
from nesf.domain import ModelCell, in_cell
from nesf.forms import within
from nesf.metrics import Metrics
from nesf.saved import TrainedModel, as_model, model_folder
from nesf.trainer import TrainingResult
from nesf.trust import judged
from nesf_io.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from nesf.data.files import Structures

MOST_STEPS = 10_000  # of a line between two crystals


def load_model(name: str | Path, *, device: str = "auto") -> TrainedModel:
    """Load a trained autoencoder.

    Args:
        name: folder of a run, or the name of a recorded model (`starter`, `lcs6`, `lcs6/cpu`, …),
            as of `nesf.saved.model_folder`.
        device: auto, cpu, cuda, ...

    Raises:
        DataError: there is no such model; the message names those that there are.
    """
    return TrainedModel.load(model_folder(name), device)


def read_structures(
    paths: Paths, *, cell: Cell = "as-given", skip_bad: bool = False, column: str = "cif"
) -> list[Structure]:
    """Read structures from files, in the standard setting with their atoms wrapped into the cell.

    What was changed in reading is a warning.

    Args:
        paths: one or several files, folders or patterns, as of `nesf.data.files.read`.
        cell: `as-given`, or pymatgen's `conventional` (as in the paper) or `primitive` standard
            structure.
        skip_bad: leave out what cannot be used, with a warning, instead of raising an error.
        column: of a CSV, with the CIF or JSON texts.

    Returns:
        Each with its id in `properties["id"]`.

    Raises:
        DataError: an entry cannot be used; the message names it and says why.
    """
    crystals, skipped, notes = read_crystals(paths, cell=cell, skip_bad=skip_bad, column=column)
    warn_of(paths, skipped, notes)
    return crystals.to_structures()


def train(
    dataset: str | Dataset,
    out: Path,
    *,
    preset: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    method: str = "nesf",
    **options: Any,
) -> TrainingResult[Any]:
    """Train a model and record how.

    Args:
        dataset: name, path, or the dataset.
        out: folder for weights, log, checkpoint and `run.json`.
        preset: None for the method's default (`cpu`).
        changes: dotted key to value, for example {"training.epochs": 100}.
        seed: of the weights, the batches and the queries.
        method: `nesf` or `icsg3d`.
        options: `device`, `resume`, `minutes`, `max_minutes`, `progress`, as in
            `nesf.training.train`.

    Returns:
        The model, and how its training ended.

    Raises:
        ConfigError, DataError: an unusable setting or dataset.
    """
    dataset = dataset if isinstance(dataset, Dataset) else data.load(dataset)
    assignments = tuple((key, value) for key, value in (changes or {}).items())
    run = runs.Run(dataset.name, method, preset, seed, dataset.fold, changes=assignments)
    run = run.planned(options.get("minutes"))
    return runs.train(run, dataset, Path(out), config=run.config(), command="nesf.train", **options)


def reconstruct(
    model: TrainedModel | str | Path,
    structures: Structures,
    *,
    cell: ModelCell = "auto",
    match: bool = True,
    progress: bool = False,
    **decoding: Any,
) -> Reconstruction:
    """Encode structures and decode them again; `reports` hold particles, scores, votes and `trust`.

    `trust` says of each crystal what is known without its truth: in what it is outside the training
    domain, which cell was encoded, match and RMSD against the input (`nesf.trust.judged`).

    Args:
        model: a trained model, its folder, or its name (`load_model`).
        structures: pymatgen structures, ASE atoms, or `Crystals` in the standard setting.
        cell: cell to encode; auto: the kind that the model was trained on (`nesf.domain.in_cell`).
        match: run StructureMatcher against the input.
        progress: a progress bar on standard error.
        decoding: parameters of `ReconstructionConfig` that differ from the model's, for example
            `mode="consistent"`.

    Raises:
        DataError: no such model, or a structure cannot be used, for example for an element that the
            model has not learned.
    """
    model, given = as_model(model), as_crystals(structures)
    used, cells = in_cell(given, cell, model.domain)
    config = with_fields(model.config.decoding, decoding)
    made = decode.reconstruct(model, used, config, progress=progress)
    return judged(made, model.domain, used, given=given, cells=cells, match=match)


def interpolate(
    model: TrainedModel | str | Path,
    source: Structures,
    destination: Structures,
    steps: int = 9,
    *,
    cell: ModelCell = "auto",
    progress: bool = False,
    **decoding: Any,
) -> Reconstruction:
    """Decode a straight line between the latent vectors of two crystals (Section 4.5).

    Args:
        model: a trained model, its folder, or its name (`load_model`).
        source: where the line begins: one structure.
        destination: where it ends: one structure.
        steps: number of frames, both ends included; their ids are frame-0, frame-1, ...
        cell: as of `reconstruct`.
        progress: a progress bar on standard error.
        decoding: as of `reconstruct`.

    Returns:
        A frame a crystal; `trust` in the reports is about the decoded crystal.

    Raises:
        ConfigError: fewer than 2 steps, or more than 10,000.
        DataError: no such model, or an end cannot be used or is not one structure.
    """
    within("steps", steps, 2, MOST_STEPS)
    model = as_model(model)
    ends = concatenate([as_crystals(end) for end in (source, destination)])
    if len(ends) != 2:
        raise DataError(f"{len(ends)} structures where the two ends of a line are expected")
    used, _ = in_cell(ends, cell, model.domain)
    z = decode.latent_path(model, used, np.linspace(0, 1, steps))
    ids = [f"frame-{i:0{len(str(steps - 1))}d}" for i in range(steps)]
    config = with_fields(model.config.decoding, decoding)
    return judged(decode.decode_latent(model, z, ids, config, progress=progress), model.domain)


def oracle(structures: Structures, *, progress: bool = False, **decoding: Any) -> Reconstruction:
    """Decode the ground-truth fields of structures: what any network could reach at best."""
    crystals = as_crystals(structures)
    vocabulary = tuple(sorted(set(crystals.species.tolist())))
    return decode.oracle(
        crystals,
        bounding_box(crystals),
        vocabulary,
        with_fields(ReconstructionConfig(), decoding),
        progress=progress,
    )


def evaluate(
    actual: Structures,
    detected: Structures | Sequence[Structure | None],
    *,
    match: bool = True,
    images: bool | None = None,
) -> Metrics:
    """Score any model's structures with the paper's metrics (Table 1).

    The match rate is that of pymatgen's StructureMatcher.

    Args:
        actual: B structures.
        detected: as many, in the same order; None, or one without sites, where nothing was
            detected.
        match: also run StructureMatcher (a few ms a structure).
        images: take each detected atom at its periodic image nearest to an actual atom
            (`nesf.metrics.nearest_images`), for structures are usually wrapped into their cells;
            False: compare positions as they stand, as the paper does. None: only for structures,
            not for `Crystals`, whose positions are a decoder's own.

    Raises:
        DataError: the two do not belong together, or a structure cannot be used.
    """
    reference = as_crystals(actual)
    images = not isinstance(detected, Crystals) if images is None else images
    if not isinstance(detected, Crystals):
        items = (
            list(detected)
            if isinstance(detected, Sequence) and not hasattr(detected, "lattice")
            else [detected]
        )
        if len(items) != len(reference):
            raise DataError(
                f"{len(reference)} actual and {len(items)} detected structures; give one (or None) for each actual one"
            )
        given = {
            name: item for name, item in zip(reference.ids, items, strict=True) if item is not None
        }
        detected = metrics.align(
            reference, replace(as_crystals(list(given.values()), decoded=True), ids=tuple(given))
        )
    if images:
        detected = metrics.nearest_images(reference, detected)
    return metrics.evaluate(reference, detected, match=match)
