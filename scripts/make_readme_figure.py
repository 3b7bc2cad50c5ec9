"""Draw book/images/overview.png and the film book/_static/field.svg.

One test crystal of `starter`, a slice of the position field that the recorded model gives for it,
its reconstruction; the film follows the particles of a crystal with many atoms in one plane.

python scripts/make_readme_figure.py [RUN]      RUN: a run folder; by default the recorded one
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nesf import data
from nesf.crystals import Crystals
from nesf.decode import reconstruct
from nesf.metrics import evaluate
from nesf.saved import TrainedModel
from nesf_studies.fields import best_for_slice, encode_one, learned_field, overview
from nesf_studies.landing import FRAMES, field_film
from nesf_studies.page import recorded_run
from nesf_studies.particles import follow

TARGET = Path(__file__).resolve().parent.parent / "book" / "images" / "overview.png"


def main() -> None:
    """Draw the figure and write it."""
    parser = argparse.ArgumentParser(
        description="Draw the pictures of the README and the first page."
    )
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        help="run folder trained on starter (default: the recorded one)",
    )
    folder = parser.parse_args().run or recorded_run("starter")
    model = TrainedModel.load(folder, "cpu")
    test = data.load("starter").split("test")
    reconstruction = reconstruct(model, test).crystals
    i = choose(test, reconstruction)
    example = test.select([i])
    overview(example, reconstruction.select([i]), field=learned_field(model, example)).savefig(
        TARGET, dpi=130
    )
    # the colours that it has, in a third of the bytes
    Image.open(TARGET).convert("RGB").quantize(128).save(TARGET, optimize=True)
    print(f"{TARGET}: {test.ids[i]} from {folder}")
    film = TARGET.parents[1] / "_static" / "field.svg"
    flat = test.select([best_for_slice(test)])
    film.write_text(draw_film(model, flat))
    print(f"{film}: {flat.ids[0]} from {folder}")


def draw_film(model: TrainedModel, crystal: Crystals) -> str:
    """Return the film of one crystal as SVG."""
    steps = follow(
        encode_one(model, crystal), model.box, model.vocabulary, model.config.decoding, FRAMES
    )
    return field_film(crystal, steps, learned_field(model, crystal))


def choose(actual: Crystals, detected: Crystals) -> int:
    """Return the crystal that shows most: three elements, five atoms, the median position error."""
    elements = np.array(
        [len(np.unique(actual.species[actual.atoms(i)])) for i in range(len(actual))]
    )
    errors = evaluate(actual, detected, match=False).materials
    good = (errors["n_atoms_actual"] == errors["n_atoms_detected"]) & (
        errors["species_error_actual_percent"] == 0
    )
    fits = (elements >= 3) & good.to_numpy(bool) & (actual.n_atoms == 5)
    candidates = np.flatnonzero(fits) if fits.any() else np.arange(len(actual))
    order = (
        errors["position_error_actual_angstrom"].to_numpy(float)[candidates].argsort(kind="stable")
    )
    return int(candidates[order[len(order) // 2]])


if __name__ == "__main__":
    main()
