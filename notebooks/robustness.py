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
# # Trust
#
# **Question.** What happens to files that are not as they should be, to a training that is killed, to a disk that is full? And how far can a reconstruction be believed?
#
# Read this page before you give nesf your own crystals. Nothing is run here: it reads what `make fuzz`, `python -m robustness.inputs` and `python -m robustness.newcomer` have recorded, and the recorded runs.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
results: str = ""  # folder of recorded runs; empty: the repository's
out: str = ""  # folder for figures and their data; empty: none are written

# %% tags=["hide-input"]
from nesf_studies.page import check_parameters

check_parameters(globals())

# %% tags=["hide-input"]
# %matplotlib inline
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown, display

from nesf.config import PRESETS
from nesf.records import all_runs
from nesf_studies.certificates import (
    certified_materials,
    reliability,
    reliability_chart,
)
from nesf_studies.domain import domain_reliability, domain_signals
from nesf_studies.links import sourced
from nesf_studies.page import RESULTS
from nesf_studies.robustness import (
    campaign_table,
    campaigns_compared,
    certificate_signals,
    how_recorded,
    inputs_table,
    recorded_campaign,
    recorded_inputs,
    recorded_newcomer,
    transcript,
    verdict_table,
)
from nesf_studies.style import captioned, save
from nesf_studies.trust import roc, roc_chart

# %% [markdown]
# ## The campaign
#
# Rule: no input may end in a traceback, run longer than the limit, execute code, or cost anybody a file; a training that was killed ends with the weights of one that was not; an error is one sentence. `make fuzz` damages structure files, models and records in a way that a seed decides, kills trainings at every kind of moment, fills the disk under each command, and starts two processes on one folder. The first row is the control: the same commands on files without damage, which must all succeed.

# %% tags=["full-width", "hide-input"]
campaign = recorded_campaign()
at = RESULTS / "robustness"
display(
    sourced(
        campaign_table(campaign),
        at / "campaign.json",
        caption="The campaign, a row a kind of damage: number of inputs, and how many of them ended in a failure of each kind; zero is right everywhere. Other weights: a training that was resumed ends with other weights than one that was not killed.",
    )
)
display(Markdown(how_recorded(campaign, "campaign")))
for failure in campaign["failures"]:
    print(
        f"{failure['kind']}, seed {failure['seed']}: {failure['fault']}: {failure['detail']}"
    )

# %% [markdown]
# A structure file may take 10 s, then it is given up with its name; 10 s more are left for the process that reads it to start. A compiled training that is killed and resumed may take 300 s. These are times on the clock; on a busy machine they are as many times longer as processes wait for each processor. `python -m robustness --only KIND --case SEED` repeats one case.
#
# **Before.** The same campaign on the code before readers, forms of JSON files and the rule for output folders. The folder `robustness/` of commit 07c1c8b, which draws the same damage, was run in the tree of the commit below.

# %% tags=["full-width", "hide-input"]
before = recorded_campaign("campaign-before")
by = {"before": at / "campaign-before.json", "now": at / "campaign.json"}
both = campaigns_compared({"before": before, "now": campaign})
display(
    sourced(
        both,
        by=by,
        caption="Inputs that ended in a failure of any kind, of all inputs of the campaign: a row a kind of damage, the code before and now.",
    )
)
title = "The failures before, by their kind"
display(
    sourced(campaign_table(before), by["before"], caption=title, folded=True)
)
display(Markdown(how_recorded(before, "campaign-before")))

# %% [markdown]
# ## Odd inputs
#
# Files as they come from databases, editors and other programs, each with one thing that is peculiar. Each was given to `nesf reconstruct`.

# %% tags=["full-width", "hide-input"]
inputs = recorded_inputs()
display(
    sourced(
        inputs_table(inputs),
        at / "inputs.json",
        caption="Odd inputs, a row a file: what is peculiar about it, the formulas of the reconstructions that come back, and what nesf says on the screen. Refused: exit code 2, nothing is written.",
    )
)
display(Markdown(how_recorded(inputs, "inputs")))

# %% [markdown]
# ## May the certificate be trusted?
#
# The latent distance of consistent decoding ([Every crystal back](consistent)) is known without the truth. How well does it tell wrong crystals, on crystals that the model has never seen ({numref}`trust-roc`)? The trivial control is the number of atoms found: large crystals fail more often.

# %% tags=["full-width", "hide-input"]
runs = all_runs(Path(results) if results else RESULTS)
materials = {
    f"LCS6Å, {words}": certified_materials(runs, "lcs6", "plus", split)
    for split, words in (("val", "validation"), ("test", "test"))
}
signals = {
    title: certificate_signals(table) for title, table in materials.items()
}
curves = {title: roc(table) for title, table in signals.items()}
figure = roc_chart(curves)
of = {title: table.attrs["folders"] for title, table in materials.items()}
areas = pd.DataFrame(
    {k: c.groupby("signal")["area"].first() for k, c in curves.items()}
)
if out:
    save(
        figure,
        Path(out) / "trust-roc",
        pd.concat([c.assign(panel=k) for k, c in curves.items()]),
    )
