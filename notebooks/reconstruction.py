# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reconstruction
#
# **Question.** A latent vector stands for a crystal. How do atoms come out of it again, and how many of them are right?
#
# Read this page if you have a trained model. It loads one, follows the five steps for a single crystal, then reconstructs a whole split and scores it. Without a parameter it takes the run of the dataset that is
# **recorded** in the repository (its command is printed below). The reconstruction and all its numbers are computed on this page, on the machine that builds the book; a borderline crystal can fall on the other side than in the recorded run.
#
# With a model of your own: `papermill notebooks/reconstruction.ipynb out.ipynb -p dataset lcs6 -p run runs/lcs6`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
run: str = ""  # folder of a trained model; empty: the recorded one
split: str = "test"  # train, val or test
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["remove-cell"]
from nesf_studies.page import check_parameters

check_parameters(globals(), split=("train", "val", "test"))

# %% tags=["remove-cell"]
# %matplotlib inline
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from IPython.display import display

from nesf.baselines import constant, copy_nearest
from nesf.decode import (
    detect_atoms,
    estimate_species,
    initialize_particles,
    move_particles,
    oracle,
    reconstruct,
    score_particles,
)
from nesf.decoding_fields import NeuralFields
from nesf.metrics import evaluate
from nesf.records import read_run, seconds
from nesf_studies.fields import (
    best_for_slice,
    learned_field,
    plane_fields,
    structure_field,
)
from nesf_studies.links import HERE, prose, sourced
from nesf_studies.page import open_dataset, open_model
from nesf_studies.particles import particle_paths
from nesf_studies.reads import is_there
from nesf_studies.scores import error_distribution, metrics_chart
from nesf_studies.style import captioned, save
from nesf_studies.tables import metrics_table
from nesf_studies.viewer import reconstruction_view

# %% tags=["hide-input"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
model, folder = open_model(run, crystals)
chosen = crystals.split(split)
if is_there(folder / "run.json"):
    recorded = read_run(folder).run
    print(f"made by: {recorded['command']}")
    print(
        f"{seconds(recorded) / 60:.0f} minutes, {recorded['threads']} thread(s) of {recorded['device_name']}"
    )

# %% [markdown]
# ## Five steps, for one crystal
#
# The latent vector is all that the decoder gets. From it the position field $f_p(\mathbf{p}, \mathbf{z})$ tells any particle where the nearest atom is, so particles that follow it (Equation {eq}`step`) gather at the atoms. In code, with `config` for the parameters of the decoding:
#
# ```python
# particles = initialize_particles([model.box], config)      # step 1
# particles = move_particles(fields, particles, config)       # step 2
# particles = score_particles(fields, particles, config)      # step 3
# atoms = detect_atoms(particles, 1, config)                  # step 4
# species, votes = estimate_species(fields, atoms, ...)       # step 5
# ```

# %% tags=["hide-input"]
config = model.config.decoding
example = chosen.select([best_for_slice(chosen)])
with torch.no_grad():
    fields = NeuralFields(model.autoencoder, model.encode(example))
    start = initialize_particles([model.box], config, model.device)  # step 1
    once = move_particles(fields, start, replace(config, iterations=1))
    moved = move_particles(fields, start, config)  # step 2
    moved = score_particles(fields, moved, config)  # step 3
    kept = moved.select(moved.scores <= config.score_threshold)
    atoms = detect_atoms(kept, 1, config)[0]  # step 4
    positions = torch.as_tensor(atoms.positions).to(kept.positions)
    at = torch.zeros(len(positions), dtype=torch.long, device=model.device)
    species, votes = estimate_species(
        fields, positions, at, len(model.vocabulary), config
    )

