"""The voxel baseline as a method: both trainings on hand-made crystals, resuming, decoding, and its
runs on the command line."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from nesf import methods
from nesf.config import as_json
from nesf.crystals import Crystals
from nesf.data import load
from nesf.data.dataset import Dataset, save_dataset
from nesf.export import write_reconstruction
from nesf.records import read_run
from nesf.saved import TrainedModel
from nesf.trainer import TrainingResult, clone
from nesf_cli.main import main
from nesf_icsg3d.baseline import VoxelBaseline, condition_of
from nesf_icsg3d.config import VAEConfig, VoxelBaselineConfig, preset
from nesf_icsg3d.networks import CondDFCVAE
from nesf_icsg3d.segmentation import find_atoms
from nesf_icsg3d.training import LOG_COLUMNS, NETWORKS, VoxelTrainer, can_resume, train
from nesf_icsg3d.voxels import NO_TURN, network_input, voxelise
from nesf_io.errors import ConfigError, DataError, NesfError
from scripts.validate_results import validate

NA, CL = 11, 17
TINY = {
    "voxels.n": 16, "unet.width": 2, "vae.filters": [4, 4, 4], "vae.latent_size": 8, "unet.epochs": 2, "vae.epochs": 2,
    "unet.rotations": 2, "vae.rotations": 2, "unet.batch_size": 4, "vae.batch_size": 4, "unet.learning_rate": 0.01, "vae.learning_rate": 0.01,
    "unet.batch_norm_momentum": 0.1, "vae.batch_norm_momentum": 0.1,
}  # fmt: skip
SET = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items()]
FEW = {"train": 4, "val": 2, "test": 2}


def cubes(*lengths: float) -> Crystals:
    """CsCl-like crystals of Na and Cl with these edges, Å."""
    atoms = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    ids = [f"cube-{length}" for length in lengths]
    return Crystals.from_arrays(
        ids,
        [atoms * a for a in lengths],
        [[NA, CL]] * len(lengths),
        np.array([np.eye(3) * a for a in lengths]),
    )


def tiny(name: str = "as-published", **changes: object) -> VoxelBaselineConfig:
    return preset(name).with_values(
        TINY | {key.replace("__", "."): value for key, value in changes.items()}
    )


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(result: TrainingResult, network: str, term: str = "loss") -> list[float]:
    return [row[term] for row in result.log if row["network"] == network]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset(
        "cubes",
        {"train": cubes(4.0, 4.4, 4.8, 5.2), "val": cubes(4.2, 5.0), "test": cubes(4.6, 4.0)},
    )


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A short training that nothing interrupts."""
    return train(
        dataset, tiny(), tmp_path_factory.mktemp("whole"), seed=3, device="cpu", progress=False
    )


