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
# # Training
#
# **Question.** How does a network learn a field that stands for a crystal, and how good is it after one minute on an ordinary computer?
#
# Read this page if you want to train a model of your own. It trains, reconstructs the test crystals and computes the paper's metrics. The training runs when the book is built, so its numbers are those of a
# **short** training. What a full one reaches is read from recorded runs and marked as such.
#
# With another dataset: `papermill notebooks/train.ipynb out.ipynb -p dataset lcs6 -p minutes 60 -p small_steps False -p out runs/lcs6`, or without a notebook `nesf run lcs6 --preset cpu --out runs/lcs6`.

# %% mystnb={"code_prompt_show": "Parameters of this page"} tags=["parameters", "hide-input"]
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
preset: str = "cpu"  # cpu (for two cores), paper or official
minutes: float = 1.0  # of training, about; 0: the preset's epochs
seed: int = 0  # of the weights, the batches and the queries
small_steps: bool = True  # small batches, few points: best for some minutes
out: str = ""  # folder for weights and results; empty: a temporary one

# %% tags=["remove-cell"]
import nesf.config
from nesf_studies.page import check_parameters

check_parameters(globals(), preset=tuple(nesf.config.PRESETS))

# %% tags=["remove-cell"]
# %matplotlib inline
import inspect
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown, display

import nesf
from nesf import runs
from nesf.baselines import constant, copy_nearest
from nesf.config import PRESETS
from nesf.metrics import evaluate
from nesf.records import all_runs, read_run
from nesf.records import seconds as seconds_of
from nesf.training import losses
from nesf_io.errors import DataError
from nesf_studies.links import GIVEN, HERE, sourced
from nesf_studies.page import RESULTS, open_dataset, recorded_run
from nesf_studies.scores import loss_curves
from nesf_studies.style import captioned
from nesf_studies.tables import metrics_table, recorded_table
from nesf_studies.trials import changes_table, config_table

# %% tags=["hide-input"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
folder = Path(out or tempfile.mkdtemp(prefix="nesf-train-"))
print({split: len(part) for split, part in crystals.splits.items()})

# %% [markdown]
# ## The loss
#
# A batch of crystals is encoded to latent vectors $\mathbf{z}$. At query points around their atoms and all over their cells the position field must give the vector to the nearest atom, the species field its element, and two small
# networks the lengths and angles of the cell. The loss is the weighted sum of these four errors (Equation {eq}`loss`; Eq. 2 of the paper). It is minimised with Adam {cite}`kingma2015`, in PyTorch {cite}`paszke2019`.
#
# The function that computes the loss is `nesf.training.losses`:

# %% tags=["hide-input"]
Markdown(f"```python\n{inspect.getsource(losses)}```")

# %% [markdown]
# ## Choices
#
# Every choice is a field of `nesf.config.Config`, with unit and source in its comment ([all of them](../api.md)). For one minute, many small steps with few points are better than few large ones.

# %% tags=["hide-input"]
run = runs.Run(crystals.name, preset=preset, seed=seed, fold=crystals.fold)
config = run.config()
if small_steps:
    changes = {
        "training.batch_size": 32,
        "training.learning_rate": 3e-3,
        "training.compile": False,  # its start-up takes as long as this training
        "sampling.n_position": 48,
        "sampling.n_species": 16,
    }
    config = config.with_values(changes)
    torch.set_num_threads(1)  # so small a step gains little from a second core
sourced(config_table({**PRESETS, "this page": config}), GIVEN)

# %% [markdown]
# *Settings in which the presets and this page differ: a row a field of `nesf.config.Config`, a column a preset. Lengths are in Å; 0 for `n_position` and `n_species` means every grid point. –: not set.*
#
# ## Training

# %% tags=["remove-stderr", "hide-input"]
result = runs.train(
    run,
    crystals,
    folder,
    config=config,
    minutes=minutes or None,
    max_minutes=1.5 * minutes
    or None,  # if the machine becomes slower than planned
    command=f"papermill notebooks/train.ipynb out.ipynb -p dataset {crystals.name} "
    f"-p fold {fold} -p preset {preset} -p minutes {minutes} -p seed {seed} "
    f"-p small_steps {small_steps}",
)
print(
    f"{result.model.autoencoder.n_parameters:,} parameters, {len(result.log)} epochs"
)
print(
    f"{result.model.info['minutes']:.1f} minutes; weights and log are in {folder.name}/"
)

# %% tags=["hide-input"]
log = pd.read_csv(folder / "log.csv")
loss_curves(
    log, title=f"{crystals.label}, preset {preset}, seed {seed} (this page)"
)

# %% [markdown]
# *Loss of this page's training by epoch, in all and in its four parts without their weights; lower is better. Blue line: mean over the training batches of an epoch. Orange markers: the whole validation split, with the same queries each time.*
#
# ## How good is it?
#
# Every crystal of the test split is encoded, and reconstructed from its latent vector alone ([Reconstruction](reconstruction) shows how). Beside it stand two predictors that need no network: *copy* takes the training crystal
# nearest in composition and cell, *constant* always gives the same typical crystal.

