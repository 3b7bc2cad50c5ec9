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
# # Speed
#
# **Question.** What does training and decoding cost, where does the time go, and how much of it is needed?
#
# Read this page if you want to know how long your own crystals will take. Nothing is measured on this page: it shows a recorded benchmark of one machine, whose command is printed. `make bench` measures yours. Another record: `papermill notebooks/speed.ipynb out.ipynb -p benchmark NAME`, with a folder of `results/benchmarks/`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
benchmark: str = "cpu-lcs6"  # folder of results/benchmarks/

# %% tags=["hide-input"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["hide-input"]
# %matplotlib inline
import pandas as pd
from IPython.display import display

from nesf_studies.links import prose, sourced
from nesf_studies.page import RESULTS
from nesf_studies.speed import (
    agreement_table,
    clocks_table,
    disagreement,
    memory_table,
    recorded_benchmark,
    recorded_streaming,
    scaling,
    schedule_hours,
    speed_table,
    step_profile,
)
from nesf_studies.style import captioned
from nesf_studies.trials import presets_table

# %% tags=["hide-input"]
record = recorded_benchmark(benchmark)
made_by = {k: RESULTS / "benchmarks" / benchmark / f"{k}.json" for k in record}
for kind, content in record.items():
    minutes = content["wall_time_seconds"] / 60
    commit = content["commit"][:12] + content["commit"][40:]  # and "-dirty"
    print(f"{kind}: {content['command']}")
    print(
        f"    {content['dataset']['name']}, {content['threads']} thread(s) of {content['device_name']}, "
        f"torch {content['versions']['torch']}, commit {commit}, {minutes:.0f} minutes, "
        f"peak memory {content['peak_memory_bytes'] / 1e9:.1f} GB"
    )

# %% [markdown]
# ## What it is compared with
#
# The authors trained for 3200 epochs in about 9 hours on LCS6Å, 11 hours on ICSG3D and 1 hour on the YBCO-like crystals, on one Quadro RTX 8000 (Section 4.3). That is their machine and their code, so no ratio to it is given here.
#
# The reference is `benchmarks/plain.py`: the network, the loss and the decoding as the paper writes them. The latent vector is repeated and joined to every query, each layer is Linear, ReLU and batch normalisation one after the other,
# the nearest atoms are found crystal by crystal, every particle moves 64 times, and the suppression looks at one particle after the other. Both read the same weights and get the same queries. `tests/test_benchmarks.py` compares them:
# losses, every gradient and the running statistics agree to rounding. Decoded atoms agree within the step at which ours stop, but for a few crystals: where particles of the plain algorithm are still on their way after 64 moves, or a score is at the threshold, a difference of one rounding decides about an atom. How many is counted [below](#agreement).
#
# ## What was done
#
# **Training.** The first layer multiplies a latent vector that is the same for all queries of a crystal, so that product is computed once per crystal. Once its statistics are
# fixed, batch normalisation is an affine map and is folded into the next layer. Forward and backward pass are written out, one matrix product and one pass over the result for each layer; `torch.compile` joins the passes.
# The nearest atoms of a whole batch are found at once. In bf16 the matrix products take half the memory and run on the processor's matrix units; a query position enters as a pair of bf16 numbers, high and low part, since one alone
# is 0.06 Å coarse at 12 Å. Statistics, sums and weights stay in fp32.
#
# **Decoding.** Again the latent vector's part is computed once per crystal, and the normalisations, whose statistics are fixed now, are part of the weights. Queries go through all layers in parts that stay in the processor's cache.
# A particle whose next step would be shorter than 0.0001 Å has arrived and leaves the batch; that step's length is its score, so no pass is needed to score it. Non-maximum suppression decides the best particles of all crystals of a batch
# together, in a few rounds, with the result of the sequential rule. This is the mode `exact`. The mode `fast` (`--decode mode=fast`) takes the first two steps in bf16, since later steps correct them, and after each step lets particles that
# share a cell of 0.02 Å and have come near an atom go on as one, with their number kept; it is off unless asked for.
#
# ## Times

