"""Trained models on disk: weights as safetensors, everything else as JSON beside them."""

from __future__ import annotations

import hashlib
import math
import platform
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import nesf
from nesf.config import Config, ConfigBase
from nesf.crystals import Crystals, pad
from nesf.data.dataset import Box, Dataset, bounding_box, check_vocabulary
from nesf.data.files import as_crystals
from nesf.data.streaming import StreamedCrystals, StreamedDataset
from nesf.decode import decode_latent
from nesf.domain import Domain, ModelCell, domain_of, in_cell, outside
from nesf.files import sha256_of, write_atomically, write_json
from nesf.forms import FORMAT, Element, Identity, Range, Sha256, read_form
from nesf.model import Autoencoder
from nesf_io.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from nesf.data.files import Structures

Network = TypeVar("Network", bound=nn.Module)
Settings = TypeVar("Settings", bound=ConfigBase)
AGAIN = "get it again, or train again"
NO_MODEL = (
    "this is not the description of a model; give the folder of a trained one, or train again"
)
# in a clone of the repository; an installed package has no recorded runs
RECORDED = Path(__file__).resolve().parents[1] / "results"
MOST_WEIGHTS = 1 << 28  # of a network: 1 GiB; the paper's has 0.77 million

Coordinate = Annotated[float, Range(-1e5, 1e5)]  # Å
Corner = tuple[Coordinate, Coordinate, Coordinate]


class ModelFile(TypedDict):
    """What the `model.json` of every method holds; without `format` it is of the first version."""

    format: NotRequired[int]
    method: NotRequired[str]
    config: dict[str, Any]
    dataset: Identity
    info: dict[str, Any]
    sha256: Sha256


class NesfFile(ModelFile):
    """What the `model.json` of NeSF holds, as attributes of `TrainedModel`."""

    vocabulary: tuple[Element, ...]
    box: tuple[Corner, Corner]
    latent_scale: NotRequired[list[Annotated[float, Range(1e-6, 1e6)]]]
    domain: NotRequired[Domain]


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    return {
        "nesf": nesf.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `auto`: a CUDA GPU if there is one, else the CPU.

    Raises:
        ConfigError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); choose auto or cpu"
        ) from None
    return device


