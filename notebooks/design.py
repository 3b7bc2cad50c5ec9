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
# # Design, and paths as physics
#
# **Question.** Can a latent vector be chosen for a property? And what does a path between two crystals cost in energy?
#
# Read this page if you want inverse design, the paper's reason for an autoencoder. Nothing is trained or decoded here: the page reads what was recorded by
#
# ```
# nesf analyse design results/icsg3d-recovered/nesf/cpu/seed-0
# nesf analyse design results/perov5-third/nesf/plus/seed-0 --set target=heat_ref=min
# nesf analyse design results/perov5-third/nesf/plus/seed-0 --set target=dir_gap=1.5 --set best_share=0.02 --out results/perov5-third/nesf/plus/seed-0/analysis/design-dir-gap
# nesf analyse path-energies results/lcs6/nesf/cpu/seed-0 --set paths=results/lcs6/nesf/cpu/seed-0/analysis/interpolation
# ```
#
# With runs of your own: `papermill notebooks/design.ipynb out.ipynb -p design_run DIR -p paths_run DIR`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
design_run: str = ""  # run with `design`; empty: ICSG3D (recovered), Perov-5
paths_run: str = ""  # run with `path-energies`; empty: on LCS6Å
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["hide-input"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["hide-input"]
# %matplotlib inline
from pathlib import Path

from IPython.display import display

from nesf_studies.design import (
    regression_table,
    strategies_table,
    success_chart,
)
from nesf_studies.links import prose, sourced
from nesf_studies.page import recorded_run
from nesf_studies.path_energies import barriers_table, energies_along
from nesf_studies.record import recorded_analysis, shown_analysis
from nesf_studies.style import captioned, save

perov = recorded_run("perov5-third", preset="plus")
places = (
    [Path(design_run)]
    if design_run
    else [recorded_run("icsg3d-recovered"), perov]
)
designs = [shown_analysis("design", place) for place in places]
if not design_run:
    designs.append(shown_analysis("design-dir-gap", perov))
designs = [analysis for analysis in designs if analysis]
along = recorded_analysis(
    "path-energies", Path(paths_run) if paths_run else recorded_run("lcs6")
)

# %% [markdown]
# ## Design: rule
#
# A Gaussian process learns the property from the latent vectors of at most 1000 training crystals, and says how sure it is. Of many latent vectors drawn from the flow of the page *New crystals*, those are chosen whose predicted value, made worse by one standard deviation, is best. They are settled and decoded.
#
# ```
# nesf design results/perov5-third/nesf/plus/seed-0 --target heat_ref=min --out low/
# nesf design runs/mine --target band_gap=1.5 --table properties.csv --out gap/
# ```
#
# **What is a success?** The truth of a new crystal is not known. But many are in the dataset, also in the validation and test splits, which neither density nor regression have seen. A designed crystal that StructureMatcher maps onto one of the dataset gets its value. It is *at the goal* if that is as good as in the best 5 % of the training crystals; 2 % for `dir_gap`, since most crystals of Perov-5 have no gap at all.
#
# **Trivial controls:** random search, which draws and does not choose, and the best training crystals, which are at the goal by construction and never new.


# %% tags=["hide-input"]
def show_design(designed):
    """The regression, and the successes of the strategies."""
    parameters, strategies = (
        designed.about["parameters"],
        designed.table("strategies"),
    )
    name, target = designed.about["dataset"]["name"], parameters["target"]
    display(
        prose(
            f"**Target `{target}` on {name}**; {parameters['n']} of {parameters['pool']} latent vectors.",
            designed.folder,
        ),
        sourced(
            regression_table(designed.table("regression")),
            designed.folder,
            caption=f"How well the Gaussian process predicts the property, target {target} on {name}, a row a split: number of crystals with a known value; R², higher is better; mean absolute error in the unit of the property; share of the values within one predicted deviation.",
        ),
    )
    figure = success_chart(strategies, title=f"{name}, {target}")
    if out:
        save(figure, Path(out) / f"design-{name}-{target}", strategies)
    display(
        captioned(
            figure,
            f"Share of the designed crystals found in the dataset that are at the goal, target {target} on {name}, a row a strategy; higher is better. Filled: all crystals that are found; hollow: those that are not in the training split; beside them the counts. Lines: 95 % intervals.",
            table=sourced(strategies_table(strategies), designed.folder),
        )
    )


for analysis in designs:
    show_design(analysis)

# %% [markdown]
# ## Paths: energy
#
# The paper shows paths of Figures 5, 6 and S1 to S4 by formula and lattice. A potential can say what they cost. The energy of CHGNet {cite}`deng2023chgnet` is taken without the part that it gives to each element alone, so that a path on which elements change can be drawn: the *bonding energy*. Beside it the trivial path, which mixes coordinates and cell linearly and switches the elements half-way.

# %% tags=["full-width", "hide-input"]
frames = along.table("frames")
figure = energies_along(
    frames, title="Bonding energy along the paths, by CHGNet"
)
if out:
    save(figure, Path(out) / "path-energies", frames)
display(figure)

# %% [markdown]
# *Bonding energy in eV per atom along each path, from its first crystal (t = 0) to its last (t = 1): blue the decoded frames of NeSF, dashed grey the linear path. Dots: frames at which the cell's formula changes. A gap in a line: a frame that CHGNet is not asked about, for atoms nearer than 0.5 Å.*

# %% tags=["full-width", "hide-input"]
sourced(barriers_table(along.table("barriers")), along.folder)

# %% [markdown]
# *The same paths in numbers, a row a path and method. Barrier: the largest energy above the straight line between the two ends, lower is smoother, and its t; largest jump between neighbouring frames, and whether it is at a switch; switches: how often the formula changes; median over the frames of the largest force on an atom; share of the frames that CHGNet judges.*
#
# ## What to distrust
#
# - The regression is asked where it has been told that it is right. Values far from the training crystals are not to be had by it.
# - Where R² on validation is near zero or below (the tables of the regression), the regression is no guide, and a choice by it is one by chance. So it is for the energy above the hull, whose R² on validation and test differ widely, and for the gap of Perov-5. For the heat of formation there it is a guide, and more designed crystals are at the goal than random ones; the intervals still overlap.
# - Only crystals that somebody has already computed can be looked up. Of those found nowhere nothing is known; they may be better, or nonsense.
# - Successes are few, so the intervals are wide. Where the training crystals already hold the best values, choosing them is hard to beat, and a design is worth something only if it is new.
# - A path in the latent space is no reaction path. Atoms of one element turn into another; the barrier says how strained the frames are, not how fast a reaction would be.
# - The bonding energy depends on what CHGNet gives to each element. Between compositions only its jumps and bumps should be read.
# - CHGNet never saw most of the mixed frames, and is kindest to what looks like its training data.
#
# ## Summary
#
# A target is turned into crystals by a regression on z and a decoder; the count beside random search says what the regression adds. Energies along a path show where it strains the crystal, and that elements switch in jumps.
