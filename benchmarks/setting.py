"""Parts that all measurements share: options, dataset, model, training steps, record."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain import PlainAutoencoder, plain_losses, plain_model
from benchmarks.records import write_benchmark
from nesf import data
from nesf.config import PRESETS, Config, ReconstructionConfig
from nesf.crystals import PaddedCrystals
from nesf.data.dataset import Dataset
from nesf.fields import Queries
from nesf.hardware import can_compile, has_bf16
from nesf.records import command_line, environment
from nesf.saved import TrainedModel, choose_device
from nesf.trainer import derived_seed
from nesf.training import FieldTrainer

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = REPOSITORY / "results" / "benchmarks"
STARTER_MODEL = Path("results/starter/nesf/cpu/seed-0")
PLAIN = "plain"
# Case to (precision, compiled); `plain` is the reference and not a setting of the package.
STEP_CASES = {
    "fp32": ("fp32", False),
    "fp32, compiled": ("fp32", True),
    "bf16, compiled": ("bf16", True),
}


def add_options(add: Callable[..., Any]) -> None:
    """Add the shared options with `add_argument` of argparse or `addoption` of pytest."""
    add("--data", default=None, metavar="DIR", help="folder of datasets; the user's default")
    add("--dataset", default="starter", metavar="NAME", help="starter (embedded), lcs6, ...")
    add("--fold", default=None, type=int, metavar="K", help="of ybco")
    add(
        "--model",
        default=None,
        metavar="DIR",
        help="folder of a model trained on it, which decodes; the recorded one of starter",
    )
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", default=None, type=int, metavar="N", help="of the processor; torch's default")
    add(
        "--out",
        default=None,
        metavar="DIR",
        help=f"folder of the record; {RECORDS.relative_to(REPOSITORY)}/<device>-<dataset>, numbered where there is one",
    )


@dataclass(frozen=True)
class Setting:
    """Dataset, model and device of a measurement."""

    dataset: Dataset
    model_folder: Path  # of the trained model that decodes
    device: torch.device
    out: Path  # folder of the record
    started: datetime  # UTC
    command: str  # what to type to repeat it

    @classmethod
    def of(cls, options: Any, program: Sequence[str], arguments: Sequence[str]) -> Setting:
        """Return the setting of the parsed options of `add_options`.

        Raises:
            DataError: no such dataset.
        """
        if options.threads:
            torch.set_num_threads(options.threads)
        dataset = data.load(
            options.dataset,
            fold=options.fold,
            data_dir=Path(options.data) if options.data else None,
        )
        device = choose_device(options.device)
        out = Path(options.out) if options.out else free_folder(device, dataset)
        return cls(
            dataset,
            Path(options.model or STARTER_MODEL),
            device,
            out,
            datetime.now(UTC),
            command_line(arguments, program),
        )

    @functools.cached_property
    def model(self) -> TrainedModel:
        """The trained model."""
        folder = (
            self.model_folder
            if self.model_folder.is_absolute() or self.model_folder.exists()
            else REPOSITORY / self.model_folder
        )
        return TrainedModel.load(folder, str(self.device))

    def write(
        self,
        kind: str,
        *,
        measured: dict[str, Any] | None = None,
        uses_model: bool = True,
        **content: Any,
    ) -> Path:
        """Write the record of a measurement in an environment (None: here); return its file."""
        model = command_line([str(self.model_folder)], ()) if uses_model else None
        about = {
            "command": self.command,
            "started": self.started,
            "model": model,
            "measured": measured or self.environment(),
        }
        write_benchmark(self.out, kind, self.dataset, **about, **content)  # type: ignore[arg-type]
        return self.out / f"{kind}.json"

    def environment(self) -> dict[str, Any]:
        """Return versions, threads and peak memory of this process."""
        return environment(str(self.device))

    def finish(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def free_folder(device: torch.device, dataset: Dataset) -> Path:
    """Return `results/benchmarks/<device>-<dataset>`, numbered if there is such a record."""
    name = f"{device.type}-{dataset.label.replace(' ', '-')}"
    numbered = (RECORDS / (name if k == 1 else f"{name}-{k}") for k in range(1, 10_000))
    return next(folder for folder in numbered if not folder.exists())


def parse(
    program: str,
    description: str,
    arguments: Sequence[str] | None,
    more: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> Any:
    """Parse the options of one measurement.

    Args:
        program: the module, as in `python -m <program>`.
        description: one sentence.
        arguments: of the command line; None: this process's.
        more: adds options of its own.

    Returns:
        The parsed options and the `Setting`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    add_options(parser.add_argument)
    if more:
        more(parser)
    options = parser.parse_args(arguments)
    return options, Setting.of(options, ("python", "-m", program), arguments)


