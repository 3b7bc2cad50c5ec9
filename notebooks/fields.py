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
# # The idea: fields
#
# **Question.** What does the network know about a crystal, and how do atoms come out of it?
#
# Read this page if you meet neural structure fields for the first time. It shows the pictures of the paper's Figures 1 and 2, of a real crystal and a trained model. A crystal is encoded to a vector $\mathbf{z}$; this page looks at the two fields that the decoder makes of it, beside the true ones, then follows the particles to the atoms.
#
# Everything is **computed on this page**, with recorded models. With a crystal of your own: `papermill notebooks/fields.ipynb out.ipynb -p structure my.cif -p run results/lcs6/nesf/cpu/seed-0`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
run: str = ""  # folder of a trained model; empty: the recorded one
split: str = "test"  # train, val or test
material: str = ""  # id of a crystal of the split; empty: chosen by rule
structure: str = ""  # CIF or POSCAR file of an own crystal; empty: none
height: float = -1.0  # z of the plane, Å; below 0: where most atoms lie
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["remove-cell"]
from nesf_studies.page import check_parameters

check_parameters(globals(), split=("train", "val", "test"))

# %% tags=["remove-cell"]
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import display
from pymatgen.core import Lattice, Structure

from nesf.baselines import constant, copy_nearest
from nesf.crystals import Crystals
from nesf.data.files import read_structures
from nesf.decode import reconstruct
from nesf.files import write_atomically
from nesf.saved import TrainedModel
from nesf_io.errors import DataError
from nesf_studies import particles
from nesf_studies.fields import (
    best_for_slice,
    compare_fields,
    encode_one,
    field_error_curves,
    field_errors,
    learned_field,
    plane_agreement,
    plane_fields,
    true_field,
)
from nesf_studies.links import HERE, prose, sourced
from nesf_studies.page import open_dataset, open_model, recorded_run
from nesf_studies.style import captioned, save
from nesf_studies.viewer import picture_slider, reconstruction_view

# %% tags=["hide-input"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
model, folder = open_model(run, crystals, device="cpu")
chosen = crystals.split(split)
if structure:
    example = read_structures(Path(structure))[0].select([0])
elif material and material not in chosen.ids:
    raise DataError(f"{material}: is not in the {split} split of {dataset}")
elif material:
    example = chosen.select([chosen.ids.index(material)])
else:
    example = chosen.select([best_for_slice(chosen)])
plane_height = None if height < 0 else height
formula = example.to_structures()[0].composition.reduced_formula
name = f"{formula} ({example.ids[0]})"
print(f"crystal: {name}, {len(example.positions)} atoms")

# %% [markdown]
# *Without a parameter the crystal is chosen by rule: of the test split the smallest that has two elements and three atoms in one horizontal plane, because a slice through it shows most.*
#
# ## Two fields on a plane
#
# For a point $\mathbf{p}$ the **position field** is the vector to the nearest atom $\mathbf{a}$, the **species field** is the element of that atom:
#
# $$f_p(\mathbf{p}, \mathbf{z}) \approx \mathbf{a} - \mathbf{p}, \qquad f_s(\mathbf{p}, \mathbf{z}) \approx \text{species of } \mathbf{a}, \qquad \mathbf{a} = \operatorname*{arg\,min}_{\mathbf{a}_i} \lvert \mathbf{p} - \mathbf{a}_i \rvert .$$ (true-fields)
#
# The network gives both for any point, from $\mathbf{z}$ alone. In code:
#
# ```python
# learned = learned_field(model, example)   # point -> vector, element
# plane = plane_fields(example, learned)    # on a grid in a plane, beside the true fields
# ```

# %% tags=["hide-input"]
learned = learned_field(model, example)
plane = plane_fields(example, learned, height=plane_height)
figure = compare_fields(example, plane, title=name)
if out:
    save(figure, Path(out) / f"fields-{example.ids[0]}", plane)
figure

# %% [markdown]
# *True and learned fields of the crystal on a plane through atoms. Above: position field, true, learned, and the length of their difference. Below: species field, true and learned in the colours of the elements, and in orange where the network names another element. Arrows point to the nearest atom, at a third of their length; their colour is the distance, true or as the network says. Discs are atoms in the plane, dotted circles atoms elsewhere, the frame is the cell.*
#
# The true fields have edges: halfway between two atoms the nearest one changes, and the arrow jumps. A network is continuous, so it must be wrong there, and the difference is a thin line along each edge. That does no harm: a particle that starts on an edge is taken to one of the two atoms, if need be a step later. How well do the fields agree, beside
# fields that need no network?


