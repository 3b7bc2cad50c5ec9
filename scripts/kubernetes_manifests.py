"""Let the workflow submit jobs to a stand-in for a Kubernetes cluster, and check what it asks for.

`python scripts/kubernetes_manifests.py [--out FILE]` answers on the loopback device as the API of a
cluster does, and lets `snakemake --profile workflow/profiles/kubernetes` submit a training
and a predictor to it. What arrives are the real manifests of Snakemake's executor. Each is
checked against the schema of the API (tests/kubernetes), as a cluster checks it: unknown keys and
wrong types are refused. No pod is started.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from nesf.files import write_json
from nesf.forms import FORMAT
from nesf.records import command_line, commit, environment

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "tests" / "kubernetes" / "api-1.37.json"
TYPES = {
    "jobs": ("batch/v1", "Job", "io.k8s.api.batch.v1.Job"),
    "secrets": ("v1", "Secret", "io.k8s.api.core.v1.Secret"),
}
RULES = ("train", "predict")  # with and without a GPU


def problems(kind: str, manifest: Any) -> list[str]:
    """Return what of a manifest (`TYPES`) the API would refuse, one sentence each."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["$ref"] = f"#/$defs/{TYPES[kind][2]}"
    found = Draft202012Validator(schema).iter_errors(manifest)
    sentences = [f"{error.json_path}: {error.message}" for error in found]
    if kind == "jobs" and not sentences:
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            asked, most = (container["resources"].get(k) or {} for k in ("requests", "limits"))
            # a rule of the API that no schema has: what a node cannot lend twice needs a limit
            sentences += [
                f"{container['name']}: limits[{name!r}] must be requests[{name!r}]"
                for name in sorted(asked | most)
                if "/" in name and asked.get(name) != most.get(name)
            ]
    return sentences


class StandIn(BaseHTTPRequestHandler):
    """Takes manifests, answers as the API does, and starts nothing."""

    received: list[tuple[str, Any]]  # of the server's subclass

    def do_POST(self) -> None:
        """Take a manifest; refuse one that is not valid."""
        kind = self.path.rsplit("/", 1)[-1]
        manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((kind, manifest))
        refused = problems(kind, manifest)
        status = {"kind": "Status", "status": "Failure", "code": 422, "message": "; ".join(refused)}
        self._answer(422 if refused else 201, status if refused else manifest)

    def do_GET(self) -> None:
        """Answer that a job is active, and that there are no pods."""
        if "/jobs/" in self.path:
            version, kind, _ = TYPES["jobs"]
            name = self.path.split("/jobs/")[1].split("/")[0]
            job = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
            self._answer(200, job | {"status": {"active": 1}})
        else:
            self._answer(200, {"apiVersion": "v1", "kind": "PodList", "items": []})

    def do_DELETE(self) -> None:
        """Agree."""
        self._answer(200, {"kind": "Status", "status": "Success"})

    def _answer(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def stand_in(folder: Path) -> Iterator[list[tuple[str, Any]]]:
    """Serve on the loopback device; give what is received, as (kind, manifest)."""
    received: list[tuple[str, Any]] = []
    handler = type("Handler", (StandIn,), {"received": received})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "nobody", "user": {}}],
    }
    (folder / "kubeconfig.yaml").write_text(yaml.safe_dump(config))
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def submitted(folder: Path) -> list[tuple[str, Any]]:
    """Let the workflow submit its jobs; return what the stand-in has received.

    Raises:
        RuntimeError: the workflow did not submit a job of each of `RULES`.
    """
    volume = folder / "nesf"  # in place of the volume that a cluster mounts there
    place = volume / "repository"
    shutil.copytree(ROOT / "workflow", place / "workflow", ignore=shutil.ignore_patterns("__py*"))
    asked = {
        "analyses": [],
        "runs": [{"dataset": "starter", "preset": "paper", "splits": ["test"]}],
        "predictors": [{"dataset": "starter", "method": "copy"}],
    }
    (place / "asked.yaml").write_text(yaml.safe_dump(asked))
    config = [f"{name}={volume}/{name}" for name in ("results", "data", "build")]
    command = [
        *(sys.executable, "-m", "snakemake"),
        *("--profile", "workflow/profiles/kubernetes"),
        *("--config", *config),
        *("--retries", "0", "--configfile", "asked.yaml", "--", "table1"),
    ]
    environment_ = os.environ | {"KUBECONFIG": str(folder / "kubeconfig.yaml")}
    environment_["PYTHONPATH"] = os.pathsep.join(
        ["workflow/plugins", os.environ.get("PYTHONPATH", "")]
    )
    with stand_in(folder) as received, open(folder / "snakemake.log", "w+") as log:
        running = subprocess.Popen(command, cwd=place, env=environment_, stdout=log, stderr=log)
        while running.poll() is None and not set(RULES) <= set(rules_of(received)):
            time.sleep(0.5)
        running.kill()  # it would wait for its jobs
        running.wait()
    if set(RULES) != set(rules_of(received)):
        log_text = (folder / "snakemake.log").read_text()
        raise RuntimeError(f"jobs of {RULES} are expected, not of {rules_of(received)}: {log_text}")
    return received


def rules_of(received: Sequence[tuple[str, Any]]) -> list[str]:
    """Return the rules of the jobs among the manifests."""
    return [rule_of(manifest) for kind, manifest in received if kind == "jobs"]


def rule_of(job: Any) -> str:
    """Return the rule of the workflow that a manifest runs."""
    (command,) = job["spec"]["template"]["spec"]["containers"][0]["args"][1:]
    found = re.search(r"--allowed-rules '?(\w+)", command)
    return found[1] if found else "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where the API would refuse a manifest."""
    parser = argparse.ArgumentParser(description="The workflow's manifests for Kubernetes.")
    parser.add_argument("--out", type=Path, help="file of the record (default: none is written)")
    options = parser.parse_args(arguments)
    started, begin = datetime.now(UTC), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nesf-kubernetes-") as name:
        received = submitted(Path(name))
        text = json.dumps(received).replace(name, "")
    # what the image has in place of this machine
    text = re.sub(rf"{re.escape(sys.prefix)}/bin/python[\d.]*", "python", text)
    text = text.replace(f"{sys.prefix}/bin", "/usr/local/bin").replace(str(Path.home()), "/root")
    manifests = [
        {"kind": kind, "rule": rule_of(manifest) if kind == "jobs" else ""}
        | {"manifest": manifest, "problems": problems(kind, manifest)}
        for kind, manifest in json.loads(text)
    ]
    for one in manifests:
        print(f"{one['kind']:<8} {one['rule']:<12} {'; '.join(one['problems']) or 'valid'}")
    machine = environment()
    plugin = "snakemake-executor-plugin-kubernetes"
    versions = {name: metadata.version(name) for name in ("snakemake", plugin, "kubernetes")}
    record = {
        "format": FORMAT,
        "command": command_line(
            list(sys.argv[1:] if arguments is None else arguments),
            ("python", "scripts/kubernetes_manifests.py"),
        ),
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "wall_time_seconds": round(time.monotonic() - begin, 1),
        **machine,
        "versions": machine["versions"] | versions,
        "api": SCHEMA.stem.removeprefix("api-"),
        "manifests": manifests,
    }
    if options.out:
        write_json(options.out, record)
        print(f"written: {options.out}")
    return int(any(one["problems"] for one in manifests))


if __name__ == "__main__":
    sys.exit(main())
