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
# # Interpolation
#
# **Question.** What stands between two crystals in the latent space? If the space is well ordered, the vectors on a straight line between two crystals decode to crystals too, and each is like its neighbours (Section 2.4, Supplementary Note 2; Figures 5, 6, S1-S4).
#
# Read this page if you want to know how far the space can be trusted between the crystals that it was trained on. The first part is **computed on this page**, with the recorded model of the small embedded dataset. The second shows the paper's paths with
# the **recorded** LCS6Å model. Any two crystals, by id or by file:
# `papermill notebooks/interpolation.ipynb out.ipynb -p dataset lcs6 -p run runs/lcs6 -p paths "mp-1265 to my.cif"`.

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters of this page"}
dataset: str = "starter"  # or lcs6, ybco, icsg3d, an imported one, a path
fold: int = -1  # 0-19 for ybco; -1: none
mirror: str = ""  # copy of the official release; empty: download
data_dir: str = ""  # folder of datasets; empty: the user's default
run: str = ""  # folder of a trained model; empty: the recorded one
paths: str = ""  # A to B, ids or files; paper; empty: two test crystals
n_frames: int = 21  # latent vectors on a path, both ends included
mode: str = "exact"  # of decoding: exact or fast
recorded: str = ""  # run with a recorded analysis; empty: that of LCS6Å
out: str = ""  # folder for the figures as SVG, PNG and CSV; empty: none

# %% tags=["remove-cell"]
from nesf_studies.page import check_parameters

check_parameters(globals(), mode=("exact", "fast"))

# %% tags=["remove-cell"]
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from nesf_studies import viewer as views
from nesf_studies.crystals import charge_balanced
from nesf_studies.interpolation import (
    Parameters,
    analyse,
    paper_paths,
    path_chart,
    path_summary,
    similar_pair,
)
from nesf_studies.links import HERE, PAPER, sourced
from nesf_studies.page import open_dataset, open_model, recorded_run
from nesf_studies.record import shown_analysis
from nesf_studies.style import captioned, save

# %% tags=["hide-input"]
crystals = open_dataset(dataset, fold, mirror, data_dir)
model, folder = open_model(run, crystals)
chosen = paths or " to ".join(similar_pair(crystals.split("test")))
print(f"path: {chosen}")

# %% [markdown]
# ## The rule
#
# Source and destination are encoded; the vectors between them lie on a straight line, and each is decoded as any other (Section 2.4):
#
# $$\mathbf{z}(t) = (1 - t)\, \mathbf{z}_\text{src} + t\, \mathbf{z}_\text{dst}, \qquad 0 \le t \le 1$$ (line)
#
# ```python
# z = latent_path(model, ends, np.linspace(0, 1, n_frames))
# frames = decode_latent(model, z, ids).crystals
# ```
#
# Nothing tells the decoder which atoms to keep or how many there are. Without a parameter this page takes the first two test crystals that are charge-balanced and of one kind (formula such as AB₂, number of atoms), but have no element in common.

# %% tags=["remove-stderr", "hide-input"]
parameters = Parameters(paths=chosen, n_frames=n_frames, mode=mode)
made = analyse(model, crystals, parameters, progress=True)


