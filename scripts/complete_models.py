"""Add to recorded models what later versions store with a model: `domain` and `latent_scale`.

    python scripts/complete_models.py results/lcs6/nesf/cpu/seed-0 --data DIR

Both come from the training split of the dataset that the model was trained on, which has to be at
hand with the recorded hash. Weights and all other entries stay; run `nesf aggregate` afterwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nesf.data import load
from nesf.domain import domain_of
from nesf.files import read_json, write_json
from nesf.runs import check_dataset
from nesf.saved import TrainedModel, latent_scale_of
from nesf_io.errors import NesfError


def complete(run: Path, data: Path | None = None) -> list[str]:
    """Add what is missing to the `model.json` of a run; return the names of what was added.

    Raises:
        DataError: the dataset is not on disk, or is not the one that the model was trained on.
    """
    model = TrainedModel.load(run, "cpu")
    dataset = load(model.dataset["name"], fold=model.dataset["fold"], data_dir=data)
    check_dataset(model.dataset, dataset, run)
    about = read_json(run / "model.json")
    added: dict[str, object] = {}
    if not about.get("latent_scale"):
        train = dataset.split("train")
        z = model.encode(train.select(range(min(len(train), 4096))))
        added["latent_scale"] = list(latent_scale_of(z))
    if not about.get("domain"):
        added["domain"] = domain_of(dataset)
    if added:
        write_json(run / "model.json", about | added)
    return list(added)


def main() -> int:
    """Complete the models of the command line; return 1 where one was left as it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a model of NeSF")
    parser.add_argument("--data", type=Path, help="data folder (default: the user's data folder)")
    options = parser.parse_args()
    failed = 0
    for run in options.runs:
        try:
            print(f"{run}: added {', '.join(complete(run, options.data)) or 'nothing'}")
        except NesfError as error:
            failed += 1
            print(f"{run}: left as it is ({error})")
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