# %% tags=["hide-input"]
def agreement(planes: dict) -> pd.DataFrame:
    """One row a field: how far it agrees with the true one."""
    rows = {who: plane_agreement(table) for who, table in planes.items()}
    names = {
        "difference_median": "|difference|, median, Å",
        "difference_84": "84th percentile, Å",
        "same_end_percent": "leads to the same atom (0.5 Å), %",
        "same_species_percent": "same element, %",
    }
    return pd.DataFrame(rows).T.rename(columns=names).round(3)


train = crystals.split("train")
planes = {"NeSF": plane}
for who, predict in (("copy", copy_nearest), ("constant", constant)):
    stand_in = true_field(predict(train, example))
    planes[who] = plane_fields(example, stand_in, height=plane_height)
sourced(agreement(planes), HERE)

# %% [markdown]
# *Agreement with the true fields at the points of this plane that lie in the cell: of the network's fields (NeSF), of those of the nearest training crystal (copy) and of one crystal for all (constant). Lower is better in the first two columns, higher in the last two. A point leads to the same atom if the vectors differ by less than 0.5 Å.*
#
# ## From fields to atoms
#
# Particles start on a regular grid over a box that is common to the dataset and follow the arrows,
#
# $$\mathbf{p}^{t+1} = \mathbf{p}^t + f_p(\mathbf{p}^t, \mathbf{z}) .$$ (step)
#
# Those with $\lVert f_p \rVert > 0.9$ Å at the end are dropped; the rest is divided into clusters by non-maximum suppression; queries around each cluster's best particle vote for the element. In code:
#
# ```python
# particles = initialize_particles([model.box], config)
# particles = move_particles(fields, particles, config)
# particles = score_particles(fields, particles, config)
# atoms = detect_atoms(particles, 1, config)
# species, votes = estimate_species(fields, atoms, ...)
# ```


# %% tags=["hide-input"]
def show_steps(steps, crystal, title: str, file: str):
    """The five steps of a crystal; the numbers of its particles in a fold."""
    figure = particles.reconstruction_steps(steps, crystal, title=title)
    if out:
        table = particles.steps_table(steps)
        save(figure, Path(out) / f"steps-{file}", table)
    return captioned(
        figure,
        f"The five steps for {title}, seen from the front. Circles: true atoms in the colours of their elements. Dots: particles, from the start in the colour of the cluster in which they end; black ones are dropped, or end in a cluster that is too small. Numbers: particles in a cluster. Last panel: queries around each atom, in the colour of the element that each names.",
        table=sourced(particles.particles_left(steps), HERE),
        fold="The particles of each panel as a table",
    )


film = particles.follow(
    encode_one(model, example),
    model.box,
    model.vocabulary,
    model.config.decoding,
    moments=(*range(7), particles.MOMENTS[-1]),
)
steps = film.at(particles.MOMENTS)
show_steps(steps, example, name, example.ids[0])

# %% [markdown]
# The first panel shows which part of space each atom gathers. The same as a film: press *play* or move the slider.

# %% tags=["hide-input"]
images, titles = particles.reconstruction_frames(film, example)
if out:
    gif = particles.animation(images)
    write_atomically(Path(out) / f"steps-{example.ids[0]}.gif", gif)
picture_slider(images, titles)

# %% [markdown]
# *The five steps as a film, in the colours of the figure before it. Between the first iterations particles are drawn on the straight line between them.*
#
# At the end the queries around each atom vote for its element.

# %% tags=["hide-input"]
figure = particles.votes_chart(steps, example, title=f"{name}, step 5")
if out:
    table = particles.votes_table(steps, example)
    save(figure, Path(out) / f"votes-{example.ids[0]}", table)
figure

# %% [markdown]
# *Votes for the element of each detected atom (step 5), a row an atom: share of the queries around it that name each element, in the colours of the elements. At the left the element that wins and, in brackets, that of the nearest true atom.*

# %% tags=["hide-input"]
decoded = reconstruct(model, example).crystals.to_structures()[0]
reconstruction_view(example.to_structures()[0], decoded)

# %% [markdown]
# *The crystal before, and after it was decoded from its latent vector. Colours: elements. Drag to turn, scroll to zoom.*
#
# ## A textbook crystal, and the model of LCS6Å
#
# The starter model knows hypothetical crystals of an embedded dataset. The recorded model of LCS6Å knows some five thousand materials of the Materials Project. Here it is given silver chloride: rock salt with the lattice constant of the literature, 5.549 Å, built by pymatgen. The compound (mp-22922) is in LCS6Å's **test** split; the
# model was not trained on it, and the cell of the textbook is not quite the calculated one.

