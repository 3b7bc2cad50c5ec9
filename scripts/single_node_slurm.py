"""Run the workflow on a Slurm of this machine alone, kill a training, and look what becomes of it.

`python scripts/single_node_slurm.py [--mirror DIR] [--out FILE]` starts munged, slurmctld and slurmd
of the distribution's packages (Debian, Ubuntu: `apt install munge slurm-wlm`) in a temporary folder,
on the loopback device, and submits `snakemake --profile workflow/profiles/slurm table1` for two
reduced trainings and a predictor. After the first checkpoint of one training its job is killed with
SIGKILL, as by a lack of memory. The job must be submitted again and go on from the checkpoint, all
runs must be scored, the table must be made, and the weights must be those of a training that nobody
has killed. Nothing is left behind. Exit code 1: something of that was not so; 2: Slurm is not there.

No GPU is used: the node names two, which are none, so that the profile can ask for them as it is.
"""

from __future__ import annotations

import argparse
import csv
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from nesf.files import sha256_of, write_json
from nesf.forms import FORMAT
from nesf.records import WEIGHTS, command_line, commit, environment, read_run

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PLUGIN = "snakemake-executor-plugin-slurm"
LABEL = "reduced-for-slurm"
# networks a tenth as wide: a minute of a fast core and more, so that a checkpoint (every 30 s) lies half-way
REDUCED: dict[str, Any] = {
    "model.latent_size": 16,
    "model.encoder_mix": [32],
    "model.encoder_latent": [32],
    "model.decoder_position": [32, 32],
    "model.decoder_species": [32],
    "sampling.n_position": 16,
    "sampling.n_species": 8,
    "training.compile": False,
    "training.batch_size": 10,
}
EPOCHS = {"ybco": 1200, "starter": 100}
LIMIT_S = 1800.0  # of the whole, on a machine that is busy with something else


class Failed(Exception):  # noqa: N818
    """Something that should have happened has not."""


def slurm_conf(folder: Path, node: str, ports: tuple[int, int], cpus: int) -> str:
    """Return a configuration for one node, one user, no systemd, no cgroups and no database."""
    user = getpass.getuser()
    return f"""\
ClusterName=single-node
SlurmctldHost={node}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=5
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def slurm(folder: Path, cpus: int) -> Iterator[None]:
    """Run Slurm in a folder, which is the one of `SLURM_CONF` meanwhile; end all of it after."""
    node = socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(slurm_conf(folder, node, free_ports(), cpus))
    # two character devices of every Linux stand for two GPUs
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    (folder / "cgroup.conf").write_text("")
    # Snakemake's job step hands SLURM_CONF not on to srun
    wrapper = folder / "bin" / "srun"
    wrapper.write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
    )
    wrapper.chmod(0o755)
    before = {name: os.environ.get(name, "") for name in ("PATH", "SLURM_CONF")}
    os.environ["PATH"] = f"{wrapper.parent}{os.pathsep}{before['PATH']}"
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", node],
        ):
            with open(folder / f"{command[0]}.out", "wb") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            if command[0] == "munged":
                wait_for(lambda: (folder / "munge.socket").exists(), 30, "munged has not started")
        wait_for(lambda: called("sinfo", "-h", "-o", "%T") == "idle", 60, "the node is not idle")
        yield
    except Failed:
        for log_of in sorted(folder.glob("*.out")):
            print(f"--- {log_of.name}\n{log_of.read_text()[-1500:]}", file=sys.stderr)
        raise
    finally:
        called("scancel", "--user", getpass.getuser())
        with suppress(Failed):
            wait_for(lambda: not called("squeue", "-h"), 30, "")
        for daemon in reversed(daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(30)
            daemon.kill()
        for pid in still_running(folder):
            os.kill(pid, signal.SIGKILL)
        os.environ |= before


def still_running(folder: Path) -> list[int]:
    """Return the processes, but this one, that were started with this folder's configuration."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"SLURM_CONF={folder}/".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def called(*command: str) -> str:
    """Return what a command prints, "" where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def wait_for(true: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    """Return the first result of a call that is true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise Failed(otherwise)
        time.sleep(0.2)
    return found


