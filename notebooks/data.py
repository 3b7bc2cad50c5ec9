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
# # Data
#
# **Question.** What is in a dataset of crystals, is anything in it twice, and what does the network have to learn from it?
#
# Read this page if you want to train on one of the paper's datasets or on your own. It looks through any dataset that `nesf` can load and needs no training. Every number is computed on this page, when the book is built.
#
# The paper's datasets are taken from the Materials Project {cite}`jain2013`; the embedded one, `starter`, is made of prototypes of the AFLOW library {cite}`mehl2017`.
#
# With another dataset: `papermill notebooks/data.ipynb out.ipynb -p dataset lcs6`. What is not on disk yet is downloaded once.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
near_duplicates: bool = True  # look for them (a minute for lcs6)
widgets: bool = False  # crystals as nglview widgets, in a running notebook

# %% tags=["remove-cell"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["remove-cell"]
# %matplotlib inline
import pandas as pd
from IPython.display import display

import nesf
from nesf_studies import fields, viewer
from nesf_studies.audit import audit
from nesf_studies.crystals import element_map
from nesf_studies.links import HERE, sourced
from nesf_studies.page import open_dataset

# %% tags=["hide-input"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
for key, value in crystals.provenance.items():
    if isinstance(value, str):
        print(f"{key}: {value}")

# %% [markdown]
# ## Counts
#
# How many atoms do the unit cells hold, and what shapes do the cells have?

# %% tags=["hide-input"]
findings = audit(crystals, near_duplicates=near_duplicates, progress=False)
atoms = pd.DataFrame(findings.atoms).T.sort_index(axis=1).astype("Int64")
atoms = atoms.rename_axis(columns="atoms per cell").astype(object).fillna("")
sourced(atoms, HERE)

# %% [markdown]
# *Crystals by the number of atoms in the unit cell (columns) and split (rows), in the form of the paper's Tables 2 to 4. An empty cell: no crystal.*

# %% tags=["hide-input"]
sourced(pd.DataFrame(findings.shapes).T.fillna(0).astype(int), HERE)

# %% [markdown]
# *Crystals by the shape of the unit cell (columns) and split (rows). The shape is read off the lengths and angles of the cell.*
#
# ## Elements

# %% tags=["hide-input"]
element_map(
    crystals.split("train"),
    title=f"{crystals.label}, training split, {len(crystals.split('train'))} crystals",
)

# %% [markdown]
# *Training crystals that hold each element: their number under its symbol on the periodic table. The darker the blue, the more crystals (logarithmic scale). Grey symbols: elements that no training crystal holds.*
#
# ## Leaks between the splits
#
# An id in two splits, or one structure under two ids, makes a test easier than it looks. Structures of one reduced formula are compared by the `StructureMatcher` of pymatgen {cite}`ong2013` with its default tolerances.

# %% tags=["hide-input"]
print(f"ids in two splits: {len(findings.shared_ids)}")
if findings.near_duplicates is not None:
    print(
        f"near-duplicate structures in two splits: {len(findings.near_duplicates)}"
    )
for pair in (findings.near_duplicates or [])[:10]:
    print(
        f"  {pair.split} {pair.material} = {pair.other_split} {pair.other_material}"
    )

# %% [markdown]
# ## A few crystals
#
# Drag to turn, scroll to zoom; drawn with 3Dmol.js {cite}`rego2015` (in a running notebook `widgets = True` shows them with nglview).

# %% tags=["hide-input"]
test = crystals.split("test")
by_size = sorted(range(len(test)), key=lambda i: int(test.n_atoms[i]))
few = [by_size[0], by_size[len(by_size) // 2], by_size[-1]]
structures = test.select(few).to_structures()
if widgets:
    display(nesf.view(structures))
else:
    display(viewer.crystal_view(*structures))

# %% [markdown]
# *Three crystals of the test split: the one with the fewest atoms in its cell, the median one, and the one with the most. Colours: elements; lines: the unit cell. Atoms on a face of the cell are drawn on the opposite face too.*
#
# ## What the network learns
#
# The network learns two fields of any point $\mathbf{p}$ (Equation {eq}`true-fields`): the vector to the nearest atom, and the element of that atom. In code, for one crystal of the test split:
#
# ```python
# distances = (points[:, None] - atoms).norm(dim=-1)
# nearest = distances.argmin(dim=-1)
# vectors, species = atoms[nearest] - points, elements[nearest]
# ```
#
# (`nesf.fields.nearest_atom`, here for many crystals at once.) As published, "nearest" means among the atoms of one cell, without periodic images.

# %% tags=["hide-input"]
example = test.select([fields.best_for_slice(test)])
name = example.to_structures()[0].composition.reduced_formula
fields.structure_field(example, title=f"{name}, true")

# %% [markdown]
# *True fields of one test crystal in a horizontal slice. Left: the position field. Arrows point to the nearest atom and are drawn at a third of their length; the darker the grey, the farther the atom. Right: the species field; colours: the element of the nearest atom. Discs are atoms in the slice, dotted circles atoms above or below it; the frame is the cell.*
#
# ## What to distrust
#
# - `starter` is made of known prototypes with substituted elements: real structure types, plausible chemistry, no calculated or measured crystals, **not** Materials Project data. Errors on it do not compare with the paper's.
# - Near-duplicates are found among structures of one formula only; the same structure type with other elements is everywhere, by design.
# - A field without periodic images is not the field of the infinite crystal: near a face of the cell the nearest atom may be an image that it does not see.
#
# ## Summary
#
# A dataset is three splits of crystals with ids, elements and lattices. The network never sees a list of atoms to copy: it learns where the nearest atom is, and which element, from any point. [Next](train): how.
