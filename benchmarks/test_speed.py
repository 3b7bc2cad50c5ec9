"""Measurements of speed against the plain reference, which `python -m benchmarks` runs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.plain import plain_decode, plain_model
from benchmarks.setting import PLAIN, Setting, batch_of, decode_configs, run_of, spread, trainer_of
from nesf.crystals import Crystals, pad
from nesf.decode import decode_latent
from nesf.metrics import evaluate
from nesf.training import FieldTrainer

Cache = dict[Any, Any]


def measure(
    benchmark: BenchmarkFixture,
    work: Callable[[], Any],
    group: str,
    case: str,
    unit: str,
    *,
    rounds: int,
    warmup: int = 0,
    **detail: Any,
) -> None:
    """Time `work`, which ends when the device has finished.

    Args:
        warmup: rounds before, untimed.
        detail: kept in the record; `per`: units in one round.
    """
    benchmark.group = group
    benchmark.extra_info.update({"case": case, "unit": unit, "per": 1} | detail)
    benchmark.pedantic(work, rounds=rounds, warmup_rounds=warmup, iterations=1)


def step_sizes(trainer: FieldTrainer) -> dict[str, int]:
    """Return the sizes of the first step, and the steps in an epoch."""
    crystals, *queries = batch_of(trainer, 0, 0, torch.Generator(trainer.device))
    position, species = (q.positions.shape[:-1].numel() for q in queries)
    return {
        "batch": len(crystals),
        "steps": trainer.steps,
        "position_queries": position,
        "species_queries": species,
    }


def stepper(
    cache: Cache, setting: Setting, preset: str, case: str
) -> tuple[Callable[[int], None], FieldTrainer]:
    """Return a function that takes step k of a case, and its trainer, made in the first turn."""
    if (preset, case) not in cache:
        cache[preset, case] = run_of(setting, preset, case)
    run = cache[preset, case]

    def step(k: int) -> None:
        run.step(0, k)
        setting.finish()

    return step, trainer_of(run)


def test_step_of_preset_cpu(
    benchmark: BenchmarkFixture, setting: Setting, cache: Cache, step_case: str, turn: int
) -> None:
    """Time one training step with drawn queries."""
    step, about = stepper(cache, setting, "cpu", step_case)
    steps = cycle(range(max(about.steps - 1, 1)))  # the last batch may be smaller
    rounds, warmup = (3, 1) if step_case == PLAIN else (10, 4 if turn == 0 else 1)
    sizes = step_sizes(about)
    measure(
        benchmark,
        lambda: step(next(steps)),
        "training step, preset cpu",
        step_case,
        "step",
        rounds=rounds,
        warmup=warmup,
        **sizes,
    )


def test_step_of_preset_paper(
    benchmark: BenchmarkFixture, setting: Setting, cache: Cache, step_case: str, turn: int
) -> None:
    """Time one training step with all grid points; batches in turn, for their queries differ."""
    step, about = stepper(cache, setting, "paper", step_case)
    several = min(3, max(about.steps - 1, 1))
    steps = cycle([(turn + k) % several for k in range(several)])
    # The plain one takes many seconds: what is new in its first round is little beside. Ours
    # compiles for the first, and again for the second size.
    rounds, warmup = (1, 0) if step_case == PLAIN else (several, several if turn == 0 else 0)
    sizes = step_sizes(about)
    measure(
        benchmark,
        lambda: step(next(steps)),
        "training step, preset paper",
        step_case,
        "step",
        rounds=rounds,
        warmup=warmup,
        **sizes,
    )


def test_epoch_of_preset_cpu(
    benchmark: BenchmarkFixture, setting: Setting, cache: Cache, step_case: str, turn: int
) -> None:
    """Time all steps of one epoch, without validation."""
    step, about = stepper(cache, setting, "cpu", step_case)

    def work() -> None:
        for k in range(about.steps):
            step(k)

    rounds, warmup = (1, 0) if step_case == PLAIN else (2, int(turn == 0))
    sizes = step_sizes(about) | {"crystals": len(about.train_split)}
    measure(
        benchmark,
        work,
        "epoch, preset cpu",
        step_case,
        "epoch",
        rounds=rounds,
        warmup=warmup,
        **sizes,
    )


@pytest.mark.parametrize("case", [PLAIN, "ours"])
def test_encode(benchmark: BenchmarkFixture, setting: Setting, case: str, turn: int) -> None:
    """Time the encoding of the test split: plain, crystal by crystal; ours, in one batch."""
    crystals, model = setting.dataset.splits["test"], setting.model
    plain = plain_model(model.config.model, model.autoencoder.state_dict()).eval()

    @torch.no_grad()
    def one_by_one() -> None:
        for i in range(len(crystals)):
            plain.encoder(pad(crystals.select([i]), model.vocabulary, setting.device))
        setting.finish()

    def batch() -> None:
        model.encode(crystals)
        setting.finish()

    work = one_by_one if case == PLAIN else batch
    measure(
        benchmark,
        work,
        "encode",
        case,
        "crystal",
        rounds=3,
        warmup=1,
        per=len(crystals),
        crystals=len(crystals),
    )


def test_decode(
    benchmark: BenchmarkFixture, setting: Setting, cache: Cache, decode_case: str, turn: int
) -> None:
    """Time the decoding of latent vectors, the same ones for every case."""
    test, model = setting.dataset.splits["test"], setting.model
    if "z" not in cache:
        chosen = test.select(spread(len(test), 8))
        cache["z"] = model.encode(chosen), chosen.ids
    z, ids = cache["z"]
    plain = plain_model(model.config.model, model.autoencoder.state_dict()).eval()
    config = decode_configs().get(decode_case, decode_configs()["exact"])

    def work() -> None:
        if decode_case == PLAIN:
            for one in z:
                plain_decode(plain, one, model.box, config)
        else:
            decode_latent(model, z, ids, config)
        setting.finish()

    rounds, warmup = (1, 0) if decode_case == PLAIN else (2, int(turn == 0))
    measure(
        benchmark,
        work,
        "decode",
        decode_case,
        "crystal",
        rounds=rounds,
        warmup=warmup,
        per=len(ids),
        crystals=len(ids),
    )


@pytest.mark.parametrize("case", ["errors", "errors and structure matching"])
def test_metrics(benchmark: BenchmarkFixture, setting: Setting, case: str, turn: int) -> None:
    """Time the metrics of Table 1 over the test split, for atoms that are a little off."""
    actual = setting.dataset.splits["test"]
    shifted = actual.positions + np.random.default_rng(0).normal(
        scale=0.05, size=actual.positions.shape
    )
    detected = Crystals(actual.ids, shifted, actual.species, actual.lattice, actual.offsets)
    sizes = {"per": len(actual), "crystals": len(actual)}
    measure(
        benchmark,
        lambda: evaluate(actual, detected, match=case != "errors"),
        "metrics",
        case,
        "crystal",
        rounds=2,
        warmup=1,
        **sizes,
    )


@pytest.mark.parametrize("case", ["write", "read"])
def test_pack(
    benchmark: BenchmarkFixture, setting: Setting, tmp_path: Path, case: str, turn: int
) -> None:
    """Time writing and reading the packed file of the training split."""
    crystals = setting.dataset.splits["train"]
    file = tmp_path / "train.safetensors"
    crystals.save(file)
    work: Callable[[], Any] = (
        (lambda: crystals.save(file)) if case == "write" else (lambda: Crystals.load(file))
    )
    sizes = {"per": len(crystals), "crystals": len(crystals), "bytes": file.stat().st_size}
    measure(benchmark, work, "packed file", case, "crystal", rounds=5, warmup=1, **sizes)


@pytest.mark.parametrize("case", [PLAIN, "ours"])
def test_pad(benchmark: BenchmarkFixture, setting: Setting, case: str, turn: int) -> None:
    """Time padding the training split: plain, one crystal after the other; ours, all at once."""
    crystals, vocabulary = setting.dataset.splits["train"], setting.dataset.vocabulary

    def one_by_one() -> tuple[Tensor, Tensor]:
        number = {z: i for i, z in enumerate(vocabulary)}
        parts = [crystals.atoms(i) for i in range(len(crystals))]
        positions = [
            torch.as_tensor(crystals.positions[part], dtype=torch.float32) for part in parts
        ]
        species = [torch.tensor([number[int(z)] for z in crystals.species[part]]) for part in parts]
        return pad_sequence(positions, batch_first=True).to(setting.device), pad_sequence(
            species, batch_first=True
        ).to(setting.device)

    work: Callable[[], Any] = (
        one_by_one if case == PLAIN else (lambda: pad(crystals, vocabulary, setting.device))
    )
    sizes = {"per": len(crystals), "crystals": len(crystals)}
    measure(benchmark, work, "padding", case, "crystal", rounds=5, warmup=1, **sizes)
