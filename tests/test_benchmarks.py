"""The plain reference and the package compute the same: losses, gradients, statistics, atoms. And
what the benchmarks record is valid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import consistent, profile_step, setting
from benchmarks.__main__ import table_of, timings_of
from benchmarks.plain import plain_decode, plain_losses, plain_model, suppress
from benchmarks.records import write_benchmark
from benchmarks.scaling import GridFields, exponent, many_atoms
from benchmarks.setting import PlainRun
from nesf import records as results
from nesf import suppression
from nesf.config import PAPER, PRESETS, Config, ReconstructionConfig
from nesf.crystals import Crystals, PaddedCrystals, concatenate, pad
from nesf.data import load
from nesf.data.dataset import Dataset
from nesf.decode import decode, decode_latent, reconstruct
from nesf.decoding_fields import GroundTruthFields
from nesf.fields import Sampler
from nesf.saved import TrainedModel, model_for
from nesf.training import FieldTrainer, learning_rate, losses
from nesf_io.errors import DataError
from nesf_studies import speed
from nesf_studies.certificates import times_table
from nesf_studies.speed import (
    BENCHMARKS,
    agreement_table,
    memory_table,
    read_benchmark,
    recorded_benchmark,
    speed_table,
)

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "results" / "starter" / "nesf" / "cpu" / "seed-0"
SMALL = {
    "model.latent_size": 12,
    "model.encoder_position": [8, 16],
    "model.encoder_species": [8],
    "model.encoder_mix": [24],
    "model.encoder_latent": [16, 16],
    "model.decoder_position": [24, 16, 16, 16],
    "model.decoder_species": [24, 16],
    "model.decoder_lattice": [16],
}
DRAWN = {"sampling.n_position": 37, "sampling.n_species": 13, "sampling.global_share": 0.5}
FULL = {
    "sampling.global_interval": 2.0,
    "sampling.local_interval": 0.6,
    "sampling.species_interval": 0.25,
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return load("starter")


@pytest.fixture(scope="module")
def crystals(starter: Dataset) -> Crystals:
    """Seven crystals, an odd number, of 1 to 16 atoms; two of them of a single one."""
    train = starter.splits["train"]
    order = np.argsort(train.n_atoms, kind="stable")
    alone = Crystals.from_arrays(
        ["a", "b"],
        [np.array([[0.1, 0.2, 0.3]]), np.array([[2.0, 1.5, 1.0]])],
        [[11], [26]],
        np.stack([np.eye(3) * 3.0] * 2),
    )
    chosen = concatenate([train.select(order[:: len(order) // 4]), alone])
    assert len(chosen) == 7 and chosen.n_atoms.min() == 1 and chosen.n_atoms.max() == 16
    return chosen


def step_of_both(
    config: Config, crystals: Crystals, starter: Dataset, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[str]]:
    """Losses, gradients and buffers after one training step's forward and backward pass, ours and
    plain, and their names."""
    trained = model_for(starter, config)
    ours = trained.autoencoder.to(dtype).train()
    with torch.no_grad():  # batch norms that do something
        for module in ours.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.uniform_(-1.5, 1.5)
                module.bias.normal_()
    plain = plain_model(trained.config.model, ours.state_dict()).train()
    batch: PaddedCrystals = pad(crystals, trained.vocabulary, dtype=dtype)
    sampler = Sampler(config.sampling, trained.box)
    torch.manual_seed(1)  # of the dropout
    terms = losses(ours, batch, sampler, trained.config, torch.Generator().manual_seed(2))
    terms[0].backward()
    generator = torch.Generator().manual_seed(2)
    queries = sampler.position_queries(batch, generator), sampler.species_queries(batch, generator)
    torch.manual_seed(1)
    expected = plain_losses(plain, batch, *queries, trained.config)
    expected[0].backward()
    results = []
    for loss, model in ((terms, ours), (expected, plain)):
        gradients = [p.grad for p in model.parameters()]
        assert all(g is not None for g in gradients)
        results.append((loss.detach(), *gradients, *model.buffers()))
    names = [
        "losses",
        *(f"gradient of {n}" for n, _ in plain.named_parameters()),
        *(n for n, _ in plain.named_buffers()),
    ]
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]
    return results[0], results[1], names


@pytest.mark.parametrize(
    "changes",
    [
        DRAWN,
        DRAWN
        | {
            "sampling.global_region": "box",
            "sampling.half_open": True,
            "model.query_in_last_layer": True,
        },
        FULL,
        FULL | {"sampling.global_region": "box"},
    ],
    ids=["drawn", "drawn, box", "full", "full, box"],
)
def test_losses_gradients_and_statistics_are_those_of_the_plain_reference(
    changes: dict[str, object], crystals: Crystals, starter: Dataset
) -> None:
    config = PAPER.with_values(SMALL | changes)
    assert config.model.dropout > 0
    ours, expected, names = step_of_both(config, crystals, starter, torch.float64)
    for a, b, name in zip(ours, expected, names, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_the_network_of_the_paper_in_single_precision(crystals: Crystals, starter: Dataset) -> None:
    ours, expected, names = step_of_both(PAPER.with_values(DRAWN), crystals, starter, torch.float32)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=1e-6)
    for a, b, name in zip(ours, expected, names, strict=True):
        assert (a - b).abs().max() <= 2e-3 * b.abs().max() + 1e-5, (
            f"{name}: {(a - b).abs().max()} of {b.abs().max()}"
        )


@pytest.mark.parametrize(
    ("converged", "tolerance"),
    [(0.0, 2e-4), (1e-3, 5e-3)],
    ids=["all steps", "arrived particles stay"],
)
def test_decoded_atoms_are_those_of_the_plain_reference(
    converged: float, tolerance: float, starter: Dataset
) -> None:
    model = TrainedModel.load(MODEL)
    plain = plain_model(model.config.model, model.autoencoder.state_dict()).eval()
    config = ReconstructionConfig(grid_interval=0.9, min_particles=3, converged=converged)
    chosen = starter.splits["test"].select([0, 11, 23, 42])
    ours = reconstruct(model, chosen, config).crystals
    z = model.encode(chosen)
    assert ours.n_atoms.min() > 0 and len(set(ours.n_atoms)) > 1
    for i in range(len(chosen)):
        expected = plain_decode(plain, z[i], model.box, config)
        assert len(expected.positions) == ours.n_atoms[i]
        found = torch.as_tensor(ours.positions[ours.atoms(i)], dtype=torch.float32)
        distances = torch.cdist(expected.positions, found)
        nearest = distances.argmin(1)
        assert sorted(nearest.tolist()) == list(range(len(found)))
        assert distances.amin(1).max() < tolerance
        assert [model.vocabulary[s] for s in expected.species.tolist()] == ours.species[
            ours.atoms(i)
        ][nearest].tolist()
        np.testing.assert_allclose(ours.lengths[i], expected.lengths.detach(), rtol=1e-4)


def test_nothing_is_decoded_where_no_particle_arrives(starter: Dataset) -> None:
    model = TrainedModel.load(MODEL)
    plain = plain_model(model.config.model, model.autoencoder.state_dict()).eval()
    config = ReconstructionConfig(grid_interval=2.0, min_particles=10_000)
    z = model.encode(starter.splits["test"].select([0]))
    assert len(plain_decode(plain, z[0], model.box, config).positions) == 0
    assert decode_latent(model, z, ["a"], config).crystals.n_atoms.tolist() == [0]


def test_suppression_is_that_of_the_package() -> None:
    centres = torch.rand(6, 3) * 6
    particles = (centres[:, None] + 0.2 * torch.randn(6, 40, 3)).flatten(0, 1)
    scores = torch.rand(len(particles))
    for config in (ReconstructionConfig(), ReconstructionConfig(nms_radius=0.3, min_particles=4)):
        clusters = suppression.suppress(
            particles, scores, torch.zeros(len(particles), dtype=torch.long), config.nms_radius
        )
        large = torch.bincount(clusters.member_of) >= config.min_particles
        assert 1 < large.sum() < len(large)
        assert torch.equal(suppress(particles, scores, config), particles[clusters.centre[large]])


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_plain_steps_take_the_same_way(preset: str, starter: Dataset) -> None:
    """Some steps of the whole training loop: the benchmarks time the same crystals, queries and
    updates."""
    splits = {name: part.select(range(9)) for name, part in starter.splits.items()}
    small = dataclasses.replace(starter, splits=splits)
    changes = SMALL | {
        "training.batch_size": 4,
        "training.learning_rate": 0.01,
        "training.compile": False,
        "training.precision": "fp32",
        "model.dropout": 0,
    }
    trainer = FieldTrainer(
        small, PRESETS[preset].with_values(changes | (FULL if preset == "paper" else {}))
    )
    trainer.model.double()  # Adam would else magnify rounding
    trainer.train_split = trainer.train_split.to("cpu", torch.float64)
    plain = PlainRun(trainer)
    assert trainer.steps == 2  # the ninth crystal joins the second batch
    for epoch in range(2):
        for step in range(trainer.steps):
            trainer.sums.zero_()
            trainer.step(epoch, step)
            for group in plain.optimizer.param_groups:
                group["lr"] = learning_rate(trainer.config.training, epoch + step / trainer.steps)
            # After the first step the losses tell of the updates too.
            torch.testing.assert_close(trainer.sums, plain.step(epoch, step), rtol=1e-6, atol=1e-8)


RECORDED = sorted(
    p for kind in BENCHMARKS for p in (REPOSITORY / "results" / "benchmarks").glob(f"*/{kind}.json")
)


@pytest.mark.parametrize("path", RECORDED, ids=[f"{p.parent.name}/{p.stem}" for p in RECORDED])
def test_every_recorded_benchmark_is_valid(path: Path) -> None:
    record = read_benchmark(path.parent, path.stem)
    for profile in record.get("profiles", []):
        assert tuple(profile["sections"]) == profile_step.SECTIONS
    for series in record.get("series", []):
        sizes = [p["size"] for p in series["points"]]
        assert sizes == sorted(sizes) and max(sizes) >= 99 * min(sizes)


def test_benchmarks_are_no_recorded_runs() -> None:
    assert not [f for f in results.run_folders(REPOSITORY / "results") if "benchmarks" in f.parts]


def turns(group: str, case: str, *data: list[float], per: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "extra_info": {"case": case, "unit": "crystal", "per": per, "crystals": 4},
            "stats": {"data": d},
        }
        for d in data
    ]


def test_turns_are_put_together_and_compared_with_plain() -> None:
    measured = turns("decode", "plain", [8.0], [12.0], per=4) + turns("pack", "write", [0.5])
    measured += turns("decode", "exact", [1.0, 1.0, 4.0], [0.5, 2.0], per=2)
    timings = {(t["group"], t["case"]): t for t in timings_of(measured)}
    plain, exact, write = (
        timings["decode", "plain"],
        timings["decode", "exact"],
        timings["pack", "write"],
    )
    assert (plain["median"], plain["minimum"], plain["rounds"], plain["turns"], plain["ratio"]) == (
        2.5,
        2.0,
        2,
        2,
        1.0,
    )
    assert (exact["median"], exact["minimum"], exact["rounds"]) == (0.5, 0.25, 5)
    assert (exact["ratio"], exact["ratio_of_minima"]) == (5.0, 8.0)
    assert write["ratio"] is None and write["detail"] == {"crystals": 4}
    table = speed_table(list(timings.values()))
    assert table.loc[("decode", "exact"), "times faster than plain"] == "5.0"
    assert table.loc[("pack", "write"), "times faster than plain"] == "–"
    assert "5.0" in table_of(list(timings.values()))


def test_what_is_written_can_be_read_and_broken_content_is_never_written(
    tmp_path: Path, starter: Dataset
) -> None:
    about = {"command": "python -m benchmarks", "started": datetime.now(UTC)}
    timings = timings_of(turns("decode", "plain", [1.0]))
    written = write_benchmark(tmp_path, "speed", starter, timings=timings, **about)
    assert read_benchmark(tmp_path, "speed") == written
    assert written["dataset"]["hash"] == starter.hash() and written["threads"] >= 1
    with pytest.raises(DataError, match="profile.json.*nothing was written"):
        write_benchmark(tmp_path, "profile", starter, timings=timings, **about)
    with pytest.raises(DataError, match="nothing was written"):
        write_benchmark(
            tmp_path / "b", "speed", starter, timings=[timings[0] | {"median": -1.0}], **about
        )
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["speed.json"]
    with pytest.raises(DataError, match="no such recorded benchmark; there are .*make bench"):
        recorded_benchmark("nowhere")


def test_consistent_decoding_is_timed_beside_the_five_steps(tmp_path: Path) -> None:
    consistent.main(["--dataset", "starter", "--limit", "2", "--out", str(tmp_path)])
    record = read_benchmark(tmp_path, "consistent")
    rows = {row["case"]: row for row in record["decoding"]}
    assert {row["crystals"] for row in rows.values()} == {2}
    assert rows["five steps, exact"]["certified"] == 0
    assert rows["consistent"]["certified"] >= rows["consistent, without the search"]["certified"]
    assert times_table(record).loc["five steps, fast", "certified"] == "–"


def test_tables_of_memory_and_agreement() -> None:
    memory = memory_table(
        [
            {
                "case": "large",
                "particles": 1_000_000,
                "atoms": 1000,
                "seconds": 12.0,
                "peak_memory_bytes": 1_500_000_000,
            }
        ]
    )
    assert (
        memory.loc["large", "peak memory"] == "1.50 GB"
        and memory.loc["large", "particles"] == "1,000,000"
    )
    plain = {
        "split": "val",
        "case": "64 moves for every particle",
        "crystals": 200,
        "seconds_per_crystal": 1.0,
    }
    fast = plain | {
        "case": "fast",
        "disagree": 3,
        "largest_distance": 0.01,
        "tolerance": 0.05,
        "ids": ["a", "b", "c"],
    }
    table = agreement_table([plain, fast])
    assert (
        list(table.index) == [("val", "fast")] and table.loc[("val", "fast"), "disagree, %"] == 1.5
    )


def test_a_record_is_never_overwritten_by_default(
    tmp_path: Path, starter: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "RECORDS", tmp_path)
    names = []
    for _ in range(3):
        folder = setting.free_folder(
            torch.device("cpu"), dataclasses.replace(starter, name="ybco", fold=3)
        )
        folder.mkdir()
        names.append(folder.name)
    assert names == ["cpu-ybco-fold-3", "cpu-ybco-fold-3-2", "cpu-ybco-fold-3-3"]


def test_exponents() -> None:
    assert exponent([1, 10, 100], [0.2, 2, 20]) == pytest.approx(1)
    assert exponent([1, 2, 4], [1, 4, 16]) == pytest.approx(2)


def test_grid_fields_are_the_true_ones() -> None:
    crystals = many_atoms(27)
    queries, index = torch.rand(500, 3) * 20, torch.zeros(500, dtype=torch.long)
    true, found = GroundTruthFields(pad(crystals, (1, 2))), GridFields(3)
    torch.testing.assert_close(
        found.position(queries, index), true.position(queries, index), rtol=0, atol=1e-4
    )
    assert torch.equal(found.species(queries, index), true.species(queries, index))
    decoded = decode(
        found,
        ["many"],
        ((0.0,) * 3, (20.0,) * 3),
        (1, 2),
        ReconstructionConfig(grid_interval=2.0, min_particles=2),
    ).crystals
    assert len(decoded.positions) == 27


def test_stopwatch_counts_a_section_inside_of_another_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(profile_step.time, "perf_counter", lambda: clock[0])

    def spend(seconds: float, then: Callable[[], None] = lambda: None) -> None:
        clock[0] += seconds
        then()

    watch = profile_step.Stopwatch(lambda: None)
    inner = watch.timed("encoder", lambda: spend(2.0))
    watch.timed("other", lambda: spend(5.0, inner))()
    watch.timed("backward", lambda: spend(1.0))()
    assert {k: v for k, v in watch.seconds.items() if v} == {
        "encoder": 2.0,
        "other": 5.0,
        "backward": 1.0,
    }


def test_figures_say_the_exponent_and_stack_the_sections() -> None:
    points = [{"size": s, "seconds": s / 10, "rounds": 1} for s in (1, 10, 100)]
    series = [
        {"quantity": q, "case": "c", "points": points, "exponent": 1.0, "exponent_upper_half": 1.02}
        for q in ("queries", "atoms")
    ]
    figure = speed.scaling(series)
    assert [ax.get_xlabel() for ax in figure.axes] == ["queries", "atoms"]
    measured, linear = figure.axes[0].lines
    assert (
        list(measured.get_ydata()) == [0.1, 1, 10]
        and list(linear.get_xdata()) == [1, 100]
        and list(linear.get_ydata()) == [0.1, 10]
    )
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert "n^{1.00}" in labels[0] and "n^{1.02}" in labels[0] and labels[-1] == "linear"
    sections = {"encoder": 1.0, "backward": 2.0, "other": 0.5}
    profiles = [
        {"case": c, "what": "w", "steps": 1, "seconds": 3.5, "sections": sections}
        for c in ("plain", "fp32")
    ]
    seconds, percent = speed.step_profile(profiles).axes
    assert [b.get_width() for b in seconds.patches] == [1, 1, 2, 2, 0.5, 0.5]  # type: ignore[attr-defined]
    assert [b.get_x() for b in seconds.patches] == [0, 0, 1, 1, 3, 3]  # type: ignore[attr-defined]
    assert [t.get_text() for t in seconds.texts] == [" 3.5 s", " 3.5 s"]
    assert max(b.get_x() + b.get_width() for b in percent.patches) == pytest.approx(100)  # type: ignore[attr-defined]


def test_times_are_written_in_the_unit_that_fits() -> None:
    timing = {"group": "g", "unit": "step", "rounds": 3, "ratio": None, "ratio_of_minima": 2.0}
    table = speed_table(
        [
            timing | {"case": str(seconds), "median": seconds}
            for seconds in (12.0, 0.1, 0.02, 0.00005)
        ]
    )
    assert table["median"].tolist() == ["12 s", "0.1 s", "20 ms", "50 µs"]
    assert table["by the fastest rounds"].tolist() == ["2.0"] * 4
    rounds = [timing | {"case": "a", "median": 1.0, "ratio": 12.18, "ratio_of_minima": 3.697}]
    assert speed_table(rounds).iloc[0, -2:].tolist() == ["12", "3.7"]  # two digits, no more


def test_streaming_lists_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recorded,) = (speed.RESULTS / "benchmarks").rglob("streaming.json")
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    assert speed.recorded_streaming().empty
    record = json.loads(recorded.read_text())
    row = record["training"][0]
    record["training"] = [row | {"crystals": 10}, row | {"crystals": 20, "note": "cold"}]
    (tmp_path / "benchmarks" / "a").mkdir(parents=True)
    (tmp_path / "benchmarks" / "a" / "streaming.json").write_text(json.dumps(record))
    rows = speed.recorded_streaming().iloc[:2]
    assert rows.index.get_level_values("crystals").tolist() == ["10", "20"]
    assert set(rows["peak of own memory, GB"]) == {f"{row['peak_anonymous_bytes'] / 1e9:.2f}"}
    assert set(rows["opening, with the trainer, s"]) == {"–"}


def test_both_clocks_of_a_step_stand_beside_each_other() -> None:
    record = speed.recorded_benchmark("cpu-lcs6")
    table = speed.clocks_table(record)
    timings = {(t["group"], t["case"]): t for t in record["speed"]["timings"]}
    profiled = {(p["what"], p["case"]): p["seconds"] for p in record["profile"]["profiles"]}
    assert len(table) == len(profiled)
    for (preset, case), row in table.iterrows():
        timing = timings[f"training step, {preset}", case]
        expected = (timing["median"], timing["minimum"], profiled[preset, case])
        assert row.tolist() == [f"{v:.2g}" for v in expected]
    hours = speed.schedule_hours(record)["3200 epochs, hours"]
    low, high = map(float, hours["plain"].split(" to "))
    steps = timings["training step, preset paper", "plain"]["detail"]["steps"]
    assert low < 3200 * steps * 9 / 3600 < high  # the clocks differ: 8 s and 13 s a step


def test_what_is_said_of_disagreement_is_what_is_recorded() -> None:
    rows = speed.recorded_benchmark("cpu-lcs6")["agreement"]["agreement"]
    n, of = speed.disagreement(rows, "exact")
    assert n == sum(r["disagree"] for r in rows if r["case"] == "exact") and 0 < n < 0.01 * of
    n, of = speed.disagreement(rows, "fast")
    assert 0.005 < n / of < 0.015  # the page on sensitivity: about one of a hundred