def jobs() -> list[dict[str, str]]:
    """Return all jobs that Slurm knows of: number, what they do, state."""
    table = called("squeue", "-h", "--states=all", "--sort=i", "-o", "%i|%k|%T")
    rows = [line.split("|") for line in table.splitlines()]
    return [{"job": row[0], "what": row[1].removeprefix("rule_"), "state": row[2]} for row in rows]


def asked(mirror: Path | None) -> tuple[dict[str, Any], str]:
    """Return the workflow's configuration, and the dataset: two folds, or two seeds of `starter`."""
    dataset = "ybco" if mirror else "starter"
    run = {
        "dataset": dataset,
        "label": LABEL,
        "set": REDUCED | {"training.epochs": EPOCHS[dataset]},
        "splits": ["test"],
        "folds" if mirror else "seeds": 2,
    }
    predictor: dict[str, Any] = {"dataset": dataset, "method": "copy", "splits": ["test"]}
    if mirror:
        predictor["folds"] = [0]
    config = {"results": "results", "data": "data", "build": "build", "analyses": []}
    more = {"mirror": str(mirror) if mirror else "", "runs": [run], "predictors": [predictor]}
    return config | more, dataset


def killed_training(place: Path, folder: Path, running: Callable[[], bool]) -> dict[str, Any]:
    """Kill the job of a training when its first checkpoint is there; return what was killed."""
    checkpoint = folder / "checkpoint.json"
    never = f"{checkpoint.relative_to(place)} was never written"
    wait_for(lambda: checkpoint.exists() or not running(), LIMIT_S / 2, never)
    if not checkpoint.exists():
        raise Failed(never)
    epoch = json.loads(checkpoint.read_text())["epoch"]
    name = "_".join(folder.relative_to(place / "results").parts)
    job = next((j for j in jobs() if j["what"].startswith("train_") and j["state"] == "RUNNING" and name in j["what"]), None)  # fmt: skip
    if job is None or (folder / "run.json").exists():
        raise Failed(f"{name}: the training ended before it could be killed; give it more epochs")
    called("scancel", "--full", "--signal=KILL", job["job"])
    return {**job, "state": "killed with SIGKILL", "epoch": epoch}


def demonstration(place: Path, mirror: Path | None) -> dict[str, Any]:
    """Run the workflow with a killed job, and check what it has made.

    Raises:
        Failed: something of it is not as it should be.
    """
    config, dataset = asked(mirror)
    (place / "asked.yaml").write_text(yaml.safe_dump(config))
    numbers = ["fold-0", "fold-1"] if mirror else ["seed-0", "seed-1"]
    folders = [place / "results" / dataset / "nesf" / LABEL / number for number in numbers]
    options = [
        *("--profile", str(ROOT / "workflow" / "profiles" / "slurm")),
        *("--set-threads", "train=1"),  # two trainings on a machine of two cores
        # there is no database of jobs here; and no minutes to wait for
        *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"),
    ]
    workflow = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile")),
        *("--directory", str(place), "table1", *options, "--configfile", str(place / "asked.yaml")),
    ]
    with open(place / "snakemake.log", "w") as log:
        running = subprocess.Popen(workflow, stdout=log, stderr=log)
        try:
            killed = killed_training(place, folders[0], lambda: running.poll() is None)
            undisturbed = alone(place, config, folders[0])
            code = running.wait(LIMIT_S)
        except BaseException:
            running.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.wait(30)
            running.kill()
            print((place / "snakemake.log").read_text()[-3000:], file=sys.stderr)
            raise
    if code:
        raise Failed(
            f"snakemake: exit code {code}: {(place / 'snakemake.log').read_text()[-3000:]}"
        )
    return {
        "dataset": dataset,
        "runs": [folder.relative_to(place / "results").as_posix() for folder in folders],
        "changes": {key: json.dumps(value) for key, value in config["runs"][0]["set"].items()},
        "options": ["--profile", "workflow/profiles/slurm", *options[2:]],
        "killed": killed,
        **checked(place, folders, killed, undisturbed),
    }