# %% tags=["hide-input"]
def show(paths_table, frames_table, decoded, about):
    """Every path: a slider through its crystals, and what changes along it."""
    ours = paths_table.query("method == 'nesf'")
    for row in ours.itertuples():
        frames = frames_table.query("path == @row.path")
        rows = frames.query("method == 'nesf'")
        marks = [f"{row.path} | {i}" for i in rows["frame"]]
        at = {identifier: i for i, identifier in enumerate(decoded.ids)}
        structures = decoded.select([at[m] for m in marks]).to_structures()
        titles = [
            f"t = {r.t:.3f}: {r.formula}, {r.n_atoms} atoms, a = {r.a:.2f} Å, {r.symbol}, {'valid' if r.valid else 'not valid'}"
            for r in rows.itertuples()
        ]
        figure = f" (Figure {row.figure})" if row.figure else ""
        display(
            Markdown(
                f"### {row.path}{figure}\n\n{row.source} ({row.source_split}) to {row.destination} ({row.destination_split})"
            ),
            views.captioned_view(
                views.crystal_slider(structures, titles),
                f"{row.path}: the crystals that are decoded along the path, in 3-D and at the same scale. Above each: t, formula, number of atoms, lattice length a, space group, and whether the crystal is valid. Drag to turn, scroll to zoom, move the slider to walk.",
            ),
        )
        drawn = path_chart(frames, title=f"{row.path}; {about}")
        if out:
            name = f"interpolation-{row.source}-{row.destination}"
            save(drawn, Path(out) / name, frames)
        display(
            captioned(
                drawn,
                f"{row.path}: what changes along the path. Left: share of each element in the decoded cell (bands) and its number of atoms (line). Middle: decoded lattice lengths; dashed: a straight line between the lengths of the two crystals. Right: how far the atoms moved from one frame to the next, blue NeSF, dashed grey the linear path; squares: the frames, filled where the frame is valid.",
            )
        )


def smoothness(paths_table):
    """How smooth and how valid, NeSF beside the linear path."""
    columns = {
        "changes": "changes of formula",
        "ends_right": "end formulas correct (of 2)",
        "largest_length_step": "largest step of a length, Å",
        "length_step_to_even": "that step over the mean step",
        "mean_structure_step": "mean step of the atoms, Å",
        "largest_structure_step": "largest step of the atoms, Å",
        "charge_balanced_percent": "charge-balanced, %",
        "valid_percent": "valid, %",
        "space_groups": "space groups",
    }
    done = paths_table.query("status == 'run'").set_index(["path", "method"])
    table = done[list(columns)].rename(columns=columns)
    whole = [columns[c] for c in ("changes", "ends_right", "space_groups")]
    return table.astype(dict.fromkeys(whole, int)).round(3)


show(
    made["paths"],
    made["frames"],
    made["decoded"],
    f"model of {model.dataset['name']}, {folder.name}, {n_frames} frames",
)

# %% tags=["hide-input"]
rows = made["frames"].query("method == 'nesf'")[
    ["path", "t", "formula", "n_atoms", "a", "b", "c", "symbol", "valid"]
]
rows = rows.drop_duplicates(["path", "formula", "symbol"]).round(3)
sourced(rows, HERE)

# %% [markdown]
# *The path in numbers: the first frame of each formula and space group, with its t, number of atoms, lattice lengths in Å, and whether it is valid. Space groups by spglib {cite}`togo2024`, with pymatgen; an atom may be 0.1 Å off its site.*
#
# What is counted on a path:
#
# - **changes of formula** along the path; the reduced formula counts, as in the paper. **End formulas correct**: how many of the two ends decode to their own formula.
# - **largest step of a lattice length** between two frames; also divided by the mean step of the path, where 1 is a path whose steps are all equal. Where the lengths of both ends agree to 0.05 Å there is no such number.
# - **step of the atoms**: from each atom to the nearest atom of the next frame, both ways, in fractional coordinates and periodic; the element does not count.
# - **charge-balanced**: oxidation states exist that add up to zero (pymatgen's guesses). **Valid**: charge-balanced, and no two atoms nearer than 0.5 Å.
#
# What a trivial method scores: *linear* interpolates the lattice parameters and, where both ends have as many atoms, the fractional coordinates; the elements are those of the nearer end. It needs no network, never makes a new formula, and is smooth everywhere except at the midpoint, where the elements switch.

# %% tags=["hide-input"]
sourced(smoothness(made["paths"]), HERE)

