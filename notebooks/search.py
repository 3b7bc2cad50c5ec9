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
# # The search for hyperparameters
#
# **Question.** How was the network of the paper found, and does the same search find it again?
#
# Read this page if you want to repeat Supplementary Note 7, or to search for a network for your own data. Nothing is trained on this page: it shows the steps, which are data of the package, and reads what is recorded of them.
# Another folder of runs, for example of your cluster: `papermill notebooks/search.ipynb out.ipynb -p results DIR -p searched lcs6`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
results: str = ""  # folder of recorded runs; empty: the repository's
searched: str = ""  # one dataset only; empty: starter and lcs6
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["remove-cell"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["remove-cell"]
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import display

from nesf.records import all_runs
from nesf_studies.links import GIVEN, PAPER, sourced
from nesf_studies.page import RESULTS
from nesf_studies.record import folders
from nesf_studies.search import (
    candidates,
    decisions,
    described,
    followed,
    initial,
    outcome,
    search_steps,
    seed_spread,
    steps,
    winner_table,
)
from nesf_studies.style import captioned, save

# %% [markdown]
# ## The rule
#
# Eight steps. In each, every candidate is trained on LCS6Å and scored on its **validation** crystals; the one with the lowest error in the number of atoms wins, and where that is equal, the one with the lower position error (actual). The winner is the start of the next step. In code:
#
# ```python
# ranked = recorded.sort_values(["number_of_atoms_error_percent", "position_error_actual_angstrom"])
# winner = ranked.iloc[0]
# ```
#
# The first table is the configuration from which the search starts. The second lists the candidates of each step.

# %% tags=["hide-input"]
start = {key: described({key: value}) for key, value in initial().items()}
values = pd.DataFrame(
    {"initial value": [text.split(" = ")[1] for text in start.values()]},
    index=pd.Index(start, name="key"),
)
sourced(values, GIVEN)

# %% [markdown]
# *Configuration at the start of the search, a row a field of `nesf.config.Config`. Widths of layers stand in brackets; 128×7 means seven layers of 128.*

# %% tags=["hide-input", "full-width"]
rows = [
    {
        "step": step.number,
        "what": step.title,
        "candidates": len(step.candidates),
        "the first": described(step.candidates[0]),
        "the last": described(step.candidates[-1]),
        "adopted": described(step.adopted),
        "note": step.note,
    }
    for step in steps()
]
display(sourced(pd.DataFrame(rows).set_index("step"), GIVEN))
print(f"{sum(len(s.candidates) for s in steps())} candidates in all")

# %% [markdown]
# *The eight steps: what is searched, the number of candidates, the first and the last of them, and the one that the paper adopted. The paper says which network it has in the end (Supplementary Note 5), not which candidate won in each step; “adopted” is read from that network. Note: what the paper leaves open.*
#
# ## How it is run
#
# Each candidate is a labelled run of the [workflow](../workflow), so what is recorded already is not run again. There are two ways to run them.
#
# **Side by side.** Each step starts from what the paper adopted in the steps before, so nothing waits, and a cluster runs all candidates at once. This asks of every step: would it be decided as in the paper?
#
# ```
# # steps 1 to 7 at small size, on two processor cores
# snakemake --cores 2 table1 --configfile workflow/search/starter.yaml
#
# # the paper's search, on a cluster with GPUs
# snakemake table1 --profile workflow/profiles/slurm \
#   --configfile workflow/search/lcs6.yaml
# ```
#
# **One step after the other**, as in the paper: each step starts from the winners of the steps before. This asks where the search ends. The next step is written from what is recorded; then the workflow runs it, and again:
#
# ```
# python scripts/write_search.py --next starter
# snakemake --cores 2 table1 --configfile build/search-starter.yaml
# ```
#
# ## What is recorded

# %% tags=["hide-input"]
runs = all_runs(Path(results) if results else RESULTS)
names = [searched] if searched else ["starter", "lcs6"]
tables = {name: candidates(runs, name) for name in names}
winners = {name: followed(runs, name) for name in names}
of = {name: folders(runs, name, "nesf") for name in names}
counts = pd.DataFrame(
    {
        name: {
            "candidates": len(table),
            "recorded": int((table["n"] > 0).sum()),
            "not yet run": int((table["n"] == 0).sum()),
            "steps, one after the other": len(winners[name]),
        }
        for name, table in tables.items()
    }
).T
sourced(counts, GIVEN)

# %% [markdown]
# *Candidates of the search on each dataset: how many there are, how many are recorded and not yet run side by side, and how many steps are recorded one after the other.*
#
# ### Side by side

# %% tags=["full-width", "hide-input"]
for name, table in tables.items():
    if not (table["n"] > 0).any():
        print(f"{name}: none of the {len(table)} candidates is recorded yet")
        continue
    seeds = int(table["n"].max())
    title = f"{name}, validation split, {seeds} seed(s) a candidate"
    figure = search_steps(table, title=title)
    if out:
        save(figure, Path(out) / f"search-{name}", table)
    display(
        captioned(
            figure,
            f"{name}: number-of-atoms error on validation crystals of the recorded candidates, a panel a step, a row a candidate; lower is better. Blue: the winner by the paper's rule; grey: the other candidates; ring: what the paper adopted.",
            table=sourced(winner_table(table).drop(columns="note")),
            fold="The winner of each step as a table",
        )
    )

# %% [markdown]
# ### One step after the other

# %% tags=["full-width", "hide-input"]
for name in names:
    if not winners[name]:
        print(f"{name}: the first step is not yet recorded as a whole")
        continue
    print(f"{name}: after {len(winners[name])} steps")
    display(
        sourced(
            outcome(winners[name]),
            of[name],
            {"start": GIVEN, "the paper": PAPER},
            caption=f"{name}: configuration at the start of the search, after the steps that are recorded one after the other, and in the paper's network, a row a field of nesf.config.Config. A value that no recorded step has searched is still that of the start.",
        )
    )

# %% [markdown]
# ## The paper's claim
#
# The paper does not say which candidate won a step, but its network does, and each step ends in it (but the sixth). So there is one question that can be counted: in how many steps does the paper's choice win here?

# %% tags=["hide-input"]
rows = {name: decisions(table) for name, table in tables.items()}
counts = pd.DataFrame(rows).T
sourced(
    counts.style.format("{:g}", subset=list(counts)[:-1]).format(
        "{:.1f}", subset=list(counts)[-1:]
    ),
    by=of,
)

# %% [markdown]
# *Steps of the search in which the paper's choice wins, a row a dataset. Steps recorded: those with all of their candidates, side by side; with the paper's choice: those of them that have it among their candidates; expected by chance: how often it would win if the winners were drawn at random.*
#
# At small size the search agrees with the paper where the paper's choice is also the one that learns fastest: the loss weights, and the deepest position decoder. It differs where a short training asks for something else than a long one: a higher learning rate, small batches (more
# steps in as many epochs), a smaller latent vector. So nothing here speaks against the paper's choices; only the runs on LCS6Å could.
#
# "The final step (step 8) is to retune some hyperparameters but it could not improve the performance." (Supplementary Note 7) To be compared when step 8 is recorded for LCS6Å; the table under *What is recorded* says how many of the candidates are.
#
# ## What a trivial method scores
#
# A search that changes nothing: the spread between seeds of one and the same configuration. A winner whose lead is smaller has won by chance.

# %% tags=["hide-input"]
controls = [
    r for r in runs if not r.run["preset"].startswith(("trial-plus-", "plus"))
]
sourced(seed_spread(controls).round(2), anchor="val")

# %% [markdown]
# *Number-of-atoms error on validation crystals of configurations that are recorded with several seeds: number of seeds, mean (lower is better) and standard deviation over them. `trial-search-unchanged`: the start of the search, with the epochs of the search; the others are longer trainings.*
#
# In most steps of the small search the winner leads by less than the standard deviation of `trial-search-unchanged`: another seed would have chosen another candidate.
#
# ## What to distrust
#
# - One seed a candidate, and a validation split of 286 crystals (66 for the embedded dataset): one crystal is a third of a percent (1.5 %). The first digits of such a ranking are noise.
# - One group of hyperparameters at a time, in one order: another order may end elsewhere.
# - The adopted structure encoder is none of the candidates of step 6, so the paper's list, or its rule, is not the whole story.
# - Of steps 3, 4 and 8 the supplement does not list every candidate; the notes in the table say what is inferred.
#
# ## Summary
#
# The search is data and a rule of one line; what it costs is trainings. At small size it runs on two cores, and rewards what learns fast. Until the runs for LCS6Å are recorded, the page says that they are not.