# %% tags=["full-width", "hide-input"]
sourced(speed_table(record["speed"]["timings"]), made_by["speed"])

# %% [markdown]
# *Times of the parts of training and decoding, a row a case: median over the rounds of all turns (lower is better), what it is for, number of rounds, and how many times faster than the plain reference, by the medians and by the fastest rounds. The cases of a group took turns. “Plain” is the reference in the same run, and always fp32, not compiled. Start-up, compiling above all, is not in the times.*
#
# A step of preset `cpu` draws a few queries for each crystal, one of preset `paper` takes every grid point of every atom.
# Ratios have two digits: some stand on one to three rounds, and a second record of the same step [differs](#clocks).

# %% tags=["hide-input"]
sizes = pd.DataFrame(
    {
        t["group"]: t["detail"]
        for t in record["speed"]["timings"]
        if "step" in t["group"]
    }
).astype(int)
sourced(sizes, made_by["speed"])

# %% [markdown]
# *Size of the training steps that are timed, a column a preset: crystals in a batch, steps in an epoch, and position and species queries of a step.*
#
# From the times of a step follows what the paper's schedule would take on this machine.

# %% tags=["hide-input"]
sourced(schedule_hours(record), made_by["speed"])

# %% [markdown]
# *Hours that the paper's schedule of 3200 epochs would take with the preset `paper`, a row a way of computing: from the fastest to the slowest of the recorded times of its step. Lower is better.*
#
# ## How it grows

# %% tags=["hide-input"]
if "scaling" in record:
    display(scaling(record["scaling"]["series"]))
else:
    print("not yet recorded")

# %% [markdown]
# *Time against the number of queries, atoms and crystals, a panel each: fastest of at least two rounds for each size. Dotted: growth in proportion. $n^k$: slope over all sizes and over their larger half, where fixed costs weigh little. Queries: a training step in fp32, not compiled. Atoms: decoding with the same particles in a cell that is filled more and more. Crystals: decoding with a trained model.*
#
# No trained model has a thousand atoms in a cell, so the fields in the panel of the atoms are known ones: some that cost the same for any number of atoms, as a network does, and the true ones, which search all atoms for every query.
#
# ## Where a step's time goes
#
# `benchmarks/profile_step.py` puts a stopwatch around each section of a training step.

# %% tags=["hide-input"]
if "profile" in record:
    display(
        captioned(
            step_profile(record["profile"]["profiles"]),
            "Parts of a training step, a column a preset, a row a way of computing: in seconds (above) and in percent of the step (below). Mean over some steps; a section inside of another counts once. Backward: that of the whole loss.",
            name="step-profile",
        )
    )
else:
    print("not yet recorded")

# %% [markdown]
# (clocks)=
# **Two clocks.** These seconds are not those of the table *Times*: the two were measured one after the other, in runs of their own (printed at the top), on a machine that other programs shared. The network, the queries, the batch and the threads are the same in both; the load of the machine, and the commit, are not. So read shares of a step here, ratios there, and take no absolute time for more than its order.

# %% tags=["hide-input"]
profiled = {"where it goes, mean": made_by.get("profile")}
sourced(
    clocks_table(record), made_by["speed"], profiled
) if "profile" in made_by else None

# %% [markdown]
# *Seconds of a training step by both records: median and fastest round by the record of the section “Times”, mean of a few steps by that of “Where a step's time goes”.*
#
# ## What does bf16 cost in accuracy?
#
# The same trainings, with the same seeds, were made with fp32 and with bf16 products on the embedded data.

# %% tags=["hide-input"]
compared = ["trial-fp32-100-epochs", "trial-bf16-100-epochs"]
sourced(presets_table("starter", compared), anchor="val")

