"""The training core runs where only torch, numpy, safetensors and tqdm are installed: a bare GPU
machine."""

import json
import subprocess
import sys
from pathlib import Path

from nesf.config import preset
from nesf.data import load
from nesf.data.dataset import Dataset, save_dataset

CHILD = """
import importlib.metadata, json, re, sys
from pathlib import Path

def needs(name, seen):
    # Top-level modules of a distribution and of what it requires.
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in seen:
        return
    seen.add(name)
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in requires:
        if "extra ==" not in line:
            needs(re.match(r"[A-Za-z0-9_.-]+", line).group(), seen)

distributions = set()
for name in ("torch", "numpy", "safetensors", "tqdm"):
    needs(name, distributions)
modules = importlib.metadata.packages_distributions()
allowed = {m for m, names in modules.items() if any(re.sub(r"[-_.]+", "-", n).lower() in distributions for n in names)}
allowed |= set(sys.stdlib_module_names) | {"nesf", "nesf_io", "nesf_icsg3d", "torch", "numpy", "safetensors", "tqdm"}
known = set(modules) - allowed
assert {"pymatgen", "scipy", "skimage", "pandas", "matplotlib", "platformdirs", "mp_api", "ase"} <= known, known
sys.path.insert(0, sys.argv[1])

class Bare:
    # A finder that does not find what a bare machine lacks, neither for import nor for importlib.util.find_spec.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in known else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
for name in list(sys.modules):
    if name.partition(".")[0] in known:
        del sys.modules[name]
try:
    import pymatgen
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("pymatgen could be imported: this test tests nothing")

import nesf.data
from nesf.config import Config
from nesf.data.dataset import load_packed
from nesf_icsg3d.methods import METHODS as voxel_methods
from nesf_icsg3d import training as icsg3d  # the voxel baseline trains there too
from nesf.decode import reconstruct
from nesf.training import train

dataset = load_packed(Path(sys.argv[2]))
assert nesf.data.load(sys.argv[2], data_dir=Path(sys.argv[2]).parent).hash() == dataset.hash()
config = Config.from_dict(json.loads(sys.argv[3]))
result = train(dataset, config, Path(sys.argv[4]), device="cpu", progress=False)
decoded = reconstruct(result.model, dataset.splits["test"])
narrow = {"voxels.n": 16, "unet.width": 1, "vae.filters": [2, 2, 2], "vae.latent_size": 4, "unet.epochs": 1, "vae.epochs": 1}
narrow |= {"unet.rotations": 0, "vae.rotations": 0, "unet.batch_size": 4, "vae.batch_size": 4}
both = icsg3d.train(dataset, voxel_methods[0].config("few", "repaired", narrow), Path(sys.argv[4] + "-icsg3d"), device="cpu", progress=False)
assert [row["network"] for row in both.log] == ["unet", "vae"]
used = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"epochs": len(result.log), "decoded": len(decoded.crystals), "unexpected": sorted(used & known)}))
"""


def test_training_needs_only_torch_numpy_safetensors_and_tqdm(tmp_path: Path) -> None:
    starter = load("starter")
    save_dataset(
        Dataset(
            "few",
            {name: starter.splits[name].select(range(4)) for name in ("train", "val", "test")},
        ),
        tmp_path / "few",
    )
    config = preset("cpu").with_values(
        {
            "training.epochs": 1,
            "training.compile": False,
            "sampling.n_position": 8,
            "sampling.n_species": 8,
            "model.latent_size": 8,
        }
        | {
            "model.decoder_position": [8],
            "model.decoder_species": [8],
            "model.encoder_mix": [16],
            "model.encoder_latent": [16],
        }
    )
    root = Path(__file__).parent.parent
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(root),
        str(tmp_path / "few"),
        json.dumps(config.to_dict()),
        str(tmp_path / "run"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "epochs": 1,
        "decoded": 4,
        "unexpected": [],
    }
    assert (tmp_path / "run" / "model.safetensors").exists()
