"""Trained models on disk: weights as safetensors, everything else as JSON beside them."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

import nesf
from nesf.config import Config
from nesf.crystals import Crystals, PaddedCrystals, pad
from nesf.data.dataset import Box, Dataset, bounding_box
from nesf.data.files import as_crystals
from nesf.data.streaming import PaddedStream, StreamedCrystals, StreamedDataset
from nesf.decode import decode_latent
from nesf.errors import ConfigError, DataError
from nesf.files import read_json, sha256_of, write_atomically, write_json
from nesf.model import Autoencoder

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from nesf.data.files import Structures


RECORDED = Path(__file__).resolve().parents[1] / "results"  # in a clone of the repository; an installed package has no recorded runs


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    return {"nesf": nesf.__version__, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


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
        raise ConfigError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); choose auto or cpu") from None
    return device


@dataclass
class TrainedModel:
    """An autoencoder with all that decoding needs.

    Attributes:
        autoencoder: the network, in evaluation mode.
        config: all choices of its training.
        vocabulary: atomic numbers along the species axis.
        box: bounding box of the training atoms, Å; particles start in it.
        dataset: name, fold and hash of what it was trained on.
        info: epoch, losses, versions and so on, as recorded.
    """

    autoencoder: Autoencoder
    config: Config
    vocabulary: tuple[int, ...]
    box: Box
    dataset: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.autoencoder.parameters()).device

    @torch.no_grad()
    def encode(self, structures: Structures, batch_size: int = 1024) -> Tensor:
        """Return the latent vectors z [B, latent_size].

        Args:
            structures: B pymatgen structures, ASE atoms, or `Crystals` in the standard setting.
            batch_size: structures in one pass.

        Raises:
            DataError: a structure cannot be used, for example for an element outside the vocabulary.
        """
        crystals = as_crystals(structures)
        parts = [
            self.autoencoder.encode(pad(crystals.select(range(i, min(i + batch_size, len(crystals)))), self.vocabulary, self.device))
            for i in range(0, len(crystals), batch_size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.config.model.latent_size)

    def decode(self, z: Tensor | np.ndarray) -> list[Structure]:
        """Decode latent vectors [B, latent_size]; a structure without sites: nothing detected."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.device)
        return decode_latent(self, z, [str(i) for i in range(len(z))], self.config.decoding).crystals.to_structures()

    def reconstruct(self, structures: Structures) -> list[Structure]:
        """Encode and decode structures; `nesf.reconstruct` also gives scores and votes."""
        crystals = as_crystals(structures)
        return decode_latent(self, self.encode(crystals), crystals.ids, self.config.decoding).crystals.to_structures()

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        weights = {k: v.detach().cpu().contiguous() for k, v in self.autoencoder.state_dict().items()}
        write_atomically(Path(folder) / "model.safetensors", to_safetensors(weights))
        description = describe(self.config, self.vocabulary, self.box, self.dataset) | {"info": dict(self.info)}
        write_json(Path(folder) / "model.json", description | {"sha256": sha256_of(Path(folder) / "model.safetensors")})

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> TrainedModel:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing, damaged, or the two do not belong together.
        """
        folder = Path(folder)
        description = read_json(folder / "model.json")
        if (method := description.get("method", "nesf")) != "nesf":
            raise DataError(f"{folder}/model.json: is a model of method {method}; this asks for one of nesf, whose decoder is a field")
        if missing := [key for key in ("config", "vocabulary", "box", "dataset", "info", "sha256") if key not in description]:
            raise DataError(f"{folder}/model.json: is not the description of a model ({missing[0]!r} is missing)")
        path = folder / "model.safetensors"
        weights = read_tensors(path, description["sha256"])
        config = Config.from_dict(description["config"])
        autoencoder = Autoencoder(config.model)
        try:
            autoencoder.load_state_dict(weights)
        except RuntimeError as error:
            raise DataError(f"{path}: does not fit the network in model.json ({str(error).splitlines()[0]})") from None
        low, high = description["box"]
        model = autoencoder.to(choose_device(device)).eval()
        return cls(model, config, tuple(description["vocabulary"]), (tuple(low), tuple(high)), description["dataset"], description["info"])


def describe(config: Config, vocabulary: tuple[int, ...], box: Box, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON metadata saved with the weights."""
    return {
        "config": config.to_dict(),
        "vocabulary": list(vocabulary),
        "box": [list(box[0]), list(box[1])],
        "dataset": dict(dataset),
        "versions": versions(),
    }


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, after comparing its hash where one is known.

    Raises:
        DataError: missing, damaged, or of another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if sha256 is not None and sha256_of(path) != sha256:
        raise DataError(f"{path}: its SHA-256 is not the recorded one; the file is damaged or belongs to another run")
    try:
        return from_safetensors(content)
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file, or damaged ({error})") from None


def model_for(dataset: Dataset | StreamedDataset, config: Config) -> TrainedModel:
    """Return an untrained model with a dataset's vocabulary and bounding box."""
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, n_species=len(dataset.vocabulary)))
    about = {"name": dataset.name, "fold": dataset.fold, "hash": dataset.hash()}
    training = dataset.splits["train"]
    box = training.box if isinstance(training, StreamedCrystals) else bounding_box(training)
    return TrainedModel(Autoencoder(config.model), config, dataset.vocabulary, box, about)


def padded_split(model: TrainedModel, crystals: Crystals | StreamedCrystals, device: torch.device) -> PaddedCrystals | PaddedStream:
    """Return a split as padded tensors, on the device or read batch by batch."""
    if isinstance(crystals, StreamedCrystals):
        return PaddedStream(crystals, model.vocabulary, device)
    return pad(crystals, model.vocabulary, device)
