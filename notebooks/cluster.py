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
# # Beyond one machine
#
# **Question.** Does the workflow do on a cluster what it does on a laptop, also when a job is killed? And what would ten million crystals take?
#
# Read this page if you have a cluster, or are about to ask for one. [The workflow](../workflow) says how to use it. Nothing is run here: the page reads what `make test-cluster` and `scripts/kubernetes_manifests.py` have recorded, and computes the plan from recorded benchmarks.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
n_crystals: int = 10_000_000  # for which the plan is made
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["hide-input"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["hide-input"]
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from nesf_studies.cluster import (
    jobs_table,
    manifests_table,
    measured_costs,
    plan,
    plan_chart,
    recorded_kubernetes,
    recorded_slurm,
    records_table,
)
from nesf_studies.links import GIVEN, linked, prose, sourced
from nesf_studies.page import RESULTS
from nesf_studies.style import captioned, save

slurm, kubernetes = recorded_slurm(), recorded_kubernetes()

# %% [markdown]
# ## What was run where
#
# - **One machine.** All recorded runs of this book, by the profile `default`.
# - **Slurm, on one machine.** munged, slurmctld and slurmd of a distribution, started for the purpose in a temporary folder; the profile `slurm` with the options named below. Jobs are submitted, queued, killed and counted by Slurm. The node names two GPUs that are none, so the trainings take the processor.
# - **Kubernetes: the manifests only.** The profile `kubernetes` submits its jobs to a stand-in for the cluster's API. No pod has run.
# - **A cluster of several nodes, and one with GPUs: nowhere yet.**

# %% tags=["hide-input"]
at = RESULTS / "workflow"
by = {"Slurm": at / "slurm.json", "Kubernetes": at / "kubernetes.json"}
made = records_table({"Slurm": slurm, "Kubernetes": kubernetes})
sourced(
    made,
    by=by,
    caption="How the two records of this page came about: command, commit of the code, start, duration in minutes, versions of the programs.",
)

# %% [markdown]
# ## A job is killed
#
# Two trainings and a predictor. When the first checkpoint of one training is there, its job is killed with SIGKILL, so that it cannot save anything; a job that is out of memory ends like that.

# %% tags=["full-width", "hide-input"]
display(
    sourced(
        jobs_table(slurm),
        by["Slurm"],
        caption="The jobs that Slurm ran, in the order of their submission: the rule of the workflow, what it was for, and how the job ended.",
    )
)
killed = slurm["killed"]
display(
    prose(
        f"The job {killed['job']} was killed after epoch {killed['epoch']}. Snakemake submitted the training again, and it went on after epoch {slurm['resumed_after']}, from its last checkpoint. "
        f"Its weights are {'bit for bit those' if slurm['same_weights'] else 'not those'} of the same training without a kill. The table was made, with {slurm['table_rows']} rows.",
        by["Slurm"],
    )
)
display(
    Markdown(
        f"Dataset {slurm['dataset']}; reduced trainings, which show that the workflow works and nothing about the model: "
        + ", ".join(f"`{k}={v}`" for k, v in slurm["changes"].items())
        + ". Options: `"
        + " ".join(slurm["options"])
        + "`."
    )
)

# %% [markdown]
# The control is the training without a kill, run by hand beside it. Without a checkpoint the second job would have begun at epoch 0.
#
# ## Manifests for Kubernetes
#
# What arrives at the stand-in is what Snakemake's executor would send to a cluster. It is checked against the schema of the API, strictly: an unknown key or a wrong type is refused. One rule that no schema has is checked too: a GPU needs a limit equal to the request.

# %% tags=["full-width", "hide-input"]
display(
    sourced(
        manifests_table(kubernetes),
        by["Kubernetes"],
        caption="What the jobs ask a Kubernetes cluster for, a row a rule of the workflow: image, limits of processors (in thousandths), memory and GPUs, mounted volume, and what the schema of the API says.",
    ),
    prose(f"Schema of the API {kubernetes['api']}.", by["Kubernetes"]),
)

# %% [markdown]
# This check found two faults of the profile as it was before. The executor supposes that no files are shared, and Snakemake then runs every job with files on the volume on the spot, without a word; `workflow/plugins` holds the executor for a shared volume. And a GPU was asked for without a limit, which the API refuses.
#
# ## Ten million crystals, on paper
#
# Costs of a crystal, measured in the [benchmarks](speed): the packed dataset on disk, a crystal's share of a training step (preset `cpu`, the fastest recorded), encoding and decoding (mode `fast`). From them the times of {numref}`ten-million` and of the table before it, if devices share the work without loss.

# %% tags=["hide-input"]
costs = measured_costs()
speed = RESULTS / "benchmarks" / "cpu-lcs6" / "speed.json"
streaming = RESULTS / "benchmarks" / "streaming" / "streaming.json"
gigabytes = n_crystals * costs["bytes"] / 1e9
streamed = n_crystals * 8 / 1e6  # offsets, as `nesf train --stream` keeps them
display(
    prose(
        f"**{n_crystals:,} crystals** take {linked(f'{gigabytes:.1f} GB', streaming)} on disk, and {streamed:.0f} MB of memory for a training with `--stream` (8 bytes a crystal).",
        GIVEN,
    )
)
devices, epochs = (1, 16, 256), (1, 10, 100)
days = plan(costs, n_crystals, epochs, devices)
shown = days.map(
    lambda d: (
        f"{d:.3g} days"
        if d >= 1
        else f"{24 * d:.3g} h"
        if d > 1 / 24
        else f"{1440 * d:.3g} min"
    )
)
shown = shown.rename(columns=lambda n: f"{n} device{'s' * (n > 1)}")
display(sourced(shown, speed, {"write the packed dataset": streaming}))

# %% [markdown]
# *Time that each step takes for so many crystals, a row a step, a column a number of devices. A device: the two processor cores of the benchmark `cpu-lcs6`. Costs are those of LCS6Å's crystals, of at most 24 atoms, and of the streaming benchmark's for the disk.*

# %% tags=["hide-input"]
sizes = [10**k for k in range(4, 9)]
figure = plan_chart(costs, sizes, 100, devices)
data = pd.DataFrame(
    {n: [100 * s * costs["train"] / 86400 / n for s in sizes] for n in devices},
    index=pd.Index(sizes, name="crystals"),
)
if out:
    save(figure, Path(out) / "ten-million", data.reset_index())
display(
    captioned(
        figure,
        "Days of a training of 100 epochs against the number of crystals, computed from the measured time of a step; a line a number of devices. Dotted: one day.",
        table=sourced(data, speed),
        name="ten-million",
    )
)

# %% [markdown]
# ## What to distrust
#
# - The plan is arithmetic. Loss by communication, by reading from a shared file system and by waiting in the queue is not in it; nothing above two processes was measured.
# - How many epochs ten million crystals need is not known. LCS6Å takes 1200 of them with a few thousand crystals; a larger set needs fewer passes, by how much is an experiment.
# - Training is measured with a model of 0.77 million parameters. A larger set deserves a larger model.
# - Slurm on one node shows that jobs are submitted, killed and resumed. It does not show a slow file system, many users, or a node that is lost.
# - The schema of Kubernetes says that a manifest is well formed, not that a cluster has such a GPU, such a volume or such an image.
#
# ## Summary
#
# The workflow was submitted to a real Slurm, a training was killed in the middle, and it ended with the weights that it would have had. For Kubernetes the manifests are valid, and no pod has run. Data and encoding for ten million crystals fit on one machine; training and decoding are what a cluster is for.