# %% tags=["hide-input"]
rock_salt = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.549), ["Ag", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
silver = Crystals.from_structures([rock_salt], ["AgCl"])
silver = silver.in_standard_setting()
lcs6 = TrainedModel.load(recorded_run("lcs6"), device="cpu")
learned = learned_field(lcs6, silver)
plane = plane_fields(silver, learned)
figure = compare_fields(silver, plane, title="AgCl, model of LCS6Å")
if out:
    save(figure, Path(out) / "fields-AgCl", plane)
figure

# %% [markdown]
# *True and learned fields of silver chloride on a plane through atoms, by the model of LCS6Å. Above: position field, true, learned, and the length of their difference. Below: species field, true and learned, and in orange where the network names another element. Arrows, discs and circles as in the first figure of this page.*

# %% tags=["hide-input"]
fields = encode_one(lcs6, silver)
steps = particles.follow(
    fields, lcs6.box, lcs6.vocabulary, lcs6.config.decoding
)
show_steps(steps, silver, "AgCl", "AgCl")

# %% tags=["hide-input"]
found = reconstruct(lcs6, silver).crystals.to_structures()[0]
display(
    sourced(
        agreement({"NeSF": plane}),
        HERE,
        caption="Agreement of the learned fields of silver chloride with the true ones, at the points of the plane that lie in the cell. Lower is better in the first two columns, higher in the last two.",
    )
)
lengths = ", ".join(f"{x:.3f}" for x in found.lattice.abc)
text = f"Decoded: `{found.composition.formula}`, a, b, c = {lengths} Å; actual 5.549 Å"
display(prose(text, HERE))
reconstruction_view(rock_salt, found)

# %% [markdown]
# *Silver chloride before, and after it was decoded from its latent vector by the model of LCS6Å.*
#
# ## The paper's claim
#
# Section 2.2 says what the fields need: the position field must be "sufficiently accurate everywhere" to take particles to their destinations "and highly accurate in the vicinity of atoms"; the species field "does not need to be accurate everywhere". Is that what was learned?

# %% tags=["hide-input"]
errors = field_errors(model, chosen, {"copy": copy_nearest(train, chosen)})
figure = field_error_curves(
    errors, title=f"{crystals.label}, {split} split, n = {len(chosen)}"
)
if out:
    save(figure, Path(out) / f"field-errors-{crystals.name}", errors)
captioned(
    figure,
    "Errors of the fields against the true distance to the nearest atom, at random points in and around the cells of all crystals of the split. Left: length of the difference between a field and the true one, median (line) and 68 % range (band); lower is better. Right: points at which the field names the element of the nearest atom; higher is better. Blue: NeSF; grey: the true fields of the nearest training crystal (copy).",
    name="field-errors",
)

# %% [markdown]
# The claim holds: near atoms the position field is most accurate, and the species field is right at almost all points; far away both are worse, and that does not matter. The paper's Figure 2 cannot show how fast it goes: after one or two iterations nearly all particles are where they end, and the iterations that follow
# settle the last hundredths of an ångström.
#
# The copy has the smaller median error, because many test crystals of `starter` have a neighbour of the same structure type in the training split. Its upper range is wider, and its elements are wrong at a third of the points. And it is told the composition and the cell of the crystal; the network is given $\mathbf{z}$ alone.
#
# ## What to distrust
#
# - One plane of one crystal is an illustration. {numref}`field-errors` is the measurement.
# - The true field is that of the atoms in one cell, without periodic images, as published. Beyond the cell's faces it points back into the cell.
# - $\mathbf{z}$ is the code of the very crystal that is drawn. These pictures show what the vector holds.
# - The plane is chosen to show atoms; most of a cell has none in sight.
#
# ## Exercises
#
# **1.** A crystal has one atom in its cell. Draw the position field. How many iterations does a particle need?
#
# :::{dropdown} Solution
# Every arrow ends at that atom, and there are no edges: the true field is $\mathbf{a} - \mathbf{p}$ everywhere. With the true field one iteration is enough, from any start. With a learned field the error of the first step is made smaller by the next ones, because the field is more accurate near the atom.
# :::
#
# **2.** Why does the true position field jump halfway between two atoms, and why does this not spoil the decoding?
#
# :::{dropdown} Solution
# Halfway the nearest atom changes from one to the other, so the vector turns around. A network is continuous, so on that plane its arrow may vanish. But beside the plane the arrows point away from it, to one of the two atoms, so particles leave it after some steps. The few that remain gather in clusters of fewer than ten and are rejected; the atoms have many other particles.
# :::
#
# **3.** Repeat this page with a crystal of your own, then with one that the model cannot know (a cell of 12 Å, say). What fails first, the position field or the species field?
#
# :::{dropdown} Solution
# ```
# papermill notebooks/fields.ipynb out.ipynb -p structure my.cif -p run results/lcs6/nesf/cpu/seed-0
# ```
# Particles start in the box of the training crystals, so atoms beyond it get few particles or none: the number of atoms fails first. [](../use.md) says how the program warns of such a crystal.
# :::
#
# ## Summary
#
# Two functions of a point say where the nearest atom is and which. Following the first gives any number of atoms; asking the second names them. [Next](architecture): the network that holds them.