class PlainRun:
    """Training of the plain reference, with a `FieldTrainer`'s batches, queries, first weights."""

    def __init__(self, trainer: FieldTrainer) -> None:
        self.trainer = trainer
        self.model: PlainAutoencoder = plain_model(
            trainer.config.model, trainer.model.state_dict()
        ).train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=trainer.config.training.learning_rate
        )
        self.generator = torch.Generator(trainer.device)

    def step(self, epoch: int, step: int) -> Tensor:
        """Take one step of the optimiser; return the losses before it."""
        crystals, position_queries, species_queries = batch_of(
            self.trainer, epoch, step, self.generator
        )
        terms = plain_losses(
            self.model, crystals, position_queries, species_queries, self.trainer.config
        )
        self.optimizer.zero_grad(set_to_none=True)
        terms[0].backward()
        self.optimizer.step()
        return terms.detach()


def trainer_of(run: FieldTrainer | PlainRun) -> FieldTrainer:
    """Return the trainer whose crystals and queries a run takes."""
    return run.trainer if isinstance(run, PlainRun) else run


def batch_of(
    trainer: FieldTrainer, epoch: int, step: int, generator: torch.Generator
) -> tuple[PaddedCrystals, Queries, Queries]:
    """Return crystals, position and species queries of one step, as in `FieldTrainer.step`."""
    order = torch.randperm(
        len(trainer.train_split),
        generator=torch.Generator().manual_seed(derived_seed(trainer.seed, epoch)),
    ).to(trainer.device)
    crystals = trainer.train_split.select(order[trainer.slice_of(step)])
    generator.manual_seed(derived_seed(trainer.seed, epoch, step, 1))
    return (
        crystals,
        trainer.sampler.position_queries(crystals, generator),
        trainer.sampler.species_queries(crystals, generator),
    )


def step_cases(device: torch.device) -> list[str]:
    """Return the cases that this machine can run; compiler and bf16 units add some."""
    compiles, half = can_compile(device), has_bf16(device)
    ours = [
        name
        for name, (precision, compiled) in STEP_CASES.items()
        if (compiles or not compiled) and (half or precision == "fp32")
    ]
    return [PLAIN, *ours]


def run_of(setting: Setting, preset: str, case: str, **changes: Any) -> FieldTrainer | PlainRun:
    """Return the trainer, or the plain reference, of one case.

    Args:
        preset: cpu, paper or official.
        case: of `step_cases`.
        changes: of the configuration, dots as two underscores: `training__batch_size=64`.
    """
    precision, compiled = STEP_CASES.get(case, ("fp32", False))
    values = {"training.precision": precision, "training.compile": compiled} | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    config: Config = PRESETS[preset].with_values(values)
    size = min(config.training.batch_size, len(setting.dataset.splits["train"]))
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, batch_size=size)
    )
    trainer = FieldTrainer(setting.dataset, config, device=setting.device)
    return PlainRun(trainer) if case == PLAIN else trainer


def decode_configs() -> dict[str, ReconstructionConfig]:
    """Return the package's modes of decoding."""
    return {"exact": ReconstructionConfig(mode="exact"), "fast": ReconstructionConfig(mode="fast")}


def spread(n: int, count: int) -> list[int]:
    """Return `count` indices (or n, if less) evenly over 0 ... n - 1."""
    count = min(n, count)
    return [i * n // count for i in range(count)]