display(
    captioned(
        figure,
        "How well the latent distance tells failures (no match by StructureMatcher), nesf+ with consistent decoding, three seeds together: share of the failures that are caught against share of the right crystals that are doubted, a panel a split, a line a signal; further up and left is better. Area under the curve 0.5 (dashed): the signal says nothing; 1: it tells every failure. The threshold of the certificate was chosen on validation crystals.",
        table=sourced(areas.rename_axis("area under the curve"), by=of),
        name="trust-roc",
        fold="The areas as a table",
    )
)


# %% tags=["hide-input"]
def show_reliability(
    tables: dict[str, pd.DataFrame], caption: str, name: str, **source: Any
) -> None:
    """Draw it for some groups of crystals, and keep the data."""
    groups = {title: reliability(table) for title, table in tables.items()}
    figure = reliability_chart(groups, PRESETS["plus"].decoding.certified)
    data = pd.concat(
        [g.assign(panel=k) for k, g in groups.items()], ignore_index=True
    )
    if out:
        save(figure, Path(out) / name, data)
    shown = sourced(data.set_index(["panel", "decade"]), **source)
    display(captioned(figure, caption, table=shown, name=name))


show_reliability(
    materials,
    "Share of exact crystals (all atoms and elements right, mean position error below 0.01 Å) in decades of the latent distance, nesf+ with consistent decoding, a panel a split. Beside each point the number of crystals; lines: 95 % interval. Dashed: the threshold of the certificate; crystals to the left of it are certified.",
    "trust-reliability",
    by=of,
)
for title, table in signals.items():
    display(
        sourced(
            verdict_table(table),
            of[title],
            caption=f"{title}: crystals of nesf+ by the verdict of the certificate, three seeds together. How many there are, how many match (StructureMatcher), and how many are exact.",
        )
    )

# %% [markdown]
# ## May the training domain be trusted?
#
# A crystal is flagged where its cell, its number of atoms or an element lies outside what the model has learned. On the test split of the model's own dataset hardly any crystal is. So crystals that nesf+ on LCS6Å has never seen were drawn at random from test splits of four datasets, without those whose id is in its training split and those with an element that it refuses. They were reconstructed as own structures are, with consistent decoding (`nesf analyse domain`).

# %% tags=["hide-input"]
model = Path(results or RESULTS) / "lcs6" / "nesf" / "plus" / "seed-0"
recorded = model / "analysis" / "domain"
drawn = domain_signals(model)
curves = {
    "failure: no match (StructureMatcher)": roc(drawn),
    "failure: not exact": roc(drawn, "exact"),
}
figure = roc_chart(curves)
data = pd.concat([c.assign(panel=k) for k, c in curves.items()])
if out:
    save(figure, Path(out) / "trust-domain", data)
areas = pd.DataFrame(
    {k: c.groupby("signal")["area"].first() for k, c in curves.items()}
)
display(
    captioned(
        figure,
        "How well domain flag and latent distance tell failures, on crystals of all four datasets together: failures that are caught against right crystals that are doubted, a panel a kind of failure, a line a signal; further up and left is better. The flag is yes or no, so its curve has one corner. Exact: all atoms and elements right, mean position error below 0.01 Å.",
        table=sourced(areas.rename_axis("area under the curve"), recorded),
        name="trust-domain",
        fold="The areas as a table",
    )
)
display(
    sourced(
        domain_reliability(drawn),
        recorded,
        caption="Crystals that match (StructureMatcher) and that are exact, by dataset, training domain and verdict of the certificate; in brackets the 95 % interval of the share.",
    )
)

# %% tags=["hide-input"]
flagged = drawn.assign(right=drawn["exact"]).groupby("outside")
show_reliability(
    {
        f"{'outside' if flag else 'inside'} the training domain": part
        for flag, part in flagged
    },
    "Share of exact crystals in decades of the latent distance, outside and inside the training domain, crystals of all four datasets together. Beside each point the number of crystals; lines: 95 % interval. Dashed: the threshold of the certificate.",
    "trust-domain-reliability",
    source=recorded,
)

# %% [markdown]
# The flag is a reason for doubt, not a verdict: crystals outside the domain also come back exactly, and the certificate tells which ({numref}`trust-domain-reliability`). Inside it, failures are rare, and the certificate tells those too. One seed and few crystals of each dataset: the intervals say how little that is.
#
# ## The first ten minutes
#
# What somebody types who has just installed nesf and has four CIF files, mistakes included, and what the screen shows.

# %% tags=["full-width", "hide-input"]
newcomer = recorded_newcomer()
display(HTML(transcript(newcomer["steps"])))
display(Markdown(how_recorded(newcomer, "newcomer")))

# %% [markdown]
# ## What to distrust
#
# - A campaign shows faults that it can draw. It damages text and numbers; it does not write a CIF that is well formed and means something else.
# - Times are those of one machine; the campaign before the mending ran while it was busy.
# - The certificate says that a crystal has this latent vector. It knows nothing of crystals that the encoder maps to one vector, and little of crystals far from the training data: those are named by the training domain.
# - The curves of the training domain rest on the choice of datasets: many of the crystals outside it are from MP-20, which was added after a small pilot without it had hardly a failure. Within one dataset the flag may tell nothing.
# - Three seeds share their test crystals, so the intervals are too narrow for another set.
#
# ## Summary
#
# What cannot be read is refused in one sentence, what a reader changes is said, nothing is overwritten. On held-out crystals no certified one of nesf+ was wrong, and all but a few of those without a certificate were.