# %% tags=["remove-stderr", "hide-input"]
runs.reconstruct(folder, crystals, ["test"])
metrics = runs.evaluate(folder, crystals)["test"]
print(
    ", ".join(
        f"{k} {v:.0f} s"
        for k, v in read_run(folder).run["wall_time_seconds"].items()
    )
)
print("files:", *sorted(p.name for p in folder.iterdir()))

# %% tags=["hide-input"]
train_split, test = crystals.split("train"), crystals.split("test")
summaries = {
    "this page": metrics.summary,
    "copy": evaluate(test, copy_nearest(train_split, test)).summary,
    "constant": evaluate(test, constant(train_split, test)).summary,
}
sourced(metrics_table(summaries, dataset=crystals.name), HERE)

# %% [markdown]
# *Errors on the test split of this page's model (one seed) and of the two predictors; a column “paper” stands here for datasets that the paper has. Lower is better unless said otherwise. “Actual”: mean over the atoms of the true crystals; “detected”: over the atoms found.*
#
# ## A longer training
#
# The recorded run of this dataset, where the repository has one. Its command is printed. Expect the loss of your own training to look like its loss.

# %% tags=["hide-input"]
try:
    recorded = read_run(recorded_run(crystals.name, fold=crystals.fold))
except DataError as error:
    print(error)
else:
    took = seconds_of(recorded.run) / 60
    print(f"recorded: {recorded.run['command']}")
    print(
        f"{took:.0f} minutes, {recorded.run['threads']} thread(s) of {recorded.run['device_name']}"
    )
    display(
        captioned(
            loss_curves(
                recorded.log(), title=f"{crystals.label} (recorded run)"
            ),
            "Loss of the recorded run by epoch, in all and in its four parts without their weights; lower is better. Blue line: mean over the training batches of an epoch. Orange markers: the whole validation split.",
        )
    )
    columns = {
        "this page": metrics.summary,
        "recorded": recorded.metrics["test"],
    }
    table = metrics_table(columns, dataset=crystals.name)
    display(
        sourced(
            table,
            HERE,
            {"recorded": recorded.folder},
            anchor="test",
            caption="Errors on the test split of this page's model and of the recorded run, one seed or fold each. Lower is better unless said otherwise.",
        )
    )

# %% [markdown]
# ## The paper's data
#
# On LCS6Å the run of seed 0 with the preset `cpu` is recorded (`nesf run lcs6`). [Table 1](table1) has the other seeds and datasets, and says where they differ from the paper.

# %% tags=["hide-input"]
sourced(recorded_table("lcs6"), anchor="test")

# %% [markdown]
# *Errors on the test split of LCS6Å: the recorded run (ours, one seed), the predictors that need no training, and the paper's NeSF (mean and standard deviation over ten seeds). Lower is better unless said otherwise.*
#
# The preset was chosen among several recipes, which were compared on the **validation** split. The trainings shared two processor cores with other work, so their minutes compare only roughly.

# %% tags=["hide-input"]
recipes = all_runs(RESULTS)
others = ("trial-80-", "trial-plus-", "plus", "cpu-consistent")
whole = [r for r in recipes if not r.run["preset"].startswith(others)]
sourced(changes_table(whole, "lcs6").T, anchor="val")

# %% [markdown]
# *Recorded trainings on LCS6Å, a column a recipe: number of seeds n, the settings in which the recipes differ, minutes of one training, and mean errors on validation crystals (lower is better). `global_share`: share of the position queries that are drawn all over the box. `early_stopping`: the weights of the lowest validation loss are kept.*
#
# ## What to distrust
#
# - The first curves are those of a minute. The number of epochs is planned from the speed of the machine, so the numbers above change from machine to machine; the recorded ones do not.
# - The species term of the validation loss stops falling long before the training ends; in the longer trainings on LCS6Å it even rises, while the decoded errors still fall: the network becomes too sure of itself. A lower loss is not a better crystal.
# - One seed. The paper gives the mean and the spread of ten.
#
# ## Exercises
#
# **1.** The position field is trained on random points, never on a list of atoms. Why does no step of the training have to match the atoms of the input with the atoms of the output?
#
# :::{dropdown} Solution
# A query point has one right answer: the vector to its nearest atom. That answer does not depend on the order of the atoms, so there is nothing to match. A network that listed atoms would first have to be told which of its outputs stands for which atom.
# :::
#
# **2.** Train with the species weight at a tenth of its value and compare the species errors.
#
# :::{dropdown} Solution
# ```
# nesf run starter --minutes 2 --out runs/usual
# nesf run starter --minutes 2 --out runs/light --set training.weight_species=0.1 --label light
# ```
# Both commands print the errors of the validation and test split. [](differences) has the same comparison for LCS6Å, recorded. One seed each: repeat with `--seed 1` before you believe a small difference.
# :::
#
# **3.** The loss of a constant answer. What does the cross-entropy of the species field become if the network gives each of $A$ elements the same probability, and where is that value in the curves above?
#
# :::{dropdown} Solution
# $-\ln(1/A) = \ln A$; for 80 elements $\ln 80 \approx 4.4$. An untrained network starts near it (with fewer elements in a dataset, lower), which is a check that a training starts as it should.
# :::
#
# ## Summary
#
# Fields are learned by regression at random points around known atoms; no step of it needs to match one list of atoms with another. [Next](reconstruction): back from the fields to a crystal.
