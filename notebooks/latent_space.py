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
# # Latent space
#
# **Question.** Are crystals that are near each other in the latent space alike, and in what (Section 2.5, Figure 7)?
#
# Read this page if you want to search, cluster or predict with latent vectors. The first part is **computed on this page**, with the recorded model of the small embedded dataset. The second is **recorded** for LCS6Å, which the paper shows. With a model of your own:
# `papermill notebooks/latent_space.ipynb out.ipynb -p dataset mine -p run runs/mine -p n_train 5000`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
run: str = ""  # folder of a trained model; empty: the recorded one
n_train: int = 400  # training crystals, drawn with the seed; -1: all
perplexity: float = 30.0  # of t-SNE
umap: bool = False  # UMAP too; takes half a minute more
seed: int = 0  # of the draw and the pictures
recorded: str = ""  # run with a recorded analysis; empty: that of LCS6Å
out: str = ""  # folder for the figures as SVG, PNG and CSV; empty: none

# %% tags=["remove-cell"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["remove-cell"]
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import display

from nesf_studies import viewer as views
from nesf_studies.latent_space import (
    PICTURES,
    SYSTEM_COLOURS,
    Parameters,
    analyse,
    frequent_groups,
    latent_map,
    neighbour_chart,
    value_colours,
)
from nesf_studies.links import HERE, sourced
from nesf_studies.page import open_dataset, open_model, recorded_run
from nesf_studies.record import shown_analysis
from nesf_studies.style import captioned, save

# %% tags=["hide-input"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
model, folder = open_model(run, crystals)

# %% [markdown]
# ## The rule
#
# Every crystal is encoded to its vector of 192 numbers. t-SNE {cite}`maaten2008`, UMAP {cite}`mcinnes2018` and PCA bring the vectors to two dimensions; they see nothing else. What a picture shows is checked with a number: of the $k$ crystals $N_k(i)$ whose vectors are nearest to that of crystal $i$, how many share its label $y$, on average over all $n$ crystals?
#
# $$\text{purity}_k = \frac{1}{n k} \sum_{i=1}^{n} \; \sum_{j \in N_k(i)} [\, y_j = y_i \,]$$ (purity)
#
# ```python
# z = model.encode(crystals)
# nearest = neighbour_indices(z, k)
# (labels[nearest] == labels[:, None]).mean()
# ```
#
# For the volume, which is a number and not a class, it is the mean of $|V_j - V_i| / V_i$. The paper gives no settings of its t-SNE; here they are the defaults of scikit-learn {cite}`pedregosa2011` (perplexity 30), started from PCA, with a fixed seed.

# %% tags=["hide-input"]
parameters = Parameters(
    n_train=None if n_train < 0 else n_train,
    perplexity=perplexity,
    umap=umap,
    seed=seed,
)
made = analyse(model, crystals, parameters, progress=False)
points, neighbours = made["points"], made["neighbours"]


# %% tags=["hide-input"]
def show(points, about, keyword):
    """The pictures, and one that answers when the pointer is on a point."""
    for embedding, name in PICTURES.items():
        if f"{embedding}_1" in points:
            drawn = latent_map(points, embedding, title=f"{name}; {about}")
            if out:
                file = Path(out) / f"latent-space-{keyword}-{embedding}"
                save(drawn, file, points)
            display(
                captioned(
                    drawn,
                    f"Latent vectors of the crystals in two dimensions by {name}, one point a crystal. The same picture four times, in the colours of cell volume, number of atoms, crystal system, and the most frequent space groups; in brackets the number of crystals. Axes have no unit.",
                )
            )


def interactive(points, embedding="tsne"):
    """The points of one picture, which say what they are."""
    texts = [
        f"{r.formula}, {r.id} ({r.split}): {r.symbol} ({r.space_group}), {r.n_atoms} atoms, {r.volume:.1f} Å³"
        for r in points.itertuples()
    ]
    groups, symbols = frequent_groups(points)
    systems = SYSTEM_COLOURS
    colours = {
        "space group": symbols.map(groups),
        "crystal system": points["crystal_system"].map(systems),
        "cell volume": value_colours(points["volume"]),
        "number of atoms": value_colours(points["n_atoms"], logarithmic=True),
    }
    present = set(points["crystal_system"])
    legends = {
        "space group": views.colour_legend(groups),
        "crystal system": views.colour_legend(
            {k: v for k, v in systems.items() if k in present}
        ),
    }
    xy = points[[f"{embedding}_1", f"{embedding}_2"]].to_numpy(float)
    return views.points_view(xy, texts, colours, legends=legends)


def numbers(neighbours):
    """The table of neighbours, in words."""
    columns = {
        "space_group": "same space group, %",
        "crystal_system": "same crystal system, %",
        "n_atoms": "same number of atoms, %",
        "volume": "difference in volume, %",
    }
    return neighbours.set_index(["space", "k"]).rename(columns=columns).round(1)


SHARED = "What the k nearest neighbours of a crystal share with it, mean over all crystals: a panel a property, a row a space in which neighbours are near; markers tell k apart. Higher: more alike; in the last panel lower."


about = f"{crystals.label}, {folder.name}, {len(points)} crystals of all splits"
show(points, about, crystals.name)

# %% [markdown]
# Space groups are those of spglib {cite}`togo2024`. Put the pointer on a point of the next picture to see its crystal.

# %% tags=["hide-input"]
interactive(points)

