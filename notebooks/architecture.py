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
# # Architecture
#
# **Question.** Which networks turn a crystal into a vector, and the vector into fields?
#
# Read this page if you want to see the whole network: Figure 1b of the paper as a drawing, the layers of Supplementary Note 5 as a table, and the samplings of Supplementary Note 6 as pictures. Nothing is trained here. The table is read from the network itself, so it cannot differ from the code.
#
# With another preset: `papermill notebooks/architecture.ipynb out.ipynb -p preset plus`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
preset: str = "paper"  # paper, official, cpu or plus
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
n_species: int = 80  # number of candidate elements

# %% tags=["remove-cell"]
import nesf.config
from nesf_studies.page import check_parameters

check_parameters(globals(), preset=tuple(nesf.config.PRESETS))

# %% tags=["remove-cell"]
# %matplotlib inline
from dataclasses import replace

from IPython.display import display

from nesf.config import OFFICIAL, PAPER, PRESETS
from nesf.data.dataset import bounding_box
from nesf.model import Autoencoder
from nesf_studies.architecture import (
    layer_table,
    network_drawing,
    sampling_pictures,
)
from nesf_studies.fields import best_for_slice
from nesf_studies.links import HERE, prose, sourced
from nesf_studies.page import open_dataset

# %% tags=["remove-cell"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
config = replace(PRESETS[preset].model, n_species=n_species)
model = Autoencoder(config)

# %% [markdown]
# ## Encoder and decoder
#
# The encoder follows PointNet {cite}`qi2017` and DeepSets {cite}`zaheer2017`: the same network is applied to each atom, then the maximum over the atoms is taken, so neither their order nor their number matters. The decoder is a pair of neural fields, in the manner of the implicit representations of computer vision
# {cite}`park2019,mescheder2019,chen2019,mildenhall2021,xie2022`: the latent vector $\mathbf{z}$ and a query position $\mathbf{p}$ go in, the value of the field at $\mathbf{p}$ comes out.

# %% tags=["hide-input"]
network_drawing(config)

# %% [markdown]
# *The network of the preset chosen above: encoder (green), latent vector (orange), the two fields (blue) and the lattice decoders (red). Numbers are widths of layers. Each network ends in one more layer, which gives its output; the table of layers has all of them.*
#
# The encoder in equations, for a crystal with atoms at $\mathbf{a}_i$, elements $s_i$ (one-hot), and the lattice $\ell$ (lengths and angles):
#
# $$\mathbf{z} = g\Big(\max_i\, h\big(g_p(\mathbf{a}_i), g_s(s_i)\big),\; \ell\Big)$$ (encoder)
#
# Here $g_p$, $g_s$, $h$ and $g$ are the four multilayer perceptrons of the encoder, and the maximum is taken for each feature. In code (`nesf.model.Encoder`):
#
# ```python
# features = mix(cat([position(positions), species(one_hot)]))   # for each atom
# pooled = segment_max(features, n_atoms)                        # for each crystal
# z = latent(cat([pooled, lengths, angles]))
# ```
#
# Two things follow from the drawing. The encoder reads raw coordinates, so a rotated or shifted cell is another input: crystals are given in the conventional standard cell. And the position field reads $\mathbf{p}$ again in each layer, because a long network would lose it otherwise.
#
# ## The layers

# %% tags=["hide-input"]
table = layer_table(model)
display(
    prose(f"{table['parameters'].sum():,} trainable parameters in all", HERE)
)
sourced(table, HERE)

# %% [markdown]
# *Fully connected layers of the preset chosen above (`paper`), with 80 candidate elements: what each layer reads, how many numbers go in and come out, what follows it, and its trainable parameters. “batch norm” {cite}`ioffe2015` has two parameters per output; they are counted with the layer. “dropout” {cite}`srivastava2014` has none.*
#
# The paper's Note 5 lets the last layer of each field read $\mathbf{p}$ once more (131 numbers in); the official code does not (128). With the official form the count is the paper's "0.76 million", so it is taken here. `model.query_in_last_layer=true` gives the other form; [](differences) says what it changes.
#
# ## The three samplings
#
# A training step asks the fields at many points {cite}`chiba2023`. Supplementary Note 6 names three samplings: a grid over the cell for the position field (*global*), a small grid around each atom for the position field (*local*), and a still smaller one for the species field. All points are then shifted by a Gaussian of width $\sigma$:
#
# $$\mathbf{p} = \mathbf{g} + \sigma\,\varepsilon, \qquad \varepsilon \sim \mathcal N(0, 1)$$ (sampling)

# %% tags=["hide-input"]
test = crystals.split("test")
example = test.select([best_for_slice(test)])
sampling_pictures(
    example,
    bounding_box(crystals.split("train")),
    {"paper": PAPER.sampling, "official": OFFICIAL.sampling},
)

# %% [markdown]
# *Query positions of one training step for one crystal of the test split, in a layer of 1 Å around its fullest plane, seen along z: a column a sampling. Above: as the paper describes them. Below: as the official code draws them. Crosses: the grids; dots: the queries; discs: atoms in the colours of their elements; the frame is the cell. The number in a title counts the points of the whole crystal.*
#
# The two differ in three ways: the official global grid covers a box common to the dataset instead of the cell, its local grids leave their upper end out (so they are not centred on the atom), and its perturbations are much smaller. [](differences) measures the effects.
#
# ## What to distrust
#
# - The drawing shows the network of the paper. `nesf+` (preset `plus`) has further inputs and outputs: run this page with `-p preset plus` to see them.
# - The pictures show one crystal. How many points a crystal has depends on its cell and its number of atoms.
#
# ## Summary
#
# Everything is a multilayer perceptron. One network per atom and a maximum make the vector; two networks of a point make the fields; two small ones give the cell. [Data](data) comes next, then [Training](train).
