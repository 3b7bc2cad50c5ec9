"""Two processes that share every batch take the steps that one process takes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nesf.config import preset
from nesf.data import load
from nesf.training import FieldTrainer, train

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = {
    "training.epochs": 2,
    "training.batch_size": 24,
    "training.compile": False,
    "training.precision": "fp32",
    "model.decoder_position": [32, 16, 16],
    "model.decoder_species": [32, 16],
    "model.encoder_mix": [64],
}
STEPS = """
import sys
import torch
from nesf.distributed import processes, rank
from tests.test_distributed import steps

full = sys.argv[2] == "full"
with processes("cpu") as device:
    result = steps(full)
    if rank() == 0:
        torch.save(result, sys.argv[1])
"""


def steps(full: bool) -> list[dict[str, torch.Tensor]]:
    """Three steps in float64: gradients, running statistics and losses after each. Noise is off
    where processes draw their own."""
    changes = (
        {
            f"sampling.{k}": 0
            for k in ("n_position", "n_species", "global_sigma", "local_sigma", "species_sigma")
        }
        if full
        else {}
    )
    trainer = FieldTrainer(load("starter"), preset("cpu").with_values(SMALL | changes))
    trainer.model.double()
    trainer.train_split = trainer.train_split.to("cpu", torch.float64)
    made = []
    for step in range(1 if full else 3):
        trainer.step(0, step)
        gradients = {
            name: p.grad.clone()
            for name, p in trainer.model.named_parameters()
            if p.grad is not None
        }
        made.append(
            gradients
            | {name: b.clone() for name, b in trainer.model.named_buffers()}
            | {"losses": trainer.sums.clone()}
        )
    return made


def launch(*arguments: str) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, *LAUNCHER, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("sampling", ["drawn", "full"])
def test_gradients_statistics_and_losses_are_those_of_one_process(
    sampling: str, tmp_path: Path
) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    launch(str(tmp_path / "steps.py"), str(tmp_path / "two.pt"), sampling)
    for one, two in zip(
        steps(sampling == "full"), torch.load(tmp_path / "two.pt", weights_only=True), strict=True
    ):
        assert one.keys() == two.keys() and len(one) > 40
        for name in one:
            torch.testing.assert_close(
                two[name], one[name], rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )


def test_loss_curve_stop_and_resume_through_torchrun(tmp_path: Path) -> None:
    words = [
        w
        for key, value in SMALL.items()
        for w in (
            "--set",
            f"{key}={json.dumps(value) if isinstance(value, bool | list) else value}",
        )
    ]

    def launched(out: str, *more: str) -> list[dict[str, str]]:
        launch("-m", "nesf", "train", "starter", "--out", str(tmp_path / out), *words, *more)
        with (tmp_path / out / "log.csv").open() as file:
            return list(csv.DictReader(file))

    curve = launched("whole")
    alone = train(
        load("starter"), preset("cpu").with_values(SMALL), tmp_path / "alone", progress=False
    ).log
    # Adam amplifies rounding from step to step: fp32 curves agree, not to the last digit
    for a, b in zip(alone, curve, strict=True):
        for term in ("loss", "loss_position", "loss_species", "loss_length"):
            assert float(b[term]) == pytest.approx(a[term], rel=0.1)
    launched("parts", "--max-minutes", "0")
    assert not json.loads((tmp_path / "parts" / "run.json").read_text())["finished"]
    # what is read from disk while it trains is shared in the same way
    launched("parts", "--resume", "--stream")
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    run = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert (
        run["finished"]
        and run["processes"] == 2
        and run["command"].startswith("torchrun --nproc-per-node 2 -m nesf train starter")
    )