# %% [markdown]
# *The same crystals by t-SNE, in the colours that are chosen. Under the pointer: formula, id, split, space group, number of atoms and volume of the cell.*
#
# ## What neighbours share
#
# Beside the latent vector stand spaces that need no network: the *composition* (share of each element), the *cell* (lengths and angles), and both together. *Labels shuffled* is what chance gives. The pictures have rows of their own: they say how much of the neighbourhoods two dimensions keep.

# %% tags=["hide-input"]
drawn = neighbour_chart(neighbours, title=about)
if out:
    save(drawn, Path(out) / "neighbours", neighbours)
captioned(
    drawn,
    f"{SHARED} Blue: the latent vector; grey: all else, shuffled labels among it.",
    table=sourced(numbers(neighbours), HERE),
)

# %% [markdown]
# ## LCS6Å, recorded

# %% tags=["hide-input"]
of = Path(recorded) if recorded else recorded_run("lcs6")
record = shown_analysis("latent-space", of)
if record:
    print(f"parameters: {record.about['parameters']}")

# %% tags=["hide-input"]
if record:
    shown = record.table("points")
    name = record.about["dataset"]["name"]
    counts = ", ".join(
        f"{n} {split}" for split, n in shown["split"].value_counts().items()
    )
    of_record = f"{name}, {of.name}, {len(shown)} crystals ({counts})"
    # t-SNE and UMAP; PCA is drawn above, and a page has to stay light
    show(shown.drop(columns=["pca_1", "pca_2"]), of_record, "recorded")

# %% tags=["hide-input"]
interactive(shown) if record else None

# %% [markdown]
# *The crystals of LCS6Å by t-SNE, in the colours that are chosen. Under the pointer: formula, id, split, space group, number of atoms and volume of the cell.*

# %% tags=["hide-input"]
if record:
    table = record.table("neighbours")
    drawn = neighbour_chart(table, title=of_record)
    if out:
        save(drawn, Path(out) / "neighbours-recorded", table)
    display(
        captioned(
            drawn,
            f"LCS6Å, recorded. {SHARED} Blue: the latent vector; grey: all else, shuffled labels among it.",
            table=sourced(numbers(table), record.folder),
            name="neighbours-lcs6",
        )
    )

# %% [markdown]
# ## Beside nesf+
#
# nesf+ was made so that a crystal can be found from its latent vector ([Every crystal back](consistent)), not for its neighbourhoods. What is left of them?

# %% tags=["hide-input"]
plus = shown_analysis("latent-space", recorded_run("lcs6", preset="plus"))

# %% tags=["hide-input"]
if record and plus:
    of_plus = plus.table("neighbours").query("space == 'latent vector'")
    both = pd.concat(
        [
            table.query("space == 'latent vector'").assign(
                space="latent vector, faithful"
            ),
            of_plus.assign(space="latent vector, nesf+"),
            table.query("space in ['composition and cell', 'labels shuffled']"),
        ]
    )
    drawn = neighbour_chart(both, title=of_record)
    by = {"latent vector, nesf+": plus.folder}
    if out:
        save(drawn, Path(out) / "neighbours-plus", both)
    display(
        captioned(
            drawn,
            f"The latent spaces of the faithful model and of nesf+ (blue), beside what needs no network (grey), for the same crystals of LCS6Å. {SHARED}",
            table=sourced(numbers(both), record.folder, by),
            name="neighbours-plus",
        )
    )
    held_out = plus.table("points").query("split != 'train'")
    about = f"t-SNE of nesf+, {len(held_out)} crystals of val and test"
    display(
        captioned(
            latent_map(held_out, "tsne", title=about),
            "Latent vectors of nesf+ in two dimensions by t-SNE, one point a crystal of the validation and test split of LCS6Å; colours as in the maps above.",
        )
    )

# %% [markdown]
# The two spaces hardly differ: neighbours in that of nesf+ share a little less than in the faithful model's, and more than neighbours by composition and cell together. So the gain in decoding was not bought with the order of the space.
#
# ## The paper's claim, and what we see
#
# *"These plots form clusters whose colors are well separated or smoothly transitioned, showing that the latent space reflects the structural similarity of the materials."* Our pictures show the same: number of atoms and space group make clusters, and the volume changes along them. The numbers say it without a picture: neighbours in latent
# space share space group and number of atoms far more often than chance, and more often than neighbours by composition, by cell, or by both ({numref}`neighbours-lcs6`). The cell alone is the better guide to the volume, which it determines, and on the recorded data to the crystal system.
#
# ## What to distrust
#
# - t-SNE and UMAP make clusters look more separate than they are. Distances between clusters and their sizes mean nothing; another seed or perplexity gives another picture. The numbers for the latent vector depend on neither.
# - Most crystals here are cubic, so neighbours share the crystal system often by chance alone: see the row *labels shuffled*.
# - Crystals with the same composition are other structures of the same substance. So the nearest neighbour by composition has another space group more often than the fifth.
# - Training crystals are among the points: the encoder has seen them. And a dataset with many crystals of one prototype (perovskites, rock salts) has similar neighbours whatever the encoder.
# - Space groups are spglib's, with a tolerance of 0.01 Å: a slightly distorted crystal counts as another group.
#
# ## Summary
#
# Crystals that are near in latent space are alike in structure: number of atoms, symmetry and cell together. The cell by itself knows the volume better, but the number of atoms and the space group less well; the composition knows all of them less well. How well properties can be read from the vectors is another question.
