"""The network of Supplementary Note 5 and the configurations of Supplementary Note 7; the fast
field against the plain one."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from torch import Tensor, nn

from nesf.config import (
    PRESETS,
    Config,
    ModelConfig,
    ReconstructionConfig,
    SamplingConfig,
    TrainingConfig,
    for_dataset,
    from_values,
    preset,
    with_fields,
)
from nesf.crystals import PaddedCrystals, pad, vocabulary_of
from nesf.data import load
from nesf.data.dataset import Dataset
from nesf.fields import Sampler
from nesf.forms import Range
from nesf.methods import NESF, method
from nesf.model import Autoencoder, Field
from nesf.training import can_resume, losses, train
from nesf_io.errors import ConfigError

BOX = ((0.0, 0.0, 0.0), (6.0, 6.0, 6.0))


@pytest.fixture(scope="module")
def batch() -> PaddedCrystals:
    """Eight real crystals with different numbers of atoms, in float64."""
    train = load("starter").splits["train"]
    crystals = train.select(range(0, len(train), len(train) // 8)[:8])
    assert len(set(crystals.n_atoms)) > 2
    return pad(crystals, vocabulary_of(crystals), dtype=torch.float64)


def n_parameters(**changes: object) -> int:
    return Autoencoder(ModelConfig(**changes)).n_parameters  # type: ignore[arg-type]


def test_parameter_count_of_the_paper() -> None:
    assert n_parameters() == 765_465  # «0.76 million» for LCS6Å's 80 species
    # The supplement's last lines read literally, [131] -> [3] and [131] -> [A], give the last
    # layers three more inputs.
    assert n_parameters(query_in_last_layer=True) == 765_465 + 3 * (3 + 80)


def test_layers_are_those_of_the_supplement() -> None:
    model = Autoencoder(ModelConfig(n_species=80))

    def shapes(module: nn.Module) -> list[tuple[int, int]]:
        return [
            (m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)
        ]

    assert shapes(model.encoder.position) == [(3, 64), (64, 128), (128, 128)]
    assert shapes(model.encoder.species) == [(80, 128), (128, 128)]
    assert shapes(model.encoder.mix) == [(256, 512)]
    assert shapes(model.encoder.latent) == [(518, 256), (256, 256), (256, 192)]
    assert shapes(model.length_decoder) == shapes(model.angle_decoder) == [(192, 128), (128, 3)]
    # nine layers (Section 4.2)
    assert shapes(model.position_field) == [(195, 256), (259, 128), *[(131, 128)] * 6, (128, 3)]
    assert shapes(model.species_field) == [(195, 256), (259, 128), (128, 80)]  # three layers
    assert {m.p for m in model.encoder.modules() if isinstance(m, nn.Dropout)} == {0.3}
    assert not any(
        isinstance(m, nn.Dropout)
        for part in (model.encoder.position, model.encoder.species)
        for m in part
    )
    assert not any(
        isinstance(m, nn.BatchNorm1d)
        for part in (model.length_decoder, model.angle_decoder)
        for m in part
    )


SEARCH = [  # one of every step of Supplementary Note 7
    {
        "training.weight_position": 0.1,
        "training.weight_species": 10.0,
        "training.weight_length": 1.0,
        "training.weight_angle": 1.0,
    },
    {"model.latent_size": 64},
    {"model.latent_size": 512},
    {"training.learning_rate": 1e-4},
    {"model.decoder_position": [256, *[128] * 8], "model.decoder_species": [256, *[128] * 8]},
    {"model.encoder_position": [64, 128], "model.encoder_species": [128]},
    {"model.encoder_mix": [256, 256, 512], "model.encoder_latent": [512, 512, 256]},
    {"model.encoder_mix": [256], "model.encoder_latent": [512]},
    {"training.batch_size": 2},
    {"training.batch_size": 256, "model.latent_size": 384, "training.learning_rate": 0.01},
]


@pytest.mark.parametrize("assignments", SEARCH, ids=lambda a: next(iter(a)))
def test_every_axis_of_the_search_is_a_configuration(
    assignments: dict[str, object], batch: PaddedCrystals
) -> None:
    n_species = int(batch.species.max()) + 1
    drawn = {"model.n_species": n_species, "sampling.n_position": 4, "sampling.n_species": 4}
    config = preset("paper").with_values(assignments | drawn)
    for key, value in assignments.items():
        section, name = key.split(".")
        kept = getattr(getattr(config, section), name)
        assert (list(kept) if isinstance(value, list) else kept) == value
    model = Autoencoder(config.model).double()
    z = model.encode(batch)
    assert z.shape == (len(batch), config.model.latent_size)
    terms = losses(
        model, batch, Sampler(config.sampling, BOX), config, torch.Generator().manual_seed(0)
    )
    terms[0].backward()
    assert torch.isfinite(terms).all() and all(p.grad is not None for p in model.parameters())


def test_presets_are_the_paper_s_and_the_official_code_s() -> None:
    paper, official = preset("paper"), preset("official")
    t = paper.training
    # Section 4.3
    assert (t.weight_position, t.weight_species, t.weight_length, t.weight_angle) == (10, 0.1, 1, 1)
    assert (t.epochs, t.batch_size, t.learning_rate, t.schedule, t.step_epochs, t.step_factor) == (
        3200,
        128,
        1e-3,
        "step",
        640,
        0.5,
    )
    assert (
        t.early_stopping
        and paper.model == ModelConfig()
        and not t.compile
        and t.precision == "fp32"
    )
    s = paper.sampling
    assert (s.global_sigma, s.local_sigma, s.species_sigma) == (
        0.5,
        0.5,
        0.5,
    ) and s.global_region == "cell"
    s = official.sampling
    assert (
        (s.global_sigma, s.local_sigma, s.species_sigma) == (0.5, 0.15, 0.05)
        and s.global_region == "box"
        and s.half_open
    )
    assert s.species_range == 0.6 and official.training.batch_size == 64
    assert not any(c.sampling.periodic for c in PRESETS.values())  # as published
    assert paper.decoding == preset("cpu").decoding == ReconstructionConfig()
    assert (
        official.decoding.converged,
        official.decoding.atom_position,
        official.decoding.iterations,
    ) == (0.0, "cluster_mean", 64)
    assert all(name == c.preset for name, c in PRESETS.items())


@pytest.mark.parametrize("name", PRESETS)
def test_configurations_survive_the_way_through_json(name: str) -> None:
    config = preset(name).with_values(
        {"model.encoder_mix": [64, 32], "sampling.global_share": 0.25}
    )
    assert Config.from_dict(config.to_dict()) == config
    assert isinstance(config.model.encoder_mix, tuple)
    assert preset(name).with_values({}) == preset(name)


def test_values_are_read_from_text() -> None:
    config = preset("paper").with_values(
        {
            "training.schedule": "cosine",
            "training.epochs": "12",
            "model.decoder_species": "[64, 32]",
            "training.compile": "true",
            "model.dropout": 0,
        }
    )
    assert (config.training.schedule, config.training.epochs, config.training.compile) == (
        "cosine",
        12,
        True,
    )
    assert config.model.decoder_species == (64, 32) and isinstance(config.model.dropout, float)
    assert preset("paper").training.schedule == "step"  # the preset itself stays


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.lerning_rate", 1e-3), ("modle.latent_size", 64), ("latent_size", 64), ("preset", "paper"), ("training.epochs", 1.5),
        ("training.epochs", -1), ("training.epochs", True), ("training.learning_rate", "fast"), ("training.learning_rate", -1e-3),
        ("training.learning_rate", float("nan")), ("training.schedule", "linear"), ("sampling.global_region", "sphere"), ("model.encoder_mix", 512),
        ("model.encoder_mix", []), ("model.encoder_mix", [512, 0]), ("model.encoder_mix", [1.5]), ("sampling.local_interval", 0), ("training.compile", 1),
        ("model.dropout", None),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration_name_the_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        preset("paper").with_values({key: value})


def test_mistakes_elsewhere_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"model\.depth"):
        Config.from_dict({"model": {"depth": 3}})
    with pytest.raises(ConfigError, match="optimiser"):
        Config.from_dict({"optimiser": {}})
    with pytest.raises(ConfigError, match="'fastest'.*paper"):
        preset("fastest")
    with pytest.raises(ConfigError, match="nms_radios"):
        with_fields(ReconstructionConfig(), {"nms_radios": 0.4})
    with pytest.raises(ConfigError, match="grid_interval"):
        with_fields(ReconstructionConfig(), {"grid_interval": "0"})
    assert (
        with_fields(ReconstructionConfig(), {"nms_radius": "0.4", "iterations": 8}).nms_radius
        == 0.4
    )


@pytest.mark.parametrize(
    "cls", [ModelConfig, SamplingConfig, TrainingConfig, ReconstructionConfig, Config]
)
def test_every_section_is_frozen(cls: type) -> None:
    section = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, dataclasses.fields(section)[0].name, 1)


def test_a_config_recorded_without_decoding_has_that_of_its_preset() -> None:
    for name, expected in (
        ("paper", "paper"),
        ("official", "official"),
        ("cpu", "cpu"),
        ("trial-of-old", "paper"),
    ):
        recorded = dataclasses.replace(preset(expected), preset=name).to_dict()
        del recorded["decoding"]
        assert Config.from_dict(recorded).decoding == preset(expected).decoding
        asked = for_dataset(preset(expected), "lcs6")
        assert NESF.same(recorded | {"preset": asked.preset}, asked)
    changed = preset("official").with_values({"decoding.mode": "fast"})
    assert Config.from_dict(changed.to_dict()).decoding == dataclasses.replace(
        preset("official").decoding, mode="fast"
    )


def test_the_decoding_of_a_run_is_its_config_s_with_changes() -> None:
    official = preset("official")
    assert NESF.with_decoding(official, {}) == official
    assert NESF.with_decoding(official, {"nms_radius": "0.4"}).decoding == dataclasses.replace(
        official.decoding, nms_radius=0.4
    )
    oracle = method("oracle")
    recorded = oracle.config("lcs6").to_dict()
    del recorded["reconstruction"]["certified"]  # of a setting that is newer
    assert oracle.same(recorded, oracle.config("lcs6"))
    recorded["reconstruction"]["iterations"] = 3
    assert not oracle.same(recorded, oracle.config("lcs6"))
    # it changes no training
    assert NESF.same(official.with_values({"decoding.nms_radius": 0.4}).to_dict(), official)
    assert not NESF.same(official.with_values({"training.epochs": 4}).to_dict(), official)


def test_a_checkpoint_without_decoding_resumes(tmp_path: Path) -> None:
    starter = load("starter")
    dataset = Dataset(
        "few", {name: starter.splits[name].select(range(4)) for name in ("train", "val", "test")}
    )
    config = preset("official").with_values(
        {
            "training.epochs": 1,
            "training.batch_size": 4,
            "sampling.n_position": 4,
            "sampling.n_species": 4,
            "model.decoder_position": [8],
        }
        | {
            "model.decoder_species": [8],
            "model.encoder_mix": [8],
            "model.encoder_latent": [8],
            "model.latent_size": 4,
        }
    )
    train(dataset, config, tmp_path, device="cpu", progress=False)
    path = tmp_path / "checkpoint.json"
    checkpoint = json.loads(path.read_text())
    assert checkpoint["config"].pop("decoding")["atom_position"] == "cluster_mean"
    path.write_text(json.dumps(checkpoint))
    assert can_resume(tmp_path, dataset, config, device="cpu")
    assert not can_resume(
        tmp_path, dataset, config.with_values({"training.learning_rate": 0.1}), device="cpu"
    )
    # concerns no training, so it is taken from what is asked for
    fast = config.with_values({"decoding.mode": "fast"})
    assert (
        train(
            dataset, fast, tmp_path, device="cpu", progress=False, resume=True
        ).model.config.decoding
        == fast.decoding
    )


@dataclasses.dataclass(frozen=True)
class Checked:
    """A dataclass with every type that `from_values` knows."""

    text: str = ""
    flag: bool = False
    count: int | None = None
    shift: Annotated[float, Range(-10, 10)] = 0.0
    rate: float | None = 0.5
    widths: tuple[int, ...] = (1,)
    names: tuple[str, ...] | None = None
    nested: ReconstructionConfig = dataclasses.field(default_factory=ReconstructionConfig)


def test_plain_values_become_a_dataclass() -> None:
    values = {
        "text": "a",
        "flag": True,
        "count": 3,
        "shift": -1,
        "rate": None,
        "widths": [2, 3],
        "names": ["AB", "C"],
        "nested": {"iterations": 5},
    }
    made = from_values(Checked, values)
    assert made == Checked(
        "a", True, 3, -1.0, None, (2, 3), ("AB", "C"), ReconstructionConfig(iterations=5)
    )
    assert isinstance(made.shift, float) and from_values(Checked, {}) == Checked()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text", 1), ("text", None), ("flag", 1), ("count", True), ("count", 1.0), ("count", -1), ("shift", float("inf")), ("shift", "1"), ("rate", -0.5),
        ("rate", True), ("widths", [True]), ("widths", "12"), ("names", "AB"), ("names", [1]), ("names", []), ("nested", 5), ("nested", {"iterations": "x"}),
    ],
)  # fmt: skip
def test_plain_values_of_another_type_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^rules\.{key}"):
        from_values(Checked, {key: value}, "rules.")


class PlainField(nn.Module):
    """The field as Supplementary Note 5 reads: concatenate the query to every layer's input, then
    FC, ReLU, batch normalisation."""

    def __init__(
        self,
        latent_size: int,
        widths: Sequence[int],
        n_out: int,
        query_in_last_layer: bool,
        momentum: float,
        condition: str = "first",
    ) -> None:
        super().__init__()
        self.query_in_last_layer = query_in_last_layer
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        n_in = latent_size
        for width in widths:
            self.layers.append(nn.Linear(n_in + 3, width))
            self.norms.append(nn.BatchNorm1d(width, momentum=momentum))
            n_in = width
        self.last = nn.Linear(n_in + 3 * query_in_last_layer, n_out)
        self.conditions = nn.ModuleList(
            nn.Linear(latent_size, width, bias=False)
            for width in (widths[1:] if condition == "every" else ())
        )

    def forward(self, p: Tensor, z: Tensor, crystal: Tensor) -> Tensor:
        x = z[crystal]
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = layer(torch.cat([x, p], dim=-1))
            if i and self.conditions:
                x = x + self.conditions[i - 1](z)[crystal]
            x = norm(torch.relu(x))
        return self.last(torch.cat([x, p], dim=-1) if self.query_in_last_layer else x)


CONFIG = ModelConfig(latent_size=12, batch_norm_momentum=0.2)


def both_fields(
    query_in_last_layer: bool = False,
    widths: Sequence[int] = (24, 16, 16),
    condition: Literal["first", "every"] = "first",
) -> tuple[Field, PlainField]:
    """The fast and the plain field with the same weights, scales, shifts and running statistics
    (float64)."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        CONFIG, query_in_last_layer=query_in_last_layer, condition=condition
    )
    fast = Field(config, widths, 3).double()
    plain = PlainField(
        CONFIG.latent_size, widths, 3, query_in_last_layer, CONFIG.batch_norm_momentum, condition
    ).double()
    with torch.no_grad():
        for norm in fast.norms:
            assert (
                isinstance(norm, nn.BatchNorm1d)
                and norm.running_mean is not None
                and norm.running_var is not None
            )
            norm.weight.uniform_(-1.5, 1.5)
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    plain.load_state_dict(fast.state_dict())
    return fast, plain


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("query_in_last_layer", [False, True])
@pytest.mark.parametrize("flat", [False, True], ids=["[B,Q,3]", "[M,3]"])
@pytest.mark.parametrize("condition", ["first", "every"])
def test_fast_field_is_the_plain_one(
    training: bool, query_in_last_layer: bool, flat: bool, condition: Literal["first", "every"]
) -> None:
    fast, plain = both_fields(query_in_last_layer, condition=condition)
    fast.train(training)
    plain.train(training)
    z_fast = torch.randn(5, CONFIG.latent_size, dtype=torch.float64, requires_grad=True)
    z_plain = z_fast.detach().clone().requires_grad_()
    if flat:
        crystal = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 4, 4, 4, 3])
        p_fast = (6 * torch.rand(len(crystal), 3, dtype=torch.float64)).requires_grad_()
    else:
        crystal = torch.arange(5).repeat_interleave(7)
        p_fast = (6 * torch.rand(5, 7, 3, dtype=torch.float64)).requires_grad_()
    p_plain = p_fast.detach().clone().requires_grad_()
    ours = fast(p_fast, z_fast, crystal if flat else None)
    expected = plain(p_plain.reshape(-1, 3), z_plain, crystal)
    assert ours.shape == p_fast.shape
    torch.testing.assert_close(ours.reshape(-1, 3), expected, rtol=1e-10, atol=1e-10)
    ours.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(z_fast.grad, z_plain.grad, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(p_fast.grad, p_plain.grad, rtol=1e-8, atol=1e-8)
    for (name, a), (other, b) in zip(
        fast.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(
            a.grad, b.grad, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}"
        )
    # running statistics moved alike, or stayed
    for (name, a), (_, b) in zip(fast.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


def test_bf16_field_is_close() -> None:
    fast, _ = both_fields()
    fast.float().train()
    z, p = torch.randn(4, CONFIG.latent_size), 6 * torch.rand(4, 200, 3)
    exact, coarse = fast(p, z), fast(p, z, None, "bf16")
    assert exact.dtype == coarse.dtype == torch.float32
    assert 0 < (coarse - exact).std() / exact.std() < 0.03


def test_bf16_does_not_round_coordinates() -> None:
    """A field that returns p - 11 Å: one bf16 number is 0.06 Å coarse there, the pair of high and
    low part is not."""
    field, _ = both_fields(query_in_last_layer=True)
    field.float().train()
    with torch.no_grad():
        field.last.weight.zero_()
        field.last.weight[:, -3:] = torch.eye(3)
        field.last.bias.fill_(-11.0)
    p = 11 + 0.2 * torch.rand(1, 500, 3)
    assert (p.bfloat16().float() - p).abs().max() > 0.02
    assert (
        field(p, torch.zeros(1, CONFIG.latent_size), None, "bf16") - (p - 11)
    ).abs().max() < 0.002


def test_positional_encoding_is_sines_and_cosines_of_doubled_frequencies() -> None:
    field = Field(dataclasses.replace(CONFIG, n_frequencies=10), (8,), 3)
    p = torch.tensor([[0.3, -1.0, 2.0]])
    encoded = field.encode_query(p)
    assert encoded.shape == (1, 3 + 60)
    assert torch.equal(encoded[0, :3], p[0])
    assert encoded[0, 3 + 2] == torch.sin(torch.tensor(4 * 0.3)) and encoded[
        0, 3 + 30 + 11
    ] == torch.cos(torch.tensor(-2.0))
    assert field(p, torch.randn(1, CONFIG.latent_size), torch.zeros(1, dtype=torch.long)).shape == (
        1,
        3,
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_encoder_sees_neither_the_order_of_atoms_nor_padding(
    training: bool, batch: PaddedCrystals
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(n_species=int(batch.species.max()) + 1, dropout=0.0)
    model = Autoencoder(config).double().train(training)
    other = Autoencoder(config).double().train(training)
    other.load_state_dict(model.state_dict())
    z = model.encode(batch)

    n = batch.positions.shape[1]
    # padding gets between the atoms
    order = torch.stack([torch.randperm(n + 5) for _ in range(len(batch))])

    def shuffled(values: Tensor, fill: float) -> Tensor:
        more = values.new_full((len(batch), n + 5, *values.shape[2:]), fill)
        more[:, :n] = values
        return more[torch.arange(len(batch))[:, None], order]

    moved = dataclasses.replace(
        batch,
        positions=shuffled(batch.positions, -77.0),
        species=shuffled(batch.species, 3),
        mask=shuffled(batch.mask, False),
    )
    assert not torch.equal(moved.mask[:, :n], batch.mask)
    torch.testing.assert_close(other.encode(moved), z, rtol=1e-9, atol=1e-9)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):  # batch statistics too
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_latent_vector_depends_on_positions_species_and_lattice(batch: PaddedCrystals) -> None:
    torch.manual_seed(0)
    model = Autoencoder(ModelConfig(n_species=int(batch.species.max()) + 2)).double().eval()
    z = model.encode(batch)
    for changed in (
        dataclasses.replace(batch, positions=batch.positions + 0.1),
        dataclasses.replace(batch, species=batch.species + 1),
        dataclasses.replace(batch, lengths=batch.lengths + 0.1),
        dataclasses.replace(batch, angles=batch.angles + 0.1),
    ):
        assert ((model.encode(changed) - z).abs().amax(1) > 1e-6).all()
    alone = model.encode(batch.select(torch.tensor([3])))
    # in evaluation a crystal's vector does not depend on its company
    torch.testing.assert_close(alone[0], z[3])
