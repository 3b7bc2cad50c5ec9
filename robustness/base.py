"""What the campaign damages: a small dataset, a trained model, structure files, made on the spot."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from robustness.runner import Fault, nesf

SIZES = {
    **{"model.latent_size": "4", "model.encoder_position": "[4,4]", "model.encoder_species": "[4]"},
    **{
        "model.encoder_mix": "[8]",
        "model.encoder_latent": "[8]",
        "model.decoder_position": "[8,4]",
    },
    **{"model.decoder_species": "[8]", "model.decoder_lattice": "[4]"},
    **{"sampling.n_position": "8", "sampling.n_species": "8", "training.compile": "false"},
    **{"training.epochs": "3", "training.batch_size": "4", "training.validate_every": "1"},
}
MIRRORED = 4  # crystals of the benchmark that a mirror holds
DECODE = ("--decode", "grid_interval=1", "--decode", "iterations=2", "--decode", "mode=fast")


@dataclass(frozen=True)
class Base:
    """Where the undamaged files lie."""

    folder: Path

    @property
    def data(self) -> Path:
        """The data folder, with the packed dataset `few`."""
        return self.folder / "data"

    @property
    def run(self) -> Path:
        """The run folder: weights, checkpoint, reconstruction, scores."""
        return self.folder / "run"

    def structures(self) -> list[Path]:
        """Return the structure files, of every format."""
        return sorted((self.folder / "structures").iterdir())

    def good(self) -> Path:
        """Return a CIF that the model can take."""
        return self.folder / "good.cif"

    def copy(self, name: str, target: Path) -> Path:
        """Copy a file or folder and return the copy."""
        source = self.folder / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return target


def settings(**changes: str) -> list[str]:
    """Return the options that make a training small; dots as two underscores."""
    values = SIZES | {k.replace("__", "."): v for k, v in changes.items()}
    return [word for k, v in values.items() for word in ("--set", f"{k}={v}")]


def train(base: Base, out: Path, *words: str, **changes: str) -> list[str]:
    """Return the words of a small training."""
    data = ["--data", str(base.data), "--device", "cpu", "--label", "small"]
    return ["train", "few", "--out", str(out), *data, *settings(**changes), *words]


def make(folder: Path) -> Base:
    """Make all files in a folder."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.cif import CifWriter
    from pymatgen.io.vasp import Poscar

    from nesf.data import load
    from nesf.data.dataset import Dataset, save_dataset
    from nesf_build.rules import RULES_FOLDER

    base, starter = Base(folder), load("starter")
    counts = {"train": 20, "val": 3, "test": 3}  # as many as a density needs
    few = Dataset("few", {s: starter.splits[s].select(range(n)) for s, n in counts.items()})
    save_dataset(few, base.data / "few")
    splits = ["--split", "test"]
    run = train(base, base.run, *splits, *DECODE)
    code, printed = nesf("run", *run[1:])
    if code:
        raise Fault("crash", printed)
    place = folder / "structures"
    place.mkdir()
    structures = few.splits["train"].to_structures()
    structures[0].to(filename=str(folder / "good.cif"))
    rows = ["material_id,cif"]
    for i, structure in enumerate(structures[:4]):
        cif = str(CifWriter(structure, symprec=0.01 if i % 2 else None))
        (place / f"{i}.cif").write_text(cif)
        (place / f"{i}.vasp").write_text(Poscar(structure).get_str())
        atoms = AseAtomsAdaptor.get_atoms(structure)
        atoms.info.clear()
        atoms.write(place / f"{i}.extxyz")
        structure.remove_oxidation_states()
        (place / f"{i}.json").write_text(structure.to_json())
        rows.append(f'{i},"{cif}"')
    (place / "table.csv").write_text("\n".join(rows) + "\n")
    for suffix in ("npy", "csv"):
        nesf(
            "encode",
            base.run,
            place / "0.cif",
            place / "1.cif",
            "--out",
            folder / f"z.{suffix}",
            exits=(0,),
        )
    (folder / "mirror").mkdir()
    for split, chosen in (("train", rows[1:3]), ("val", rows[3:4]), ("test", rows[4:5])):
        (folder / "mirror" / f"{split}.csv").write_text("\n".join([rows[0], *chosen]) + "\n")
    sizes = [
        f"{i},{n}" for i, n in zip(few.splits["train"].ids, range(counts["train"]), strict=True)
    ]
    (folder / "properties.csv").write_text("\n".join(["id,size", *sizes]) + "\n")
    shutil.copyfile(RULES_FOLDER / "ybco.json", folder / "rules.json")
    nesf("analyse", "examples", base.run, "--data", base.data, "--set", "split=test", exits=(0,))
    return base
