"""`python -m benchmarks.memory`: peak memory and time of large decodings, one process each."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.setting import Setting, parse
from nesf.config import ReconstructionConfig
from nesf.crystals import PaddedCrystals
from nesf.data.dataset import Box
from nesf.decode import decode
from nesf.decoding_fields import GroundTruthFields, NeuralFields
from nesf.fields import box_grid

LARGE: Box = ((0.0,) * 3, (50.0,) * 3)  # 1.1 million particles
CELL: Box = ((0.0,) * 3, (25.0,) * 3)


def thousand_atoms(edge: float) -> PaddedCrystals:
    """Return one crystal with 1,000 atoms, at least 1.5 Å apart, in a cube."""
    steps = torch.arange(10) * (edge / 10) + 0.5
    atoms = torch.cartesian_prod(steps, steps, steps) + 0.3 * torch.rand(
        1000, 3, generator=torch.Generator().manual_seed(0)
    )
    lengths, angles = torch.full((1, 3), edge), torch.full((1, 3), torch.pi / 2)
    return PaddedCrystals(
        atoms[None],
        torch.arange(1000)[None] % 2,
        torch.ones(1, 1000, dtype=torch.bool),
        lengths,
        angles,
        edge * torch.eye(3)[None],
    )


def cases(setting: Setting) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the decodings to measure, which return numbers of particles and of detected atoms."""

    def neural(box: Box, mode: str, **changes: Any) -> dict[str, Any]:
        model = setting.model
        z = model.encode(setting.dataset.splits["val"].select(range(1)))
        config = ReconstructionConfig(mode=mode, **changes)  # type: ignore[arg-type]
        found = decode(
            NeuralFields(model.autoencoder, z),
            ["one"],
            box,
            model.vocabulary,
            config,
            setting.device,
        )
        return {
            "particles": len(box_grid(box, config.grid_interval)),
            "atoms": int(found.crystals.n_atoms[0]),
        }

    def truth(box: Box, edge: float) -> dict[str, Any]:
        fields, config = (
            GroundTruthFields(thousand_atoms(edge).to(setting.device)),
            ReconstructionConfig(),
        )
        found = decode(fields, ["one"], box, (1, 2), config, setting.device)
        return {
            "particles": len(box_grid(box, config.grid_interval)),
            "atoms": int(found.crystals.n_atoms[0]),
        }

    def untrained() -> dict[str, Any]:
        torch.manual_seed(0)
        for parameter in setting.model.autoencoder.position_field.parameters():
            parameter.data.normal_(std=0.05)
        # what matters is that nothing is near anything
        return neural(LARGE, "exact", iterations=2, score_threshold=1e3)

    return {
        "trained field, its own box": lambda: neural(setting.model.box, "exact"),
        "trained field, box of 10⁶ particles, exact": lambda: neural(LARGE, "exact"),
        "trained field, box of 10⁶ particles, fast": lambda: neural(LARGE, "fast"),
        "random field, box of 10⁶ particles, 2 moves": untrained,
        "true field, 1,000 atoms": lambda: truth(CELL, 25.0),
        "true field, 1,000 atoms, box of 10⁶ particles": lambda: truth(LARGE, 50.0),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options, setting = parse(
        "benchmarks.memory",
        "Peak memory of decoding large things.",
        words,
        lambda parser: parser.add_argument(
            "--only", metavar="CASE", help="measure one case in this process and print it"
        ),
    )
    if options.only:
        begin = time.perf_counter()
        numbers = cases(setting)[options.only]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        print(
            json.dumps(
                numbers | {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak}
            )
        )
        return
    rows = []
    for name in cases(setting):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *words, "--only", name],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append({"case": name} | json.loads(done.stdout.splitlines()[-1]))
        print(
            f"{name:50s} {rows[-1]['particles']:9,d} particles {rows[-1]['atoms']:6,d} atoms {rows[-1]['seconds']:8.1f} s",
            end=" ",
        )
        print(f"{rows[-1]['peak_memory_bytes'] / 1e9:6.2f} GB", flush=True)
    print(f"written: {setting.write('memory', decoding=rows)}")


if __name__ == "__main__":
    main()
