# What is asked for, and what of it is missing.
import re
import shlex
import sys
from snakemake.logging import logger

from nesf import methods
from nesf_io.errors import NesfError
from nesf_studies.checksums import state_of

sys.path.insert(0, workflow.basedir)
import plan  # workflow/plan.py

RESULTS, DATA, BUILD = Path(config["results"]), Path(config["data"]), Path(config["build"])
DEVICE = config["device"]
TRAINED, PREDICTED = "|".join(methods.TRAINED), "|".join(set(methods.METHODS) - set(methods.TRAINED))
MIRROR = f"--mirror {config['mirror']}" if config["mirror"] else ""

try:
    RUNS = {run.name: run for run in plan.planned_runs([*config["runs"], *config["predictors"], *config["more"]])}
    MISSING = {name: run.missing(RESULTS, DATA) for name, run in RUNS.items()}
    ANALYSES = {asked.name: asked for asked in plan.planned_analyses(config["analyses"])}
    STATE, RECORDED = state_of(RESULTS)
except NesfError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    unfinished = {}
    for name, state in MISSING.items():
        if state != "nothing":
            recipe, last = name.rsplit("/", 1)
            unfinished.setdefault((recipe, {"everything": "to run", "decoding": "to decode again"}[state]), []).append(last)
    logger.info(f"{list(MISSING.values()).count('nothing')} of {len(RUNS)} runs are recorded as asked for")
    for (recipe, what), names in unfinished.items():
        logger.info(f"  {what}: {recipe}: {', '.join(names)}")


def here(path):
    """A file on a volume that every job sees, on a cluster too: not to be copied to and from a storage."""
    return local(path if isinstance(path, str) else str(path))


def planned(wildcards):
    """The run that a job is for."""
    name = f"{wildcards.dataset}/{wildcards.method}/{wildcards.preset}/{wildcards.run}"
    if name not in RUNS:
        raise WorkflowError(f"{name} is not in the configuration; add it to `runs` in workflow/config.yaml")
    return RUNS[name]


def key(run, stage):
    """A file that is as old as the last change of what decides a stage."""
    return here(plan.write_key(BUILD / "keys" / run.name / stage, plan.stage_key(run, stage, DATA)))


def packed(run):
    """The dataset of a run, unless it is embedded; its date does not matter, its content does (it is in the key)."""
    if run.dataset == "starter":
        return []
    if run.dataset not in plan.FETCHED and not (DATA / run.packed / "dataset.json").exists() and run.dataset not in config["imports"]:
        raise WorkflowError(
            f"dataset {run.dataset} is not in {DATA}: import it with `nesf data import PATH --name {run.dataset} --data {DATA}`, "
            f"or name its path in the configuration (--config imports='{{{run.dataset}: PATH}}')"
        )
    return [here(ancient(str(DATA / run.packed / "dataset.json")))]


def training_inputs(wildcards):
    run = planned(wildcards)
    if MISSING[run.name] != "everything":
        return []
    return [key(run, "training"), *packed(run)]


def decoding_inputs(wildcards):
    run = planned(wildcards)
    if MISSING[run.name] == "nothing":
        return []
    return [key(run, "decoding"), here(RESULTS / run.weights.name / "model.safetensors")]


def decode_options(run):
    """Options of `nesf reconstruct` for another decoding of trained weights."""
    pairs = [word for key, value in run.decode for word in ("--decode", f"{key}={value}")]
    return [*pairs, "--label", run.label] if pairs else []


def scoring_inputs(wildcards):
    run = planned(wildcards)
    if MISSING[run.name] == "nothing":
        return []
    return [here(RESULTS / run.name / "reconstruction" / split / "summary.json") for split in run.splits]


def analysis_inputs(wildcards):
    name = f"{wildcards.dataset}/{wildcards.method}/{wildcards.preset}/{wildcards.run}/analysis/{wildcards.analysis}"
    if name not in ANALYSES:
        raise WorkflowError(f"{name} is not in the configuration; add it to `analyses` in workflow/config.yaml")
    asked = ANALYSES[name]
    if MISSING.get(asked.run, "nothing") != "everything" and plan.is_analysed(asked, RESULTS):
        return []
    models = [RESULTS / asked.run, *(Path(value) for _, value in asked.changes if value.startswith(f"{RESULTS}/"))]  # the voxel baseline's, too
    return [here(plan.write_key(BUILD / "keys" / name, asked.key())), *(here(model / "model.safetensors") for model in models)]


def table_inputs(wildcards):
    if RECORDED and not any(missing != "nothing" for missing in MISSING.values()):
        return []
    return [here(plan.write_key(BUILD / "keys" / "results", STATE)), *(here(RESULTS / name / "metrics.json") for name in RUNS)]