# %% [markdown]
# *How smooth and how valid the path is, over all of its frames: NeSF beside the linear path. Smaller steps are smoother; for the end formulas, charge balance and validity higher is better.*
#
# ## The paper's paths, recorded
#
# The paper shows five paths with a model trained on ICSG3D, and barium titanate with the LCS6Å model. **Here all are decoded with the LCS6Å model**; the formulas of a model that was trained on the recovered part of ICSG3D stand beside them below. PbS (mp-21276) is not in LCS6Å: its two paths cannot be run as they are. In its place stands
# rock salt PbS with its measured lattice constant of 5.936 Å, named *textbook*.

# %% tags=["hide-input"]
of = Path(recorded) if recorded else recorded_run("lcs6")
record = shown_analysis("interpolation", of)

# %% tags=["hide-input"]
if record:
    lengths = record.table("paths").fillna(
        {"formulas": "", "formulas_paper": "", "figure": "", "method": ""}
    )
    name = record.about["model"]["dataset"]["name"]
    frames_of = record.table("frames")
    n = int(frames_of["frame"].max()) + 1
    show(
        lengths.query("status == 'run'"),
        frames_of,
        record.crystals("decoded"),
        f"model of {name}, {of.name}, {n} frames",
    )

# %% [markdown]
# ### The paper's formulas beside ours
#
# The paper names the formulas that it met, not how many vectors it decoded.


# %% tags=["hide-input", "full-width"]
def formulas_of(analysis):
    """The sequence of formulas of every path, or why there is none."""
    rows = analysis.table("paths").query("method != 'linear'")
    rows = rows.set_index("path")
    arrows = rows["formulas"].fillna("").map(lambda t: t.replace(" ", " → "))
    return arrows.where(rows["method"] == "nesf", rows["status"])


second = shown_analysis("interpolation", recorded_run("icsg3d-recovered"))
if record:
    rows = lengths.query("method != 'linear'").set_index("path")
    paper = rows["formulas_paper"].map(lambda t: t.replace(" ", " → "))
    columns = {"figure": rows["figure"], "paper": paper}
    columns["ours, LCS6Å"] = formulas_of(record)
    if second:
        columns["ours, recovered ICSG3D"] = formulas_of(second)
    by = {"figure": PAPER, "paper": PAPER, "ours, LCS6Å": record.folder}
    if second:
        by["ours, recovered ICSG3D"] = second.folder
    display(
        sourced(
            pd.DataFrame(columns).reindex(rows.index),
            by=by,
            caption="Formulas along each path, repeats in a row written once: the paper's, with the figure that shows them, and ours, with the model of LCS6Å and with that of the recovered part of ICSG3D. Where a path cannot be run, the reason.",
        )
    )

# %% [markdown]
# How far do they agree between the two ends? The formulas of the ends any method gets; the linear path has none between them.

# %% tags=["hide-input"]
names = {
    "between_paper": "in the paper",
    "between_ours": "in ours",
    "between_common": "in both",
    "between_in_order": "in order",
}
found = {"LCS6Å": record, "recovered ICSG3D": second}
agreement, by = {}, {}
for label, analysis in found.items():
    if analysis:
        ran = analysis.table("paths").query("method == 'nesf'")
        ran = ran[ran["formulas_paper"].notna()].set_index("path")
        agreement[label] = ran[list(names)].astype(int).rename(columns=names)
        by[label] = analysis.folder
if agreement:
    display(
        sourced(
            pd.concat(agreement, names=["model"]),
            by=by,
            caption="Different formulas between the two ends of each path: how many the paper names, how many ours has, how many are in both, and how many come in the same order in both (the longest common sequence).",
        )
    )

# %% [markdown]
# ### Smoothness and validity

# %% tags=["hide-input"]
if record:
    done = lengths.query("status == 'run'")
    drawn = path_summary(done, title=f"model of {name}, {of.name}, {n} frames")
    if out:
        save(drawn, Path(out) / "interpolation-paths", done)
    display(
        captioned(
            drawn,
            "Smoothness and validity of the recorded paths, a row a path. Blue: NeSF; grey: the linear path. Panels: changes of the formula; largest step of a lattice length over the mean step of the path; mean step of the atoms; share of charge-balanced frames. Smaller steps are smoother; for charge balance higher is better.",
            table=sourced(smoothness(lengths), record.folder),
            name="path-smoothness",
        )
    )

