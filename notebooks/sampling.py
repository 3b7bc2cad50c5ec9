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
# # New crystals
#
# **Question.** Does a random point of the latent space decode to a crystal that could be one?
#
# Read this page if you want to sample the model, and to know what the samples are worth. The paper does not sample. Nothing is drawn here: the page reads what was recorded by
#
# ```
# nesf analyse sampling results/lcs6/nesf/plus/seed-0
# nesf analyse sample-quality results/lcs6/nesf/plus/seed-0 --set samples=results/lcs6/nesf/plus/seed-0/analysis/sampling
# nesf analyse sample-energies results/lcs6/nesf/plus/seed-0 --set samples=results/lcs6/nesf/plus/seed-0/analysis/sampling
# nesf analyse symmetry results/lcs6/nesf/plus/seed-0
# ```
#
# and by the same commands on Perov-5.
#
# With a run of your own: `papermill notebooks/sampling.ipynb out.ipynb -p run DIR`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
run: str = ""  # folder of a run with these analyses; empty: the recorded nesf+ on LCS6Å, seed 0
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["hide-input"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["hide-input"]
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import display

from nesf_studies.links import prose, sourced
from nesf_studies.page import RESULTS, recorded_run
from nesf_studies.reads import is_there
from nesf_studies.record import recorded_analysis, shown_analysis
from nesf_studies.sample_energies import energies_chart, energies_table
from nesf_studies.sample_quality import metrics_table, shares_chart
from nesf_studies.style import captioned, save
from nesf_studies.symmetry import recovered_table

folder = Path(run) if run else recorded_run("lcs6", preset="plus")
sampling, quality, energy = (
    recorded_analysis(name, folder)
    for name in ("sampling", "sample-quality", "sample-energies")
)

# %% [markdown]
# ## Rule
#
# **A density.** The encoder maps the training crystals onto points z. A density of these points is fitted, and new points are drawn from it. Two densities are compared, on the principal components that hold 99 % of the variance: a *Gaussian mixture* (scikit-learn), the control; and a small *normalising flow* of eight affine couplings. The validation split chooses the number of Gaussians, and the epoch of the flow.

# %% tags=["hide-input"]
densities = sampling.table("densities").rename(
    columns={
        "train_log_density": "mean log density of training, nats",
        "val_log_density": "of validation, nats",
    }
)
sourced(densities.set_index("density").round(1), sampling.folder)

# %% [markdown]
# *Densities fitted to the latent vectors of LCS6Å's training crystals: what the validation split chose, and mean log densities in nats, higher is better on validation. Log densities of mixture and flow are of the same scaled components and can be compared; that of uniform noise is of z itself. A validation crystal outside of the box of training has the density 0.*
#
# **Settling.** A drawn z is the latent vector of no crystal. So it is decoded by the five steps, encoded, and decoded again, twice. Each pass ends at the latent vector of a crystal, and at one that the fields can say. Then it is decoded consistently ([Every crystal back](consistent)), and certified if the encoder gives the latent vector back. Polishing a crystal towards the drawn z itself was tried and dropped (not recorded): it took the symmetry of the crystals away.
#
# ```python
# made = nesf.sample("lcs6", 1000, density="flow", seed=0)
# made.crystals, made.certified
# ```
#
# On the command line: `nesf sample lcs6 -n 1000 --out new/`. Crystals without a certificate are left out there, unless `--all` is given.


# %% tags=["hide-input"]
def certified_table(sampling, title):
    """How many crystals of each generator were drawn, and have the certificate."""
    samples = sampling.table("samples")
    drawn = samples[samples["certified"].notna()]
    certified = drawn.groupby("generator", sort=False).agg(
        drawn=("id", "size"),
        certified=("certified", "sum"),
        inside=("inside_domain", "sum"),
    )
    names = {"inside": "inside the training domain"}
    table = certified.rename(columns=names).rename_axis(None)
    caption = f"Crystals drawn from each density, {title}: how many are drawn, how many of them have the certificate, and how many lie inside the domain of the training crystals."
    return sourced(table, sampling.folder, caption=caption)


certified_table(sampling, "LCS6Å, nesf+" if not run else "the given run")

# %% [markdown]
# **The certificate is a filter.** A crystal without it is one that decoder and encoder do not agree on even after settling. It speaks of the model, and nothing of nature: crystals from uniform noise have it too, though fewer.
#
# ## What is drawn, beside trivial generators
#
# Trivial are: *training crystals*, drawn with replacement; *elements exchanged*, training crystals whose elements are each exchanged for another of its group of the periodic table, with the cell scaled by the atomic radii; and *noise*, uniform in z, decoded as the others are. Rows *decoded once* show what settling does, rows *certified* what the certificate does as a filter.
#
# *Structurally valid*: no two atoms nearer than 0.5 Å. *SMACT valid*: a composition that can be neutral. *Unique* and *novel*: by StructureMatcher (0.3 / 0.5 / 10°) among the samples, and against the training split. *COV*: coverage of the test split; *W*: Wasserstein distance of density, and of number of elements, to the test split; both over valid crystals. Space groups are found within 0.1 Å.


# %% tags=["full-width", "hide-input"]
def show_quality(quality, title, file):
    """The field's metrics of each generator, as figure and table."""
    metrics = quality.table("metrics")
    figure = shares_chart(metrics, title=title)
    if out:
        save(figure, Path(out) / file, metrics)
    of = title or "the given run"
    display(
        captioned(
            figure,
            f"Shares of generated crystals that are valid, new or symmetric, {of}: a panel a share, a row a generator, higher is better. Circles: settled, or not decoded at all; hollow: decoded once; diamonds: certified. Lines: 95 % intervals. Colours tell the generators apart.",
        ),
        sourced(
            metrics_table(metrics),
            quality.folder,
            caption=f"The field's metrics of generated crystals, {of}, a row a generator with n crystals. Lower is better for the two distances W; for the shares higher is better. Last column: share by which the crystal systems agree with those of the test split.",
        ),
    )


show_quality(quality, "LCS6Å, nesf+" if not run else "", "samples")

# %% [markdown]
# COV-R is the share of test crystals that have a sample near by, and grows with the number of samples; COV-P is the share of samples that have a test crystal near by. *Near* are two crystals whose average minimum distances and compositions differ by less than between a validation crystal and its nearest training crystal, in 90 % of the cases. So copies of training crystals show what can be had; values of other papers use other fingerprints and cannot be compared.
#
# ## Energies and forces
#
# CHGNet {cite}`deng2023chgnet` is a potential trained on relaxations of the Materials Project. It gives an energy and forces to every crystal. *Hull*: the convex hull of training crystals of the same elements, by CHGNet too; it is known only where the training split holds each element alone.


# %% tags=["full-width", "hide-input"]
def show_energies(energy, title, file):
    """What CHGNet says of each generator's crystals, as figure and table."""
    known, relaxed = energy.table("energies"), energy.table("relaxations")
    figure = energies_chart(known, relaxed, title=title)
    if out:
        save(figure, Path(out) / file, known)
    of = title or "the given run, by CHGNet"
    display(
        captioned(
            figure,
            f"Share of the crystals of each generator below a value, {of}: the largest force on an atom, the energy above the hull of the training crystals, and how far atoms move while they relax. A curve further left is better. Dashed: decoded once. A panel stays empty where no crystal has the quantity.",
        ),
        sourced(
            energies_table(known, relaxed),
            energy.folder,
            caption=f"Forces, energies and relaxations, {of}, a row a generator. n crystals; share that CHGNet can judge; the largest force on an atom, lower is better; the energy above the hull of those that have one, lower is better; last columns: crystals that were relaxed, share that relaxes, and medians of the way of an atom and of the energy gained. –: none was relaxed, or no hull is known.",
        ),
    )


name = "LCS6Å, nesf+, by CHGNet" if not run else ""
show_energies(energy, name, "sample-energies")

# %% tags=["hide-input"]
hull, steps = energy.table("hull").iloc[0], energy.about["parameters"]["steps"]
prose(
    f"Relaxations (FIRE, atoms and cell, up to {steps} steps to forces below 0.1 eV/Å) are of the first {energy.about['parameters']['n_relaxed']} crystals of three generators, in random order, not of all: a relaxation takes seconds to minutes of a processor core. Hulls are spanned by {hull['of_these_computed']} of {hull['training_crystals']} training crystals, all that have only elements of a judged crystal. A crystal that is not judged has atoms nearer than 0.5 Å, a cell too dense, too long or too large, or an atom without neighbours.",
    energy.folder,
)

# %% [markdown]
# ## The same on Perov-5
#
# All crystals of Perov-5 have five atoms and one topology; what varies is elements and the cell. Its elements do not occur alone, so there is no hull.

# %% tags=["hide-input"]
perov = RESULTS / "perov5-third/nesf/plus/seed-0"
second = [
    shown_analysis(name, perov)
    for name in ("sampling", "sample-quality", "sample-energies")
]
if second[0]:
    display(certified_table(second[0], "Perov-5, nesf+"))

# %% tags=["full-width", "hide-input"]
if second[1]:
    show_quality(second[1], "Perov-5, nesf+", "samples-perov5")

# %% tags=["full-width", "hide-input"]
if second[2]:
    title = "Perov-5, nesf+, by CHGNet"
    show_energies(second[2], title, "sample-energies-perov5")

# %% [markdown]
# ## Symmetry
#
# Decoded atoms lie some thousandths or hundredths of an Å beside their sites. `--symmetrise TOL` (of `nesf reconstruct` and `nesf sample`) lets spglib find the symmetry within a tolerance and moves cell and atoms onto it.

# %% tags=["hide-input"]
recorded = {
    title: path / "analysis" / "symmetry"
    for title, path in (
        ("LCS6Å", RESULTS / "lcs6/nesf/plus/seed-0"),
        ("YBCO-like, fold 0", RESULTS / "ybco/nesf/plus/fold-0"),
        (
            "ICSG3D, recovered 70 %, preset cpu",
            RESULTS / "icsg3d-recovered/nesf/cpu/seed-0",
        ),
        ("Perov-5, a third", RESULTS / "perov5-third/nesf/plus/seed-0"),
    )
    if is_there(path / "analysis/symmetry/analysis.json")
}
tables = {
    title: recovered_table(folder.parents[1])
    for title, folder in recorded.items()
}
sourced(pd.concat(tables), by=recorded)

# %% [markdown]
# *Share of test crystals whose space group is recovered, a row a mode of decoding and tolerance of `--symmetrise`, higher is better; share that is left without symmetry (P1); and the median over the crystals of how far symmetrising moves an atom at most. Tolerance 0: as decoded. The space group of a crystal and of its reconstruction is found with the same tolerance, 0.01 Å or 0.1 Å. Settings were not chosen on these splits; a larger tolerance may also make two kinds of atoms one.*
#
# Symmetrising helps what the five steps decode. A crystal that consistent decoding has confirmed has its symmetry already, and a large tolerance does harm there: many crystals of Perov-5 are a small distortion away from a higher symmetry, and are moved onto it.
#
# ## What this shows, and what it does not
#
# - **Valid is a low bar.** By the two rules of validity, novelty included, uniform noise looks as good as the flow and as real crystals with exchanged elements. Coverage, density and symmetry tell them apart; so does the potential.
# - Settling makes crystals more symmetric, and the certificate picks the better ones. Neither makes them as symmetric as real crystals are.
# - The trivial generator with exchanged elements is hard to beat: it starts from real crystals, and keeps their symmetry and number of elements. A generator that does not beat it adds diversity, not plausibility.
# - The flow gives validation crystals the higher density, and the mixture the lower energies: likelihood is no measure of plausibility.
# - CHGNet learned from the database that the training crystals are from. Low energies of copies are no surprise; high energies of samples are meaningful, low ones are an invitation to compute, not a discovery. Nothing here says that a crystal can be made.
# - The hull is that of the training split, not of all known phases; a crystal *below* it need not be stable.
# - COV-R depends on the number of samples, which differs between rows.
# - Relaxations are few, so shares of relaxing crystals have wide intervals.
#
# ## Summary
#
# An autoencoder of crystals becomes a generator by a density of its latent vectors, and by settling what is drawn. It has to be measured beside the generator that needs no network.