def checked(
    place: Path, folders: Sequence[Path], killed: dict[str, Any], undisturbed: Path
) -> dict[str, Any]:
    """Return what the workflow has left, which is as it should be.

    Raises:
        Failed: it is not.
    """
    ended = jobs()
    states = [job["state"] for job in ended if job["what"] == killed["what"]]
    if states not in (["CANCELLED", "COMPLETED"], ["FAILED", "COMPLETED"]):
        raise Failed(
            f"the job that was killed: CANCELLED, then COMPLETED is expected, not {states}"
        )
    if others := [j for j in ended if j["state"] != "COMPLETED" and j["what"] != killed["what"]]:
        raise Failed(f"other jobs have not completed: {others}")
    runs = [read_run(folder) for folder in folders]
    if not all(run.run["finished"] and "test" in run.metrics for run in runs):
        raise Failed("a training has not finished, or is not scored")
    weights = [sha256_of(folder / WEIGHTS) for folder in (folders[0], undisturbed)]
    if weights[0] != weights[1]:
        raise Failed("the training that was killed has other weights than one that was not")
    names = "-".join(folders[0].relative_to(place / "results").parts)
    log = (place / "build" / "logs" / f"{names}-train.log").read_text()
    first = re.search(r"(\d+)/\d+ \[", log)  # of the bar of progress: the epochs done before
    if not first or int(first[1]) < max(killed["epoch"], 1):
        raise Failed(f"the training was not resumed after epoch {killed['epoch']}: {log[:200]}")
    with open(place / "results" / "table1.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "recorded"]
    counts = {
        name: max(int(row["n"]) for row in rows if name in (row["method"], row["preset"]))
        for name in {row[key] for row in rows for key in ("method", "preset")}
    }
    if counts.get(LABEL) != len(folders) or "copy" not in counts:
        raise Failed(f"table1.csv: runs of {counts} instead of {len(folders)} trainings and copy")
    return {
        "jobs": ended,
        "resumed_after": int(first[1]),
        "same_weights": True,
        "table_rows": len(rows),
    }


def alone(place: Path, config: dict[str, Any], folder: Path) -> Path:
    """Run the training of a folder by hand, without a kill; return its folder."""
    entry, number = config["runs"][0], folder.name.split("-")
    changes = [f"{key}={json.dumps(value)}" for key, value in entry["set"].items()]
    words = [word for change in changes for word in ("--set", change)]
    out = place / "undisturbed" / folder.name
    command = [
        *(
            sys.executable,
            "-m",
            "nesf_cli.main",
            "train",
            entry["dataset"],
            f"--{number[0]}",
            number[1],
        ),
        *(*words, "--label", LABEL, "--data", str(place / "data"), "--out", str(out), "--quiet"),
    ]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=LIMIT_S)
    return out


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that are not installed."""
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin"  # of a user who is not root
    return [name for name in PROGRAMS if shutil.which(name) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see the module for the exit codes."""
    parser = argparse.ArgumentParser(description="The workflow on a Slurm of this machine alone.")
    parser.add_argument("--mirror", type=Path, help="copy of the official release: two YBCO folds")
    parser.add_argument("--out", type=Path, help="file of the record (default: none is written)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the daemons are ended
    if missing := missing_programs():
        print(f"not installed: {', '.join(missing)}; apt install munge slurm-wlm", file=sys.stderr)
        return 2
    started, begin = datetime.now(UTC), time.monotonic()
    versions = {"slurm": called("slurmctld", "-V").split()[-1]}
    versions |= {name: metadata.version(name) for name in ("snakemake", PLUGIN)}
    folder = Path(tempfile.mkdtemp(prefix="nesf-slurm-"))
    try:
        (folder / "slurm").mkdir()
        (folder / "place").mkdir()
        with slurm(folder / "slurm", cpus=max(3, os.cpu_count() or 1)):
            made = demonstration(folder / "place", options.mirror and options.mirror.resolve())
        if left := still_running(folder / "slurm"):
            raise Failed(f"processes are left: {left}")
    except Failed as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    machine = environment()
    words = list(sys.argv[1:] if arguments is None else arguments)
    record = {
        "format": FORMAT,
        "command": command_line(words, ("python", "scripts/single_node_slurm.py")),
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "wall_time_seconds": round(time.monotonic() - begin, 1),
        **machine,
        "versions": machine["versions"] | versions,
        **made,
    }
    for job in made["jobs"]:
        print(f"{job['job']:>4}  {job['state']:<10} {job['what']}")
    epoch = made["killed"]["epoch"]
    print(
        f"killed after epoch {epoch}, gone on from there, weights as without the kill; table made"
    )
    if options.out:
        write_json(options.out, record)
        print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
