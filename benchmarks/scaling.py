"""Growth of time with queries, atoms and crystals, over a hundredfold range of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.setting import Setting, decode_configs, parse, run_of
from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, pad
from nesf.data.dataset import Box
from nesf.decode import decode, decode_latent
from nesf.decoding_fields import GroundTruthFields

QUERIES = (60, 190, 600, 1900, 6000)  # position queries of a crystal
ATOMS = (8, 27, 125, 343, 1000)  # cubes
CRYSTALS = (2, 6, 20, 63, 200)
TURNS = 3
EDGE = 20.0  # Å, of the cell that holds them


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the k of seconds ~ size^k, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def series_of(
    setting: Setting,
    quantity: str,
    cases: dict[str, Callable[[int], Callable[[], Any]]],
    sizes: Sequence[int],
) -> list[dict[str, Any]]:
    """Measure all cases at all sizes, in turns.

    Args:
        quantity: queries, atoms or crystals.
        cases: name to a function that makes ready for a size and returns the work to time.
        sizes: ascending.

    Returns:
        As schema/benchmark.json has them.
    """
    works = {(case, size): make(size) for size in sizes for case, make in cases.items()}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in works}
    for work in list(works.values())[: len(cases)]:
        work()  # what is done once
    for _ in range(TURNS):  # a busy minute then slows all sizes a little, and not one of them much
        for key, work in tqdm(works.items(), desc=quantity, leave=False):
            spent = 0.0
            while not spent or (spent < 0.2 and len(times[key]) < 30):
                setting.finish()
                begin = time.perf_counter()
                work()
                setting.finish()
                times[key].append(time.perf_counter() - begin)
                spent += times[key][-1]
    points = {
        case: [
            {"size": n, "seconds": min(times[case, n]), "rounds": len(times[case, n])}
            for n in sizes
        ]
        for case in cases
    }
    half = len(sizes) // 2
    found = []
    for case, measured in points.items():
        n, t = [p["size"] for p in measured], [p["seconds"] for p in measured]
        found.append(
            {"quantity": quantity, "case": case, "points": measured}
            | {"exponent": exponent(n, t), "exponent_upper_half": exponent(n[half:], t[half:])}
        )
    return found


def over_queries(setting: Setting, batch: int = 16) -> list[dict[str, Any]]:
    """Measure a training step against its queries, a third for species; fp32, not compiled."""

    def step(total: int) -> Callable[[], Any]:
        per_crystal = 2 * total // (3 * batch)
        changes = {
            "training__batch_size": batch,
            "sampling__n_position": per_crystal,
            "sampling__n_species": total // batch - per_crystal,
        }
        run = run_of(setting, "cpu", "fp32", **changes)
        return lambda: run.step(0, 0)

    return series_of(
        setting,
        "queries",
        {f"training step, {batch} crystals": step},
        [n * batch * 3 // 2 for n in QUERIES],
    )


def many_atoms(n: int) -> Crystals:
    """Return a crystal of about n atoms, on a grid of k³ places in a cube of edge `EDGE`."""
    side = round(n ** (1 / 3))
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return Crystals.from_arrays(
        ["many"], [(cells + 0.5) * EDGE / side], [1 + cells.sum(-1) % 2], np.eye(3)[None] * EDGE
    )


@dataclass(frozen=True)
class GridFields:
    """The fields of `many_atoms`, by rounding: a query costs the same for any number of atoms."""

    side: int

    def _cell(self, queries: Tensor) -> Tensor:
        return (queries * (self.side / EDGE)).floor().clamp(0, self.side - 1)

    def position(self, queries: Tensor, crystal: Tensor, rough: bool = False) -> Tensor:
        """See `nesf.decoding_fields.StructureFields`."""
        return (self._cell(queries) + 0.5) * (EDGE / self.side) - queries

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `nesf.decoding_fields.StructureFields`."""
        return self._cell(queries).sum(-1).long() % 2

    def lattice(self) -> tuple[Tensor, Tensor]:
        """See `nesf.decoding_fields.StructureFields`."""
        return torch.full((1, 3), EDGE), torch.full((1, 3), torch.pi / 2)


def over_atoms(setting: Setting) -> list[dict[str, Any]]:
    """Measure decoding against atoms of the cell, with the same particles in the same box.

    No trained model has so many atoms.
    Fields that cost the same for any number of atoms, as a network does, show what the five steps
    cost. The true fields search the nearest of all atoms for every query, and the queries of step 5
    grow with the atoms: together that grows with their square.
    """
    box: Box = ((0.0, 0.0, 0.0), (EDGE, EDGE, EDGE))
    configs = {name: reduced(config) for name, config in decode_configs().items()}

    def decoding(config: ReconstructionConfig, known: bool) -> Callable[[int], Callable[[], Any]]:
        def make(n: int) -> Callable[[], Any]:
            true = GroundTruthFields(pad(many_atoms(n), (1, 2), setting.device))
            fields = true if known else GridFields(round(n ** (1 / 3)))
            return lambda: decode(fields, ["many"], box, (1, 2), config, setting.device)

        return make

    cases = {f"decoding, {name}": decoding(config, known=False) for name, config in configs.items()}
    return series_of(
        setting,
        "atoms",
        cases | {"decoding, true fields": decoding(configs["exact"], known=True)},
        ATOMS,
    )


def reduced(config: ReconstructionConfig) -> ReconstructionConfig:
    """Return the config with fewer particles: 1000 atoms share the 17,000 of a 0.8 Å grid."""
    return replace(config, grid_interval=0.8, min_particles=2)


def over_crystals(setting: Setting) -> list[dict[str, Any]]:
    """Measure decoding against crystals, repeated where the dataset has too few."""
    train, model = setting.dataset.splits["train"], setting.model
    largest = max(CRYSTALS)
    chosen = train.select(
        np.random.default_rng(0).permutation(np.resize(np.arange(len(train)), largest))
    )
    z = model.encode(chosen)

    def decoding(config: ReconstructionConfig) -> Callable[[int], Callable[[], Any]]:
        return lambda n: lambda: decode_latent(model, z[:n], chosen.ids[:n], config)

    return series_of(
        setting,
        "crystals",
        {f"decoding, {name}": decoding(config) for name, config in decode_configs().items()},
        CRYSTALS,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    _, setting = parse(
        "benchmarks.scaling",
        "Measure how time grows with queries, atoms and crystals, and record it.",
        arguments,
    )
    with torch.no_grad():
        decoded = over_atoms(setting) + over_crystals(setting)
    series = over_queries(setting) + decoded
    for one in series:
        sizes = [p["size"] for p in one["points"]]
        print(
            f"{one['quantity']} {sizes[0]}-{sizes[-1]}, {one['case']}: time ~ n^{one['exponent']:.2f}, upper half n^{one['exponent_upper_half']:.2f}"
        )
    print(f"written: {setting.write('scaling', series=series)}")


if __name__ == "__main__":
    main()