@dataclass
class TrainedModel:
    """An autoencoder with all that decoding needs."""

    autoencoder: Autoencoder  # in evaluation mode
    config: Config
    vocabulary: tuple[int, ...]  # atomic numbers along the species axis
    box: Box  # bounding box of the training atoms, Å; particles start in it
    dataset: Mapping[str, Any]  # name, fold and hash of what it was trained on
    info: Mapping[str, Any] = field(default_factory=dict)  # epoch, losses and so on, as recorded
    # standard deviations of the training split's latent vectors [latent_size]; empty in models of
    # earlier versions
    latent_scale: tuple[float, ...] = ()
    # what it has learned (`nesf.domain.domain_of`); empty in models of earlier versions
    domain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.autoencoder.parameters()).device

    @property
    def description(self) -> dict[str, Any]:
        """JSON metadata saved with the weights."""
        return {
            "config": self.config.to_dict(),
            "vocabulary": list(self.vocabulary),
            "box": [list(corner) for corner in self.box],
            "dataset": dict(self.dataset),
            "latent_scale": list(self.latent_scale),
            "versions": versions(),
        } | ({"domain": dict(self.domain)} if self.domain else {})

    @torch.no_grad()
    def encode(
        self, structures: Structures, batch_size: int = 1024, *, cell: ModelCell = "auto"
    ) -> Tensor:
        """Return the latent vectors z [B, latent_size] of B structures, `batch_size` in one pass.

        Structures, but not `Crystals`, are converted to `cell` (`nesf.domain.in_cell`), and it is
        said; auto: the kind that the model was trained on.

        Raises:
            DataError: a structure cannot be used, for example for an element outside the
                vocabulary.
        """
        crystals = self._in_cell(structures, cell)
        batches = np.split(np.arange(len(crystals)), range(batch_size, len(crystals), batch_size))
        parts = [
            self.autoencoder.encode(pad(crystals.select(batch), self.vocabulary, self.device))
            for batch in batches
            if len(batch)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.config.model.latent_size)

    def decode(self, z: Tensor | np.ndarray) -> list[Structure]:
        """Decode latent vectors [B, latent_size]; a structure without sites: nothing detected.

        Raises:
            DataError: another shape, or a value that is not finite.
        """
        z = self.latent(z)
        return decode_latent(self, z, [str(i) for i in range(len(z))]).crystals.to_structures()

    def latent(self, z: Tensor | np.ndarray) -> Tensor:
        """Return latent vectors [B, latent_size] as a tensor on the model's device; DataError: none."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.device)
        width = self.config.model.latent_size
        if z.ndim != 2 or z.shape[1] != width or not z.isfinite().all():
            raise DataError(
                f"z {tuple(z.shape)}: finite numbers of shape [B, {width}] are expected"
            )
        return z

    def reconstruct(self, structures: Structures, *, cell: ModelCell = "auto") -> list[Structure]:
        """Encode and decode structures, with a warning for those outside the domain.

        Arguments as of `encode`. `nesf.reconstruct` says of each how far it can be trusted.
        """
        crystals = self._in_cell(structures, cell)
        decoded = decode_latent(self, self.encode(crystals), crystals.ids).crystals
        found = outside(crystals, self.domain) if self.domain else []
        if count := sum(map(bool, found)):
            warnings.warn(
                f"{count} of {len(crystals)} crystals lie outside the training domain ({'; '.join(next(filter(None, found)))})",
                stacklevel=2,
            )
        return decoded.to_structures()

    def _in_cell(self, structures: Structures, cell: ModelCell) -> Crystals:
        """Return own structures in the cell that the model has learned; say which were converted."""
        if isinstance(structures, Crystals):
            return structures
        used, notes = in_cell(as_crystals(structures), cell, self.domain or {})
        pairs = zip(used.ids, notes, strict=True)
        if found := [f"{name}: {note}" for name, note in pairs if "(converted" in note]:
            warnings.warn(
                f"{len(found)} of {len(used)} structures were converted to the cell that the model has learned, the first is {found[0]}; cell='as-given' leaves them as they are",
                stacklevel=3,
            )
        return used

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        save_network(folder, self.autoencoder, self.description, self.info)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> TrainedModel:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing, damaged, of another version or form, or the two do not
                belong together.
        """
        about, path = read_description(folder, "nesf", NesfFile), Path(folder) / "model.json"
        config = config_in(path, Config, about["config"])
        vocabulary, (low, high) = tuple(about["vocabulary"]), about["box"]
        check_vocabulary(path, vocabulary)
        scale, width = about.get("latent_scale", []), config.model.latent_size
        wrong = {
            f"{len(vocabulary)} species in vocabulary, {config.model.n_species} in the config": len(
                vocabulary
            )
            != config.model.n_species,
            f"box from {low} to {high} has no volume": not np.less(low, high).all(),
            f"{len(scale)} entries in latent_scale, {width} in a latent vector": len(scale)
            not in (0, width),
        }
        if found := [sentence for sentence, is_so in wrong.items() if is_so]:
            raise DataError(f"{path}: {found[0]}; {AGAIN}")
        autoencoder = load_network(
            lambda: Autoencoder(config.model), folder, about["sha256"], device
        )
        return cls(
            autoencoder,
            config,
            vocabulary,
            (tuple(low), tuple(high)),
            about["dataset"],
            about["info"],
            tuple(about.get("latent_scale", ())),
            about.get("domain", {}),
        )


def as_model(model: TrainedModel | str | Path) -> TrainedModel:
    """Return a trained model as it is, or load it by its folder or name (`model_folder`).

    Raises:
        DataError: there is no such model, or this is none.
    """
    if isinstance(model, TrainedModel):
        return model
    if not isinstance(model, str | Path):
        raise DataError(
            f"{type(model).__name__}: a trained model of NeSF, its folder or its name is expected"
        )
    return TrainedModel.load(model_folder(model))


def model_folder(name: str | Path) -> Path:
    """Return the folder of a model.

    Args:
        name: folder of a run; or DATASET, DATASET/PRESET or DATASET/PRESET/RUN of a NeSF model that
            is recorded in this clone of the repository, such as lcs6, lcs6/plus, ybco/cpu/fold-0.
            Without a preset: `plus` if it is recorded, else `cpu`.

    Raises:
        DataError: there is no such model; the message names those that there are.
    """
    if (Path(name) / "model.json").exists():
        return Path(name)
    recorded = recorded_models()
    for known in (str(name), f"{name}/plus", f"{name}/cpu"):
        for last in ("", "/seed-0", "/fold-0"):
            if known + last in recorded:
                return recorded[known + last]
    names = sorted({known.split("/")[0] for known in recorded})
    choice = f"choose from {', '.join(names)}, or give" if names else "give"
    raise DataError(
        f"{name}: is no model; {choice} the folder of a run (`nesf train DATASET --out FOLDER` makes one)"
    )


