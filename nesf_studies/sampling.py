"""New crystals from densities of latent vectors, beside those of trivial generators.

`nesf analyse sampling RUN` draws and decodes; `sample-quality` and `sample-energies` judge what it
has recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import Dataset
from nesf.saved import TrainedModel
from nesf_design.density import KINDS
from nesf_design.generators import copies, exchanged
from nesf_design.sample import PASSES, fit_on, settled
from nesf_io.errors import ConfigError


@dataclass(frozen=True)
class Parameters:
    """How many crystals of each kind."""

    n_flow: int = 300  # of the normalising flow
    n_mixture: int = 300  # of the Gaussian mixture, the control
    n_noise: int = 100  # of uniform noise in z
    n_trivial: int = 300  # copies of training crystals; training crystals with exchanged elements
    passes: int = PASSES  # of settling
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_flow", "n_mixture", "n_noise", "n_trivial"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: at least 1 is needed")


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame | Crystals]:
    """Draw crystals from each generator.

    `densities`: per density what the validation split chose, and the mean log density of the
    training and validation split, nats. `samples`: a row per crystal: generator, certificate,
    log density of the drawn vector. `crystals`: the crystals. `stages`: those of the models after
    the first decoding and after each pass, ids `<id> | <stage>`.
    """
    densities, rows, final, stages = [], [], [], []
    train, val = (model.encode(dataset.split(s)).cpu().double().numpy() for s in ("train", "val"))
    for kind in KINDS:
        n = getattr(parameters, f"n_{kind}")
        density = fit_on(model, dataset, kind, parameters.seed)
        scores = {
            f"{s}_log_density": density.log_density(z).mean()
            for s, z in (("train", train), ("val", val))
        }
        densities.append({"density": kind, "choice": density.choice, **scores})
        drawn = density.sample(n, parameters.seed)
        made = settled(
            model,
            model.latent(drawn),
            [f"{kind}-{i}" for i in range(n)],
            passes=parameters.passes,
            progress=progress,
        )
        logs = density.log_density(drawn)
        for i, report in enumerate(made.made.reports):
            certificate = report["certificate"]
            rows.append(
                {
                    "id": report["id"],
                    "generator": kind,
                    "n_atoms": report["n_atoms"],
                    "certified": certificate["certified"],
                    "latent_distance": certificate["latent_distance"],
                    "inside_domain": not report["trust"]["outside"],
                    "log_density": logs[i],
                }
            )
        final.append(made.crystals)
        stages += [
            replace(c, ids=tuple(f"{name} | {k}" for name in c.ids))
            for k, c in enumerate(made.stages)
        ]
    for name, generate in (("copy", copies), ("exchanged", exchanged)):
        crystals = generate(dataset.split("train"), parameters.n_trivial, parameters.seed)
        rows += [
            {"id": i, "generator": name, "n_atoms": int(n)}
            for i, n in zip(crystals.ids, crystals.n_atoms, strict=True)
        ]
        final.append(crystals)
    made_stages = {"stages": concatenate(stages)} if stages else {}
    return {
        "densities": pd.DataFrame(densities),
        "samples": pd.DataFrame(rows),
        "crystals": concatenate(final),
        **made_stages,
    }