# %% [markdown]
# *Trainings on `starter` with fp32 and with bf16 products, a column each: n seeds, epochs, minutes of each training, and errors on validation crystals (mean ± standard deviation over the seeds). Lower is better unless said otherwise.*
#
# ## More epochs in the same hour
#
# LCS6Å with the preset `cpu`, which then drew its queries as the official code does: before this work 600 epochs fitted in an hour of one core, now 1200 are planned for it.

# %% tags=["hide-input"]
sourced(
    presets_table("lcs6", ["trial-600-epochs", "trial-official-sampling"]),
    anchor="val",
)

# %% [markdown]
# *Trainings on LCS6Å in about an hour, before this work and after it, a column each: n seeds, epochs, minutes of each training, and errors on validation crystals (mean ± standard deviation where there are several seeds). Lower is better unless said otherwise.*
#
# (agreement)=
# ## Does decoding find the same atoms?

# %% tags=["full-width", "hide-input"]
if "agreement" in record:
    rows = record["agreement"]["agreement"]
    display(sourced(agreement_table(rows), made_by["agreement"]))
    for case in ("exact", "fast"):
        n, of = disagreement(rows, case)
        text = f"{case}: {n} of {of} crystals disagree with the plain algorithm"
        display(prose(text, made_by["agreement"]))
else:
    print("not yet recorded")

# %% [markdown]
# *Crystals of LCS6Å that the modes of decoding decode in another way than the plain algorithm, in which every particle moves 64 times: a row a split and mode; lower is better. Two decoded crystals disagree when they differ in the number of atoms, in a species, or in a position by more than the tolerance.*
#
# “Exact” names the rule that is followed, that of the paper; it is not a promise of the same atoms in every crystal.
#
# ## Memory
#
# What do large things cost to decode, and large datasets to train on?

# %% tags=["hide-input"]
if "memory" in record:
    table = memory_table(record["memory"]["decoding"])
    display(sourced(table, made_by["memory"]))
else:
    print("not yet recorded")

# %% [markdown]
# *Decoding of large things, a row each, in a process of its own: particles, atoms that are found, time, and peak memory.*

# %% tags=["hide-input"]
streaming = recorded_streaming()
streamed = RESULTS / "benchmarks" / "streaming" / "streaming.json"
sourced(streaming, streamed) if len(streaming) else print("not yet recorded")

# %% [markdown]
# *Training on made-up crystals that are streamed from disk, or held in memory; each row is a process of its own. Times of writing the dataset, of opening it and of a step; speed of a step against that in memory; peak of the process's own memory, and with the files that are mapped; size on disk. –: not of this case.*
#
# Opening includes building the trainer, and on the first rows compiling and reading the libraries from a cold disk; that is why 10,000 crystals seem to open more slowly than 100,000. It is not a cost of the crystals. What the table is about is the memory: streamed, it does not grow.
#
# ## What to distrust
#
# - A ratio depends on both sides. The plain reference is a fair reading of the paper, not the authors' code, and it is not written to be slow; somebody else's would be somewhat faster or slower.
# - Times of one machine. Others differ in their matrix units (bf16 gains little without them), their memory and their number of processors. Other programs disturb a measurement; where the two ratios differ, the fastest rounds are
#   nearer to the truth.
# - fp32 results agree with the plain reference to rounding. bf16 ones do not: whether that matters is seen in the metrics of trained models under *What does bf16 cost in accuracy?*, of which there are few: a difference smaller than their spread says nothing.
# - No GPU was at hand: what a GPU takes is not measured, though the same code runs there.
#
# ## Summary
#
# The plain reference and the package do the same mathematics; the table says what the difference in writing it down is worth. What remains of a step is the forward and backward pass of the two fields: sampling, nearest atoms,
# encoder and optimiser are small beside. The cost of a training step grows in proportion to its queries, that of decoding to atoms and crystals; only the true fields, which no trained model needs, grow faster with atoms.