# %% [markdown]
# ### Beside nesf+
#
# The space of nesf+, which was trained on self-made crystals too and whose encoder counts atoms ([Every crystal back](consistent)), on the same paths. Both are decoded by the five steps: between two crystals no crystal need have the vector, so there is nothing to confirm.

# %% tags=["hide-input"]
plus = shown_analysis("interpolation", recorded_run("lcs6", preset="plus"))
if record and plus:
    of_plus = plus.table("paths").query("method == 'nesf'")
    both = pd.concat([done, of_plus.assign(method="nesf+")])
    drawn = path_summary(both, title=f"models of {name}, {n} frames")
    rows = smoothness(both).sort_index()
    if out:
        save(drawn, Path(out) / "interpolation-plus", both)
    display(
        captioned(
            drawn,
            "The same paths with nesf+ (orange), beside NeSF (blue) and the linear path (grey): smoothness and validity, a row a path, in the same panels. Smaller steps are smoother; for charge balance higher is better.",
            table=sourced(rows, record.folder, {"nesf+": plus.folder}),
            name="path-smoothness-plus",
        )
    )

# %% [markdown]
# The paths of nesf+ are of the same kind: the ends are right, and there are rather fewer formulas between them.
#
# The paper's own intermediate formulas can be tested for charge balance in the same way.

# %% tags=["hide-input"]
rows = {}
for row in paper_paths().itertuples():
    between = row.formulas.split()[1:-1]
    balanced = [f for f in between if charge_balanced(f)]
    rows[row.path] = {
        "between the ends": len(between),
        "charge-balanced": len(balanced),
        "not balanced": ", ".join(f for f in between if f not in balanced),
    }
sourced(pd.DataFrame(rows).T, HERE)

# %% [markdown]
# *Charge balance of the formulas that the paper shows between the two ends of its paths: how many there are, how many are balanced, and which are not.*
#
# ## The paper's claim, and what we see
#
# - *"Composition AX and the cubic structure are mostly preserved".* With the LCS6Å model this holds on the five paths between AX crystals. With the model of the recovered part of ICSG3D it does not hold on all of them: from ZnS to CdS sulphur takes the place of the metal along a part of the path. Where they are kept, the sites stay, and elements are exchanged one site after the other (the left panels). Exchanging single atoms of a cell of eight breaks the cubic symmetry of the whole, so the space group does change; the table of {numref}`path-smoothness` counts how many a path has.
# - *"The compositions change continuously without collapsing".* Formulas change by one or a few atoms of the cell at a time, in the paper too; the lattice lengths are what is continuous. {numref}`path-smoothness` shows how even.
# - *Barium titanate: "smooth transition even if the structures have different Bravais lattices".* Although both ends are BaTiO₃, the formula changes along the path, in the paper and here. Atoms appear and vanish, and the steps are the largest of all paths. The linear path has none of that.
#
# ## What to distrust
#
# - **None of the examples is a test material.** The paper takes them "from the ICSG3D test set". In the released files only MgO (mp-1265) is in that test set, and the released training list holds it as well. In LCS6Å all seven that it has are training crystals. A path between crystals that the model has memorised is the easy case.
# - Another network, another dataset: that our formulas between the ends differ from the paper's says little. Which elements lie between two is decided by the whole training set.
# - The PbS of two paths is a textbook cell and not the paper's crystal.
# - Charge balance and a smallest distance are weak tests. Passing them does not make a crystal stable, or possible. Metals and alloys fail the first and exist.
# - Where two atoms change between two frames, the formula between is not seen. More frames: `n_frames`.
#
# ## Summary
#
# A straight line in latent space walks from crystal to crystal by exchanging elements on the same sites, with lattice lengths that change evenly, as long as both ends are of one kind. The linear path without a network is smoother and at least as often charge-balanced; what the network adds is mixed compositions. Where the kind of cell changes, atoms vanish and appear along the path.