@pytest.fixture(scope="module")
def learned(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A training long enough to learn two crystals' atoms by heart."""
    two = cubes(3.6, 4.0)
    known = Dataset("two", {"train": two, "val": two, "test": two})
    changes = {
        f"{network}__{key}": value
        for network in NETWORKS
        for key, value in (("batch_size", 2), ("rotations", 0))
    }
    changes |= {
        "unet__epochs": 75,
        "vae__epochs": 40,
        "voxels__label_frac": 1.0,
        "unet__width": 4,
        "vae__weight_perceptual": 0.01,
    }
    config = tiny("repaired", vae__learning_rate=0.02, **changes)
    return train(known, config, tmp_path_factory.mktemp("learned"), device="cpu", progress=False)


# Training


def test_both_losses_fall(learned: TrainingResult) -> None:
    for network, terms in (
        ("unet", ("loss", "loss_species", "loss_binary")),
        ("vae", ("loss", "loss_maps", "loss_perceptual", "loss_angle")),
    ):
        for term in terms:
            values = losses(learned, network, term)
            assert np.mean(values[-5:]) < 0.75 * np.mean(values[:5]), (network, term, values[::10])


def test_the_trained_unet_finds_the_atoms_in_true_maps(learned: TrainingResult) -> None:
    model, crystals = learned.model, cubes(3.6, 4.0)
    maps = voxelise(crystals, model.config.voxels)
    with torch.no_grad():
        species, binary = model.networks.unet(
            network_input(maps.density, maps.lengths, model.config.voxels)
        )
    for i in range(len(crystals)):
        inside = (torch.sigmoid(binary[i]) >= 0.5).numpy()
        centroids, numbers = find_atoms(species[i].argmax(0).numpy(), inside, model.config.decoding)
        true, _ = find_atoms(
            maps.species[i].numpy(), maps.species[i].numpy() != 0, model.config.decoding
        )
        assert numbers.tolist() == [NA, CL]
        assert np.abs(centroids - true).max() < 1  # voxels


def test_what_a_training_leaves(whole: TrainingResult, dataset: Dataset) -> None:
    files = {p.name for p in whole.folder.iterdir()}
    assert {"model.safetensors", "model.json", "log.csv", "checkpoint.json"} <= files and len(
        files
    ) == 5
    assert (whole.folder / "log.csv").read_text().splitlines()[0] == ",".join(LOG_COLUMNS)
    assert [(row["network"], row["epoch"]) for row in whole.log] == [
        ("unet", 1),
        ("unet", 2),
        ("vae", 1),
        ("vae", 2),
    ]
    about = json.loads((whole.folder / "model.json").read_text())
    assert about["method"] == "icsg3d" and about["dataset"] == {
        "name": "cubes",
        "fold": None,
        "hash": dataset.hash(),
    }
    assert (
        about["config"]["preset"] == "as-published"
        and about["config"]["training"]["precision"] == "fp32"
    )
    for network in NETWORKS:  # the weights of the lowest validation loss
        values = losses(whole, network, "val_loss")
        assert about["info"]["best_epochs"][network] == 1 + values.index(min(values))
        assert about["info"]["best_val_losses"][network] == min(values)


def test_training_one_step_at_a_time_is_the_uninterrupted_run(
    whole: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    result = train(dataset, tiny(), tmp_path, seed=3, device="cpu", max_minutes=0, progress=False)
    sessions = 1
    while not result.finished:
        result = train(
            dataset,
            None,
            tmp_path,
            seed=3,
            device="cpu",
            resume=True,
            max_minutes=0,
            progress=False,
        )
        sessions += 1
    assert sessions == 2 * 2 * 3  # 4 crystals and 8 copies in batches of 4
    assert same(result.model.networks.state_dict(), whole.model.networks.state_dict())
    assert [{k: v for k, v in row.items() if k != "minutes"} for row in result.log] == [
        {k: v for k, v in row.items() if k != "minutes"} for row in whole.log
    ]
    other = train(dataset, tiny(), tmp_path / "other", seed=4, device="cpu", progress=False)
    assert losses(other, "vae") != losses(whole, "vae")


def test_a_checkpoint_of_either_network_can_be_resumed(dataset: Dataset, tmp_path: Path) -> None:
    train(dataset, tiny(), tmp_path, seed=3, device="cpu", max_minutes=0, progress=False)
    while json.loads((tmp_path / "checkpoint.json").read_text())["network"] == "unet":
        assert can_resume(tmp_path, dataset, tiny(), seed=3, device="cpu") and not can_resume(
            tmp_path, dataset, tiny(), seed=4, device="cpu"
        )
        train(
            dataset,
            tiny(),
            tmp_path,
            seed=3,
            device="cpu",
            resume=True,
            max_minutes=0,
            progress=False,
        )
    assert can_resume(tmp_path, dataset, None, seed=3, device="cpu")
    assert not can_resume(tmp_path, dataset, tiny(vae__epochs=3), seed=3, device="cpu")


def test_the_unet_is_frozen_while_the_vae_learns(dataset: Dataset) -> None:
    trainer = VoxelTrainer(dataset, tiny())
    trainer.step(0, 0)
    trainer.end_network()
    trainer.begin("vae")
    before = clone(trainer.model.state_dict())
    trainer.step(0, 0)
    changed = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("vae.") for k in changed)  # its running statistics stay too


def test_an_epoch_sees_all_copies_or_each_crystal_once(dataset: Dataset) -> None:
    def epoch(augmentation: str, number: int) -> list[tuple[int, ...]]:
        trainer = VoxelTrainer(dataset, tiny(unet__augmentation=augmentation, unet__batch_size=2))
        batches = [trainer.batch(number, step) for step in range(trainer.steps)]
        return [
            (int(c), *map(int, t))
            for crystals, turns in batches
            for c, t in zip(crystals, turns, strict=True)
        ]

    first, second = epoch("all_copies", 0), epoch("all_copies", 1)
    assert sorted(first) == sorted(second) and first != second  # the same turns, in another order
    assert sorted(c for c, *_ in first) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert sum(turns == [NO_TURN] * 3 for _, *turns in first) == 4
    once = [epoch("one_copy", number) for number in range(4)]
    assert all(sorted(c for c, *_ in seen) == [0, 1, 2, 3] for seen in once)
    assert (
        all(set(seen) <= set(first) for seen in once)
        and len({frozenset(seen) for seen in once}) > 1
    )


def test_class_weights_are_used_by_the_repaired_preset_alone(dataset: Dataset) -> None:
    published, repaired = (
        VoxelTrainer(dataset, tiny(name)) for name in ("as-published", "repaired")
    )
    assert set(published.weights.tolist()) == {95.0}
    assert repaired.weights[0] == 0 and (repaired.weights > 0).nonzero().flatten().tolist() == [
        NA,
        CL,
    ]
    x = torch.rand(1, 4, 16, 16, 16)
    species = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    with torch.no_grad():
        loss, loss_species, loss_binary = published.unet_losses(x, species).tolist()
        # 95 times some nats
        assert loss == pytest.approx(loss_species + loss_binary) and loss_species > 95
        assert repaired.unet_losses(x, species)[1] == 0  # of the background alone


def test_the_condition_is_the_same_for_all() -> None:
    condition = condition_of(3, preset("repaired"))
    assert condition.shape == (3, 10) and condition.tolist() == [[1.0] + [0.0] * 9] * 3


def test_unusable_settings_are_refused(
    whole: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    def attempt(
        config: VoxelBaselineConfig | None, out: Path = tmp_path / "r", **options: object
    ) -> None:
        train(dataset, config, out, device="cpu", progress=False, **options)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"unet\.batch_size = 13.*1 to 12"):
        attempt(tiny(unet__batch_size=13))
    with pytest.raises(ConfigError, match=r"voxels\.n = 16: 32 "):
        attempt(tiny(vae__filters=[4, 4, 4, 4]))
    with pytest.raises(NesfError, match=r"unet .*epoch 1: .*unet\.learning_rate"):
        attempt(tiny(unet__learning_rate=1e30))
    with pytest.raises(ConfigError, match=str(whole.folder)):
        attempt(tiny(), whole.folder)
    with pytest.raises(ConfigError, match=r"vae\.epochs = 2.* 3"):
        attempt(tiny(vae__epochs=3), whole.folder, seed=3, resume=True)
    with pytest.raises(ConfigError, match="--seed 3.* 5"):
        attempt(None, whole.folder, seed=5, resume=True)


# The model


def test_what_is_saved_is_what_is_loaded(
    whole: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    again = VoxelBaseline.load(whole.folder, "cpu")
    assert again.config == whole.model.config and again.info == whole.model.info
    a, b = (model.maps(dataset.splits["test"]) for model in (whole.model, again))
    assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    whole.model.save(tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        VoxelBaseline.load(tmp_path, "cpu")
    with pytest.raises(DataError, match="method icsg3d.* nesf"):
        TrainedModel.load(tmp_path, "cpu")
    (tmp_path / "model.json").write_text('{"method": "icsg3d", "config": {}}')
    with pytest.raises(DataError, match=r"model\.json.*'dataset'"):
        VoxelBaseline.load(tmp_path, "cpu")


def test_samples_of_z_depend_on_the_seed_and_the_id_alone(
    whole: TrainingResult, dataset: Dataset
) -> None:
    model, test = whole.model, dataset.splits["test"]
    mean = dataclasses.replace(model.config.decoding, sample_latent=False)
    first, again, other = (model.maps(test, seed=seed).channels for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert torch.equal(
        model.maps(test, mean, seed=0).channels, model.maps(test, mean, seed=1).channels
    )
    # whatever else is in the batch
    assert torch.allclose(model.maps(test.select([1]), seed=0).channels, first[1:], atol=1e-4)


def test_a_reconstruction_keeps_ids_and_order_and_can_be_written(
    learned: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    crystals = cubes(5.2, 4.0, 4.6)
    result = learned.model.reconstruct(crystals, batch_size=2)
    assert result.crystals.ids == crystals.ids == tuple(report["id"] for report in result.reports)
    assert [len(report["atoms"]) for report in result.reports] == result.crystals.n_atoms.tolist()
    write_reconstruction(tmp_path, result, {})
    assert Crystals.load(tmp_path / "crystals.safetensors").ids == crystals.ids
    never = dataclasses.replace(learned.model.config.decoding, min_voxels=10_000)
    nothing = learned.model.reconstruct(crystals, never)
    assert nothing.nothing_detected == list(crystals.ids) and len(nothing.crystals) == 3


# Runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a dataset `few`."""
    folder = tmp_path_factory.mktemp("data")
    starter = load("starter")
    save_dataset(
        Dataset("few", {name: starter.splits[name].select(range(n)) for name, n in FEW.items()}),
        folder / "few",
    )
    return folder


def test_the_main_job_and_its_stages(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["few", "--method", "icsg3d", "--data", str(data), "--label", "trial-tiny", *SET]
    assert (
        main(["run", *command, "--preset", "as-published", "--decode", "binary_threshold=0.5"]) == 0
    )
    folder = tmp_path / "results/few/icsg3d/trial-tiny/seed-0"
    assert validate(folder) == []
    run = read_run(folder)
    assert (run.run["method"], run.run["preset"], run.run["config"]["unet"]["width"]) == (
        "icsg3d",
        "trial-tiny",
        2,
    )
    assert (
        run.run["reconstruction"]["binary_threshold"] == 0.5
        and run.run["reconstruction"]["sample_latent"] is True
    )
    # kept for the next training
    assert run.metrics["test"]["n_materials"] == 2 and len(list((data / "maps").iterdir())) == 2

    assert (
        main(
            [
                "reconstruct",
                str(folder),
                "--data",
                str(data),
                "--decode",
                "sample_latent=false",
                "--replace",
            ]
        )
        == 0
    )
    assert main(["evaluate", str(folder), "--data", str(data), "--replace"]) == 0
    assert (
        validate(folder) == [] and read_run(folder).run["reconstruction"]["sample_latent"] is False
    )
    load("starter").splits["test"].select([0]).to_structures()[0].to(filename="one.cif")
    assert main(["reconstruct", str(folder), "one.cif", "--out", "out"]) == 0
    assert (tmp_path / "out" / "structures.csv").read_text().splitlines()[1].startswith("one,")

    def refused(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error
        return error

    assert "nms_radius" in refused(
        "reconstruct", str(folder), "--data", str(data), "--decode", "nms_radius=0.4"
    )
    assert "holds a training of icsg3d" in refused(
        "train", "few", "--data", str(data), "--out", str(folder), "--resume"
    )
    assert "model of method icsg3d" in refused(
        "analyse", "examples", str(folder), "--data", str(data)
    )
    assert "--minutes: icsg3d" in refused("train", *command, "--out", "new", "--minutes", "1")
    assert "--stream: icsg3d" in refused("train", *command, "--out", "new", "--stream")
    assert "as-published, repaired" in refused(
        "run", "few", "--method", "icsg3d", "--preset", "cpu", "--data", str(data)
    )
    assert "is not trained" in refused(
        "train", "few", "--method", "icsg3d-oracle", "--out", "new", "--data", str(data)
    )
    before = (folder / "model.safetensors").read_bytes()
    assert (
        main(
            [
                "train",
                *command,
                "--preset",
                "as-published",
                "--out",
                str(folder),
                "--resume-if-possible",
            ]
        )
        == 0
    )  # nothing left to do
    assert (folder / "model.safetensors").read_bytes() == before


def test_oracle_runs_are_recorded_by_preset_or_label(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", "few", "--method", "icsg3d-oracle", "--data", str(data), "--split", "test"]
    assert main([*command, "--preset", "as-published"]) == 0
    assert main([*command, "--set", "voxels.label_frac=0.5", "--label", "label-frac-0.50"]) == 0
    folders = [
        tmp_path / "results/few/icsg3d-oracle" / name / "seed-0"
        for name in ("as-published", "label-frac-0.50")
    ]
    assert [problem for folder in folders for problem in validate(folder)] == []
    published, narrow = (read_run(folder) for folder in folders)
    assert set(published.run["config"]) == {"preset", "voxels", "decoding"}
    assert (
        published.run["config"]["voxels"]["label_frac"],
        narrow.run["config"]["voxels"]["label_frac"],
    ) == (1.0, 0.5)
    assert published.metrics["test"]["lattice_length_error_angstrom"] < 1e-6
    assert main([*command, "--set", "unet.width=4", "--label", "x"]) == 2  # it has no networks


def test_every_method_has_presets_that_exist_and_can_be_read_again() -> None:
    for method in methods.TRAINED.values():
        config = method.config("lcs6")
        assert (
            config.preset == method.default_preset
            and method.config_class.from_dict(config.to_dict()) == config
        )
        assert method.with_decoding(config, as_json(config.decoding)) == config
    assert methods.METHODS["icsg3d"].config("ybco", "repaired-reduced").voxels.label_frac == 0.7
    with pytest.raises(ConfigError, match="magic.*icsg3d-oracle"):
        methods.method("magic")


def test_the_table_of_methods_loads_no_torch() -> None:
    code = "import sys, nesf.methods, nesf.runs, workflow.plan; sys.exit(bool({'torch', 'pandas', 'skimage'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
    )


def test_gradients_of_the_encoder_are_finite_in_bf16() -> None:
    """oneDNN's bf16 gradient of the last, small convolution is now and then not a number."""
    torch.manual_seed(0)
    network = CondDFCVAE(VAEConfig())
    x = torch.rand(2, 4, 32, 32, 32).contiguous(memory_format=torch.channels_last_3d)
    for _ in range(8):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            latent = network.encode(x, torch.zeros(2, 10), torch.zeros(2, 3))
        latent.mean.sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients and all(bool(torch.isfinite(g).all()) for g in gradients)
