"""Training: Eq. 2, schedules, overfitting, and that an interrupted run ends where an uninterrupted
one does, bit for bit."""

import csv
import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import nesf.hardware
from nesf.config import Config, preset
from nesf.crystals import pad
from nesf.data import load
from nesf.data.dataset import Dataset, bounding_box, save_dataset
from nesf.decode import reconstruct
from nesf.fields import Queries, Sampler, nearest_atom
from nesf.model import Autoencoder
from nesf.saved import TrainedModel, choose_device, read_tensors
from nesf.trainer import TrainingResult, clone
from nesf.training import (
    LOG_COLUMNS,
    TERMS,
    FieldTrainer,
    can_resume,
    for_device,
    learning_rate,
    losses,
    train,
)
from nesf_io.errors import ConfigError, DataError, NesfError

SMALL = {
    "model.latent_size": 16, "model.encoder_position": [32], "model.encoder_species": [16], "model.encoder_mix": [64], "model.encoder_latent": [32],
    "model.decoder_position": [64, 64, 64], "model.decoder_species": [32], "model.decoder_lattice": [32], "training.compile": False,
    "training.precision": "fp32", "training.early_stopping": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Ten crystals to train on, in batches of 3, 3 and 4."""
    starter = load("starter")
    return Dataset("few", {"train": starter.splits["train"].select(range(0, 1000, 100)), "val": starter.splits["val"].select(range(3)),
                           "test": starter.splits["test"].select(range(2))})  # fmt: skip


CONFIG = preset("cpu").with_values(
    SMALL
    | {
        "sampling.n_position": 16,
        "sampling.n_species": 8,
        "training.epochs": 4,
        "training.batch_size": 3,
        "training.validate_every": 1,
    }
    | {"model.dropout": 0.3, "training.average": 0.9}  # everything that has a state
)


def same_end(a: TrainingResult, b: TrainingResult) -> None:
    """Weights kept, last weights, optimiser, moving average and log are equal, bit for bit."""
    assert (a.folder / "model.safetensors").read_bytes() == (
        b.folder / "model.safetensors"
    ).read_bytes()
    states = []
    for result in (a, b):
        (path,) = result.folder.glob("checkpoint-*.safetensors")
        states.append(read_tensors(path))
    assert (
        states[0].keys() == states[1].keys()
        and any(k.startswith("average.") for k in states[0])
        and "adam.0.exp_avg" in states[0]
    )
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert [{k: v for k, v in row.items() if k != "minutes"} for row in a.log] == [
        {k: v for k, v in row.items() if k != "minutes"} for row in b.log
    ]


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The uninterrupted run."""
    return train(dataset, CONFIG, tmp_path_factory.mktemp("whole"), seed=3, progress=False)


def constant_model(n_species: int) -> Autoencoder:
    """An autoencoder that ignores its input: the fields and the lattice are the biases of the last
    layers."""
    model = Autoencoder(
        dataclasses.replace(CONFIG.model, n_species=n_species, dropout=0.0)
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.position_field.last.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
        model.species_field.last.bias[0] = math.log(3)
        model.length_decoder[-1].bias.copy_(torch.tensor([4.0, 5.0, 6.0]))
        model.angle_decoder[-1].bias.fill_(1.0)
    return model


@pytest.mark.parametrize("n", [0, 32], ids=["full", "drawn"])
def test_losses_of_a_constant_model_by_hand(dataset: Dataset, n: int) -> None:
    crystals = dataset.splits["train"]
    batch, n_species = (
        pad(crystals, dataset.vocabulary, dtype=torch.float64),
        len(dataset.vocabulary),
    )
    config = preset("paper").with_values({"sampling.n_position": n, "sampling.n_species": n})
    sampler, seeded = (
        Sampler(config.sampling, bounding_box(crystals)),
        lambda: torch.Generator().manual_seed(5),
    )
    loss, position, species, length, angle = losses(
        constant_model(n_species), batch, sampler, config, seeded()
    ).tolist()
    generator = seeded()
    vectors, _ = nearest_atom(Queries(*sampler.position_queries(batch, generator)), batch)
    _, actual = nearest_atom(Queries(*sampler.species_queries(batch, generator)), batch)
    assert position == pytest.approx(
        float(((vectors - torch.tensor([0.1, 0.2, -0.3])) ** 2).mean()), rel=1e-6
    )
    # logits log 3, 0, 0, ...: probability 3 / (S + 2) for the first species, 1 / (S + 2) else
    right = float((actual == 0).double().mean())
    assert species == pytest.approx(math.log(n_species + 2) - right * math.log(3), rel=1e-6)
    assert length == pytest.approx(((crystals.lengths - [4, 5, 6]) ** 2).mean(), rel=1e-9)
    # radians: (π/2 - 1)² about 0.33
    assert angle == pytest.approx(((crystals.angles - 1.0) ** 2).mean(), rel=1e-9) and angle < 1.5
    # Eq. 2 with the paper's weights
    assert loss == pytest.approx(10 * position + 0.1 * species + length + angle, rel=1e-12)
    other = config.with_values(
        {
            "training.weight_position": 2,
            "training.weight_species": 3,
            "training.weight_length": 5,
            "training.weight_angle": 7,
        }
    )
    assert losses(constant_model(n_species), batch, sampler, other, seeded())[
        0
    ].item() == pytest.approx(2 * position + 3 * species + 5 * length + 7 * angle, rel=1e-12)


def test_learning_rate_is_halved_every_640_epochs() -> None:
    t = preset("paper").training
    rates = {epoch: learning_rate(t, epoch) for epoch in (0, 639.99, 640, 1279, 1280, 3199)}
    assert rates == {0: 1e-3, 639.99: 1e-3, 640: 5e-4, 1279: 5e-4, 1280: 2.5e-4, 3199: 1e-3 / 16}


def test_cosine_schedule_rises_then_falls_to_zero() -> None:
    t = dataclasses.replace(
        preset("cpu").training, schedule="cosine", epochs=102, warmup_epochs=2, learning_rate=1.0
    )
    rates = [learning_rate(t, e / 4) for e in range(4 * 102 + 1)]
    assert 0 < rates[0] < 0.1 and rates[8] == 1.0 == max(rates)  # at the end of the warm-up
    assert all(np.diff(rates[:9]) > 0) and all(np.diff(rates[8:]) < 0)
    assert learning_rate(t, 52) == pytest.approx(0.5) and rates[-1] == pytest.approx(0)
    assert learning_rate(dataclasses.replace(t, epochs=1, warmup_epochs=2), 0.5) > 0


def test_four_crystals_are_learnt_by_heart(tmp_path: Path) -> None:
    train_split, picked = load("starter").splits["train"], [300, 700, 1200, 900]
    four = train_split.select(picked)
    dataset = Dataset("four", {"train": train_split.select(picked * 4), "val": four, "test": four})
    config = preset("cpu").with_values(
        SMALL
        | {
            "sampling.n_position": 64,
            "sampling.n_species": 16,
            "sampling.global_share": 0.5,
            "model.dropout": 0,
        }
        | {
            "training.epochs": 400,
            "training.batch_size": 16,
            "training.learning_rate": 6e-3,
            "training.validate_every": 50,
        }
    )
    result = train(dataset, config, tmp_path, progress=False)
    assert result.finished and result.log[-1]["val_loss"] < 0.03 * result.log[0]["loss"]
    detected = reconstruct(result.model, four).crystals
    assert np.array_equal(detected.n_atoms, four.n_atoms)
    for i in range(4):
        distances = np.linalg.norm(
            four.positions[four.atoms(i)][:, None] - detected.positions[detected.atoms(i)], axis=-1
        )
        assert distances.min(1).max() < 0.3
        assert np.array_equal(
            detected.species[detected.atoms(i)][distances.argmin(1)], four.species[four.atoms(i)]
        )
    np.testing.assert_allclose(detected.lengths, four.lengths, atol=0.4)
    np.testing.assert_allclose(detected.angles, four.angles, atol=0.15)


def test_what_a_training_leaves(whole: TrainingResult, dataset: Dataset) -> None:
    assert whole.finished and len(whole.log) == 4
    with open(whole.folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LOG_COLUMNS and [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    t = CONFIG.training
    for row in rows:
        for prefix in ("", "val_"):
            loss, *terms = (float(row[prefix + name]) for name in TERMS)
            weights = (t.weight_position, t.weight_species, t.weight_length, t.weight_angle)
            assert loss == pytest.approx(
                sum(w * x for w, x in zip(weights, terms, strict=True)), rel=1e-5
            )
    model = TrainedModel.load(whole.folder)
    assert model.vocabulary == dataset.vocabulary and model.box == bounding_box(
        dataset.splits["train"]
    )
    assert (
        model.config.model.n_species == len(dataset.vocabulary)
        and model.dataset["hash"] == dataset.hash()
    )
    assert (
        model.info["seed"] == 3
        and model.info["finished"]
        and model.info["best_val_loss"] == min(row["val_loss"] for row in whole.log)
    )
    assert not model.autoencoder.training
    crystals = dataset.splits["test"]
    assert torch.equal(model.encode(crystals), whole.model.encode(crystals))
    assert (
        json.loads((whole.folder / "model.json").read_text())["versions"]["torch"]
        == torch.__version__
    )


def test_same_seed_same_result_other_seed_other_result(
    whole: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    torch.rand(7), np.random.default_rng().random()  # what ran before does not matter
    same_end(train(dataset, CONFIG, tmp_path / "again", seed=3, progress=False), whole)
    other = train(dataset, CONFIG, tmp_path / "other", seed=4, progress=False)
    assert other.log[0]["loss"] != whole.log[0]["loss"]


def test_training_one_step_at_a_time_is_the_uninterrupted_run(
    whole: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    result = train(dataset, CONFIG, tmp_path, seed=3, max_minutes=0, progress=False)
    stops = [(0, 1)]
    while not result.finished:
        state = json.loads((tmp_path / "checkpoint.json").read_text())
        assert (state["epoch"], state["step"]) == stops[-1] and not TrainedModel.load(
            tmp_path
        ).info["finished"]
        result = train(
            dataset, CONFIG, tmp_path, seed=3, resume=True, max_minutes=0, progress=False
        )
        stops.append(divmod(3 * stops[-1][0] + stops[-1][1] + 1, 3))
    assert len(stops) == 4 * 3  # also within epochs
    same_end(result, whole)
    # once more, with nothing left to do
    same_end(train(dataset, CONFIG, tmp_path, seed=3, resume=True, progress=False), whole)


CHILD = """
import json, sys, time, torch
import nesf.trainer
from nesf.training import FieldTrainer, train
from nesf.config import Config
from nesf.data.dataset import load_packed
from pathlib import Path

data, config, out, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
nesf.trainer.CHECKPOINT_SECONDS = 0.0
step = FieldTrainer.step
def slow(self, *where):
    step(self, *where)
    time.sleep(0.1)
FieldTrainer.step = slow
result = train(load_packed(Path(data)), Config.from_dict(json.loads(config)), Path(out), seed=3, device="cpu", progress=False)
print("finished" if result.finished else "stopped")
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_killed_in_mid_training_and_resumed(
    whole: TrainingResult, dataset: Dataset, tmp_path: Path, sent: signal.Signals
) -> None:
    save_dataset(dataset, tmp_path / "data")
    out, threads = tmp_path / "run", str(torch.get_num_threads())
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path / "data"),
        json.dumps(CONFIG.to_dict()),
        str(out),
        threads,
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if (out / "checkpoint.json").exists() and json.loads((out / "checkpoint.json").read_text())[
            "epoch"
        ] >= 1:
            break
        time.sleep(0.02)
    child.send_signal(sent)
    said, complained = child.communicate(timeout=60)
    state = json.loads((out / "checkpoint.json").read_text())
    assert 1 <= state["epoch"] < 4, complained
    if sent == signal.SIGKILL:
        assert child.returncode == -signal.SIGKILL and not (out / "model.safetensors").exists()
    else:  # a clean end, with a checkpoint and the weights so far
        assert (
            child.returncode == 0 and said.strip() == "stopped" and "Traceback" not in complained
        ), complained
        assert TrainedModel.load(out).info["epochs_trained"] == state["epoch"]
    same_end(train(dataset, CONFIG, out, seed=3, resume=True, progress=False), whole)


def test_signals_are_given_back(dataset: Dataset, tmp_path: Path) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    train(dataset, CONFIG.with_values({"training.epochs": 1}), tmp_path / "run", progress=False)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def stopped(whole: TrainingResult, tmp_path: Path) -> Path:
    """A copy of a run folder with a checkpoint."""
    return Path(shutil.copytree(whole.folder, tmp_path / "run"))


def test_resuming_what_does_not_belong_together(
    stopped: Path, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--seed 3.* 5"):
        train(dataset, CONFIG, stopped, seed=5, resume=True, progress=False)
    fewer = dataclasses.replace(
        dataset, splits=dict(dataset.splits) | {"test": dataset.splits["test"].select([0])}
    )
    with pytest.raises(DataError, match=f"{dataset.hash()}.*{fewer.hash()}"):
        train(fewer, CONFIG, stopped, seed=3, resume=True, progress=False)
    with pytest.raises(ConfigError, match=r"run: .*--resume"):
        train(dataset, CONFIG, stopped, seed=3, progress=False)
    with pytest.raises(DataError, match="empty: .*--resume"):
        train(dataset, CONFIG, tmp_path / "empty", seed=3, resume=True, progress=False)


def test_a_checkpoint_of_this_very_training_can_be_resumed(
    stopped: Path, dataset: Dataset, tmp_path: Path
) -> None:
    assert can_resume(stopped, dataset, CONFIG, seed=3) and can_resume(
        stopped, dataset, None, seed=3
    )
    # set by the machine, and not compared
    machine = CONFIG.with_values({"training.precision": "bf16", "training.compile": True})
    assert can_resume(stopped, dataset, machine, seed=3)
    assert not can_resume(stopped, dataset, CONFIG, seed=4)
    assert not can_resume(stopped, dataset, CONFIG.with_values({"training.epochs": 5}), seed=3)
    assert not can_resume(
        stopped,
        dataclasses.replace(dataset, splits=dict(dataset.splits) | {"val": dataset.splits["test"]}),
        CONFIG,
        seed=3,
    )
    assert not can_resume(tmp_path / "empty", dataset, CONFIG, seed=3)
    (path,) = stopped.glob("checkpoint-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert not can_resume(stopped, dataset, CONFIG, seed=3)
    (stopped / "checkpoint.json").write_text("{}")
    assert not can_resume(stopped, dataset, CONFIG, seed=3)


def test_damaged_checkpoints_are_refused(stopped: Path, dataset: Dataset) -> None:
    (path,) = stopped.glob("checkpoint-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    for damaged in (bytes(content), bytes(content[:-100]), b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"checkpoint-.*safetensors"):
            train(dataset, CONFIG, stopped, seed=3, resume=True, progress=False)
    path.unlink()
    with pytest.raises(DataError, match=r"checkpoint-.*safetensors"):
        train(dataset, CONFIG, stopped, seed=3, resume=True, progress=False)
    (stopped / "checkpoint.json").write_text('{"config": {')
    with pytest.raises(DataError, match=r"checkpoint\.json"):
        train(dataset, CONFIG, stopped, seed=3, resume=True, progress=False)


def test_damaged_models_are_refused(stopped: Path) -> None:
    content = bytearray((stopped / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (stopped / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors.*SHA-256"):
        TrainedModel.load(stopped)
    (stopped / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        TrainedModel.load(stopped)


def test_a_planned_training_is_repeated_by_its_number_of_epochs(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = CONFIG.with_values({"training.average": 0.9})
    least = train(dataset, config, tmp_path / "least", seed=3, minutes=1e-9, progress=False)
    assert least.finished and len(least.log) == least.model.config.training.epochs == 1
    planned = train(dataset, config, tmp_path / "planned", seed=3, minutes=0.01, progress=False)
    epochs = planned.model.config.training.epochs
    assert planned.finished and len(planned.log) == epochs
    repeated = train(
        dataset,
        config.with_values({"training.epochs": epochs}),
        tmp_path / "repeated",
        seed=3,
        progress=False,
    )
    same_end(planned, repeated)


def test_early_stopping_keeps_the_best_epoch(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.with_values(
        {
            "training.schedule": "step",
            "training.epochs": 2,
            "training.average": 0,
            "training.early_stopping": False,
        }
    )
    second = train(dataset, config, tmp_path / "second", seed=3, progress=False)
    validation = iter([3.0, 1.0, 2.0, 1.5])
    monkeypatch.setattr(FieldTrainer, "validate", lambda _: torch.full((5,), next(validation)))
    stopping = config.with_values({"training.epochs": 4, "training.early_stopping": True})
    best = train(dataset, stopping, tmp_path / "best", seed=3, progress=False)
    assert (
        best.model.info["epoch"] == 2
        and best.model.info["best_val_loss"] == 1.0
        and best.model.info["epochs_trained"] == 4
    )
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == (
        tmp_path / "second" / "model.safetensors"
    ).read_bytes()
    assert second.model.info["epoch"] == 2 and second.model.info["best_val_loss"] is None


def test_every_crystal_once_an_epoch_and_no_batch_of_one(dataset: Dataset) -> None:
    for n, size, expected in (
        (10, 3, [3, 3, 4]),
        (9, 3, [3, 3, 3]),
        (8, 3, [3, 3, 2]),
        (5, 4, [5]),
        (3, 2, [3]),
        (10, 128, [10]),
    ):
        part = dataclasses.replace(
            dataset,
            splits=dict(dataset.splits) | {"train": dataset.splits["train"].select(range(n))},
        )
        trainer = FieldTrainer(part, CONFIG.with_values({"training.batch_size": size}))

        def batches(epoch: int, trainer: FieldTrainer = trainer) -> list[list[int]]:
            slices = [trainer.batch(epoch, step) for step in range(trainer.steps)]
            assert trainer.order is not None
            return [trainer.order[1][s].tolist() for s in slices]

        assert [len(b) for b in batches(2)] == expected
        assert sorted(i for b in batches(2) for i in b) == list(range(n))
        assert n < 8 or batches(2) != batches(3)


def test_validation_asks_the_same_queries_every_time_and_changes_nothing(dataset: Dataset) -> None:
    trainer = FieldTrainer(dataset, CONFIG)
    trainer.step(0, 0)
    before = clone(trainer.model.state_dict())
    first = trainer.validate()
    assert torch.equal(first, trainer.validate())
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    trainer.step(0, 1)
    assert not torch.equal(first, trainer.validate())


def test_moving_average_is_what_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    config = CONFIG.with_values(
        {
            "training.epochs": 1,
            "training.batch_size": 10,
            "training.early_stopping": False,
            "training.average": 0.75,
        }
    )
    start = clone(FieldTrainer(dataset, config, seed=3).model.state_dict())
    result = train(dataset, config, tmp_path, seed=3, progress=False)
    (path,) = tmp_path.glob("checkpoint-*.safetensors")
    last, name = read_tensors(path), "position_field.last.weight"
    kept = result.model.autoencoder.state_dict()[name]
    torch.testing.assert_close(kept, 0.75 * start[name] + 0.25 * last[f"model.{name}"])
    assert not torch.equal(last[f"model.{name}"], start[name])


def test_training_needs_a_config_or_a_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nesf\.config"):
        train(dataset, None, tmp_path, progress=False)
    (tmp_path / "checkpoint.json").write_text('{"epoch": 1}')
    with pytest.raises(DataError, match=r"checkpoint\.json"):
        train(dataset, None, tmp_path, resume=True, progress=False)


def test_settings_that_cannot_work(dataset: Dataset, tmp_path: Path) -> None:
    for key in ("training.epochs", "training.batch_size"):
        with pytest.raises(ConfigError, match=key):
            train(dataset, CONFIG.with_values({key: 0}), tmp_path / key, progress=False)
    one = dataclasses.replace(
        dataset, splits=dict(dataset.splits) | {"train": dataset.splits["train"].select([0])}
    )
    with pytest.raises(DataError, match="few: 1 .*at least 2"):
        train(one, CONFIG, tmp_path / "one", progress=False)
    with pytest.raises(ConfigError, match="'tpu'"):
        choose_device("tpu")
    with pytest.raises(NesfError, match=r"epoch 1: .*training\.learning_rate"):
        train(
            dataset,
            CONFIG.with_values({"training.learning_rate": 1e30, "training.warmup_epochs": 0}),
            tmp_path / "wild",
            progress=False,
        )


def test_empty_validation_split(dataset: Dataset, tmp_path: Path) -> None:
    none = dataclasses.replace(
        dataset, splits=dict(dataset.splits) | {"val": dataset.splits["val"].select([])}
    )
    result = train(none, CONFIG.with_values({"training.epochs": 1}), tmp_path, progress=False)
    assert (
        result.finished
        and "val_loss" not in result.log[0]
        and result.model.info["best_val_loss"] is None
    )


def test_paper_s_full_sampling_trains(dataset: Dataset, tmp_path: Path) -> None:
    small = dataclasses.replace(
        dataset, splits=dict(dataset.splits) | {"train": dataset.splits["train"].select(range(4))}
    )
    for name in ("paper", "official"):
        config = preset(name).with_values(
            SMALL
            | {"training.epochs": 1, "model.decoder_position": [16], "model.decoder_species": [16]}
        )
        assert math.isfinite(
            train(small, config, tmp_path / name, progress=False).log[0]["val_loss"]
        )


def test_without_a_compiler_training_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nesf.hardware.shutil, "which", lambda _: None)
    asked = CONFIG.with_values({"training.compile": True, "training.precision": "auto"})
    with pytest.warns(UserWarning, match="compiler"):
        resolved = for_device(asked, torch.device("cpu"))
    assert not resolved.training.compile and resolved.training.precision == "fp32"


def test_progress_bar_shows_losses(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(dataset, CONFIG.with_values({"training.epochs": 1}), tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert "1/1" in shown and "loss=" in shown and "best val=" in shown


def test_run_on_bf16_without_compilation(
    dataset: Dataset, tmp_path: Path, whole: TrainingResult
) -> None:
    result = train(
        dataset,
        CONFIG.with_values({"training.precision": "bf16", "training.epochs": 1}),
        tmp_path,
        seed=3,
        progress=False,
    )
    # bf16 has 8 significant bits, of which means over many queries lose few
    for term in ("loss", "loss_position", "loss_species"):
        assert (
            result.log[0][term] == pytest.approx(whole.log[0][term], rel=2**-8)
            and result.log[0][term] != whole.log[0][term]
        )
    assert (
        Config.from_dict(
            json.loads((tmp_path / "model.json").read_text())["config"]
        ).training.precision
        == "bf16"
    )


def test_resuming_with_other_options_is_refused(
    stopped: Path, dataset: Dataset, whole: TrainingResult
) -> None:
    other = CONFIG.with_values({"training.learning_rate": 0.5})
    with pytest.raises(ConfigError, match=r"training\.learning_rate = .* 0\.5"):
        train(dataset, other, stopped, seed=3, resume=True, progress=False)
    same_end(train(dataset, None, stopped, seed=3, resume=True, progress=False), whole)