def recorded_models() -> dict[str, Path]:
    """Return the NeSF models recorded in this clone by DATASET/PRESET/RUN."""
    found = sorted(RECORDED.glob("*/nesf/*/*/model.json"))
    return {f"{p.parts[-5]}/{p.parts[-3]}/{p.parts[-2]}": p.parent for p in found}


def save_network(
    folder: Path, network: nn.Module, description: Mapping[str, Any], info: Mapping[str, Any]
) -> None:
    """Write `model.safetensors`, and `model.json` with its hash."""
    sha256 = write_tensors(Path(folder) / "model.safetensors", network.state_dict())
    write_json(
        Path(folder) / "model.json",
        {"format": FORMAT, **description, "info": dict(info), "sha256": sha256},
    )


def read_description(
    folder: Path, method: str | None = None, form: Any = ModelFile
) -> dict[str, Any]:
    """Return the content of a method's `model.json` (None: any), checked against its form."""
    path = Path(folder) / "model.json"
    about: dict[str, Any] = read_form(path, ModelFile, NO_MODEL)
    if (found := about.get("method", "nesf")) != (method or found):
        raise DataError(
            f"{path}: is a model of method {found}; this asks for one of {method}; load it with its own method"
        )
    return read_form(path, form, NO_MODEL)


def config_in(path: Path, kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return the config that a JSON file holds; a `DataError` that names the file if it holds none."""
    try:
        return kind.from_dict(values)
    except ConfigError as error:
        raise DataError(f"{path}: {error}; {AGAIN}") from None


def bounded(make: Callable[[], Network]) -> Network:
    """Return the network that `make` makes, or raise `ConfigError` before it fills the memory."""
    try:
        with torch.device("meta"):
            n: float = sum(weights.numel() for weights in make().state_dict().values())
    except RuntimeError:  # more than 64 bits count
        n = math.inf
    if n > MOST_WEIGHTS:
        raise ConfigError(
            f"a network of these widths has {n} weights, more than {MOST_WEIGHTS}; choose smaller ones"
        )
    return make()


def load_network(make: Callable[[], Network], folder: Path, sha256: str, device: str) -> Network:
    """Return a network with the weights of `model.safetensors`, on a device, in evaluation mode."""
    path = Path(folder) / "model.safetensors"
    try:
        tensors = read_tensors(path, sha256)
        network = bounded(make)
        network.load_state_dict(tensors)
    except (ConfigError, RuntimeError) as error:
        raise DataError(
            f"{path}: does not fit the network in model.json ({' '.join(str(error).split())[:200]}); {AGAIN}"
        ) from None
    check_finite(path, tensors)
    return network.to(choose_device(device)).eval()


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise a `DataError` that names the first tensor with an infinite number or none."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise DataError(f"{path}: {name} holds values that are not finite; {AGAIN}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file atomically and return its SHA-256."""
    write_atomically(
        path, to_safetensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    )
    return sha256_of(path)


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, after comparing its hash where one is known.

    Raises:
        DataError: missing, damaged, or of another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{path}: its SHA-256 is not the recorded one; the file is damaged or belongs to another run"
        )
    try:
        return from_safetensors(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: not a safetensors file, or damaged ({error})") from None


def latent_scale_of(z: Tensor) -> tuple[float, ...]:
    """Return the standard deviations [Z] of latent vectors [B, Z], at least 0.001."""
    scale = z.double().std(0, correction=0).clamp(min=1e-3)
    return tuple(round(value, 9) for value in scale.tolist())


def identity(dataset: Dataset | StreamedDataset) -> dict[str, Any]:
    """Return name, fold and hash of a dataset, as models and checkpoints record them."""
    return {"name": dataset.name, "fold": dataset.fold, "hash": dataset.hash()}


def model_for(dataset: Dataset | StreamedDataset, config: Config) -> TrainedModel:
    """Return an untrained model with a dataset's vocabulary and bounding box."""
    config = config.with_values({"model.n_species": len(dataset.vocabulary)})
    training = dataset.splits["train"]
    box = training.box if isinstance(training, StreamedCrystals) else bounding_box(training)
    return TrainedModel(
        bounded(lambda: Autoencoder(config.model)),
        config,
        dataset.vocabulary,
        box,
        identity(dataset),
        domain=domain_of(dataset),
    )