frames = {
    "1  initialise": start,
    "2  moved once": once,
    "2  moved": moved,
    "3  kept": kept,
}
frames = {k: v.positions.cpu().numpy() for k, v in frames.items()}
figure = particle_paths(frames, example)
if out:
    drawn = [
        pd.DataFrame(v, columns=list("xyz")).assign(moment=k)
        for k, v in frames.items()
    ]
    file = Path(out) / f"particles-{example.ids[0]}"
    save(figure, file, pd.concat(drawn))
figure

# %% [markdown]
# *Particles of one crystal of the split (blue dots), seen along z: at the start, after one move, after all moves, and those that step 3 keeps. Circles: its true atoms.*
#
# Steps 4 and 5 make atoms of the particles that are kept.

# %% tags=["hide-input"]
from pymatgen.core import Element

table = pd.DataFrame(atoms.positions, columns=["x, Å", "y, Å", "z, Å"]).round(3)
table["element"] = [
    Element.from_Z(model.vocabulary[i]).symbol for i in species.tolist()
]
table["votes for it"] = [
    f"{best} of {total}"
    for best, total in zip(
        votes.amax(1).tolist(), votes.sum(1).tolist(), strict=True
    )
]
table["particles"] = atoms.particles
table["score, Å"] = atoms.scores.round(4)
sourced(table, HERE)

# %% [markdown]
# *The atoms that are detected, a row each: position, the element with the most votes and how many of the queries around the atom name it, number of particles in its cluster, and score of its best particle (length of the arrow that is left; lower is better).*
#
# The network's fields, on the same slice as the true ones that [](data) shows:


# %% tags=["hide-input"]
name = example.to_structures()[0].composition.reduced_formula
learned = learned_field(model, example)
title = f"{name}, network"
figure = structure_field(example, field=learned, title=title)
if out:
    plane = plane_fields(example, learned)
    save(figure, Path(out) / f"field-{example.ids[0]}", plane)
figure

# %% [markdown]
# *Learned fields of the same crystal in a horizontal slice. Left: the position field. Arrows point to where the network sees the nearest atom, at a third of their length; the darker the grey, the farther. Right: the species field; colours: the element that the network names. Discs are true atoms in the slice, dotted circles true atoms above or below it; the frame is the cell.*
#
# ## All crystals of the split

# %% tags=["remove-stderr", "hide-input"]
reconstruction = reconstruct(model, chosen, config, progress=True)
metrics = evaluate(chosen, reconstruction.crystals)
missed = reconstruction.nothing_detected
print(
    f"{len(chosen)} crystals in, {len(reconstruction.crystals)} out; nothing detected: {', '.join(missed) or 'none'}"
)

# %% [markdown]
# How good is it? The trivial predictors say. *Copy*: the training crystal nearest in composition and cell. *Constant*: always the same typical crystal. *Oracle*: the five steps with the **true** fields instead of
# the network's, so what it misses is lost by the steps and not by the network.

# %% tags=["remove-stderr", "hide-input"]
train_split = crystals.split("train")
perfect = oracle(chosen, model.box, model.vocabulary, config)
summaries = {
    "nesf": metrics.summary,
    "copy": evaluate(chosen, copy_nearest(train_split, chosen)).summary,
    "constant": evaluate(chosen, constant(train_split, chosen)).summary,
    "oracle": evaluate(chosen, perfect.crystals).summary,
}
shown = {
    "number_of_atoms_error_percent": "number of atoms, %",
    "position_error_actual_angstrom": "position (actual), Å",
    "species_error_actual_percent": "species (actual), %",
    "lattice_length_error_angstrom": "lattice length, Å",
}
figure = metrics_chart(summaries, shown)
if out:
    errors = pd.DataFrame(summaries).loc[list(shown)].T.reset_index()
    save(figure, Path(out) / f"metrics-{crystals.name}", errors)
captioned(
    figure,
    f"Errors on the {split} split of {crystals.label}, one trained model (one seed or fold): a panel an error, a row a method; lower is better. Blue: NeSF; grey: trivial predictors; green: the oracle. Actual: mean over the atoms of the true crystals.",
    table=sourced(
        metrics_table(summaries, dataset=crystals.name, split=split), HERE
    ),
    name="reconstruction-errors",
    fold="All errors as a table",
)

