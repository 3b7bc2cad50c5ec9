"""The commands `nesf doctor`, what is here to work with, and `nesf completion`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from nesf.data.dataset import needs_extra
from nesf_cli.options import add_command, add_data_options

# beside those of `nesf.saved.versions`
PACKAGES = ("pymatgen", "scipy", "ase", "scikit-learn", "scikit-image", "matplotlib", "shtab")


def add_doctor_commands(commands: Any) -> None:
    """Add the commands of this module."""
    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        "versions, device, threads, compiler, models, datasets and free disk",
        "nesf doctor",
        "nesf doctor --json",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")
    add_data_options(doctor, mirror=False)
    completion = add_command(
        commands,
        "completion",
        _completion,
        "a script for the shell that completes commands and options",
        "nesf completion bash > ~/.local/share/bash-completion/completions/nesf",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def examine(data_dir: Path | None = None) -> dict[str, Any]:
    """Return what is here: versions, machine, recorded models, datasets, free disk (bytes)."""
    import torch

    from nesf.data import available, default_data_dir
    from nesf.hardware import can_compile, has_bf16
    from nesf.saved import choose_device, recorded_models, versions

    device, found = choose_device(), dict[str, str | None]()
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    data_dir = Path(data_dir or default_data_dir())
    existing = next(p for p in (data_dir, *data_dir.resolve().parents) if p.exists())
    cuda = device.type == "cuda"
    return {
        "versions": versions() | found,
        "device": str(device) + (f" ({torch.cuda.get_device_name(device)})" if cuda else ""),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "compiler": "found" if can_compile(device) else "none: trainings run uncompiled",
        "bf16": has_bf16(device),
        "models": {name: str(folder) for name, folder in recorded_models().items()},
        "data folder": str(data_dir),
        "datasets": {name: str(folder) for name, folder in available(data_dir).items()},
        "free disk": {str(p): shutil.disk_usage(p).free for p in (Path.cwd(), existing)},
    }


def _doctor(options: argparse.Namespace) -> None:
    found = examine(options.data)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            unit = 2**30 if key == "free disk" else None
            items = {n: f"{v / unit:.1f} GiB" if unit else v for n, v in value.items()}
            print(f"{key}:" + ("" if items else " none"))
            for name, text in items.items():
                print(f"  {name:28s} {text or 'not installed'}")
        else:
            print(f"{key}: {value}")


def _completion(options: argparse.Namespace) -> None:
    with needs_extra("completion"):
        import shtab

    print(shtab.complete(options.parser, shell=options.shell))