# %% [markdown]
# The table in the fold has the match rate too (higher is better), the errors that are means over the atoms found (“detected”), and the paper's numbers for datasets that the paper has.
#
# ## Before and after
#
# A typical crystal, then the worst. Drag to turn, scroll to zoom.

# %% tags=["hide-input"]
errors = metrics.materials["position_error_actual_angstrom"].astype(float)
order = errors.dropna().sort_values().index
before, after = chosen.to_structures(), reconstruction.crystals.to_structures()
typical, worst = order[len(order) // 2], order[-1]
display(
    prose(
        f"`{chosen.ids[typical]}`: position error {errors[typical]:.3f} Å", HERE
    )
)
reconstruction_view(before[typical], after[typical])

# %% [markdown]
# *The crystal with the median position error, before and after reconstruction. Colours: elements.*

# %% tags=["hide-input"]
display(
    prose(f"`{chosen.ids[worst]}`: position error {errors[worst]:.3f} Å", HERE)
)
reconstruction_view(before[worst], after[worst])

# %% [markdown]
# *The crystal with the largest position error among those in which something was detected, before and after reconstruction.*
#
# ## The spread of the errors

# %% tags=["hide-input"]
figure = error_distribution(
    metrics.materials,
    title=f"{crystals.label}, {split} split, n = {len(chosen)}",
)
if out:
    file = Path(out) / f"error-distribution-{crystals.name}"
    save(figure, file, metrics.materials)
figure

# %% [markdown]
# *Errors of single crystals of the split. Left: number of crystals by their position error (actual), with median and mean. Right: atoms detected against atoms in the cell; on the line the number is right, and the area of a dot is the number of crystals.*
#
# ## What to distrust
#
# - A mean over all atoms is made by the tail: most crystals are much better than it, and a few have failed.
# - The reconstruction is computed on this page, and the recorded errors were computed on another machine. The last digits of a field differ between processors, so a crystal on the edge of a tolerance may match on one and not on the other.
# - Distances do not see periodic images, as published: an atom found at the other end of the cell counts as wrong although the crystal is the same. The match rate, which knows about periodicity, is the second opinion.
# - The latent vector is made from the very crystal that is reconstructed. This page says how much of a crystal the vector holds, not whether a new crystal can be invented.
#
# ## Exercises
#
# **1.** The oracle decodes the true fields and is still not perfect for some datasets. Which of the five steps can lose an atom even then?
#
# :::{dropdown} Solution
# Step 4: two atoms nearer to each other than the radius of 0.5 Å become one, and an atom that gathers fewer than ten particles is rejected, which happens in crowded cells or at the border of the box. [](sensitivity) changes both numbers.
# :::
#
# **2.** An atom sits at the origin, its detected twin at the opposite corner of the cell. What do the position error and the match rate say?
#
# :::{dropdown} Solution
# The position error, which knows no periodic images, counts the distance to the nearest detected atom, up to a cell diagonal. StructureMatcher knows that the two are the same site, so the crystal matches. That is why the table of {numref}`reconstruction-errors` has both.
# :::
#
# **3.** Decode with twice the grid interval and compare the errors and the time.
#
# :::{dropdown} Solution
# ```
# nesf reconstruct lcs6 my.cif --out usual/
# nesf reconstruct lcs6 my.cif --out coarse/ --decode grid_interval=1.0 --decode min_particles=2
# ```
# Eight times fewer particles start, so fewer gather at each atom: without a smaller `min_particles` true atoms are rejected.
# :::
#
# ## Summary
#
# Following a field to its ends turns a vector of numbers into any number of atoms; the steps themselves lose nothing (oracle), so what is missing was not learned.
