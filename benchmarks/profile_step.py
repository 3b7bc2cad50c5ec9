"""Time spent in each section of a training step, in the plain reference and in the package."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from tqdm import tqdm

import benchmarks.plain
import nesf.training
from benchmarks.setting import PLAIN, PlainRun, Setting, parse, run_of, step_cases, trainer_of
from nesf.training import FieldTrainer

SECTIONS = (
    "sampling",
    "nearest atom",
    "encoder",
    "position field",
    "species field",
    "backward",
    "optimiser",
    "other",
)
LONG = 5.0  # seconds; a plain step that takes longer is not warmed up first
WHAT = {"cpu": "preset cpu", "paper": "preset paper"}


class Stopwatch:
    """Time per section; a section inside of another one does not count for that."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self.finish = finish  # waits for the device
        self.seconds = dict.fromkeys(SECTIONS, 0.0)
        self.inside: list[float] = []  # per open section: time of the sections in it

    def timed(self, section: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted for the section."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.finish()
            begin = time.perf_counter()
            self.inside.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                self.finish()
                spent = time.perf_counter() - begin
                self.seconds[section] += spent - self.inside.pop()
                if self.inside:
                    self.inside[-1] += spent

        return wrapped


def profile(setting: Setting, run: FieldTrainer | PlainRun, steps: Sequence[int]) -> dict[str, Any]:
    """Time the sections of the given steps.

    Before, as many steps warm up and as many are timed as a whole.

    Returns:
        `seconds`, the median step without stopwatches; `sections`, seconds of each in the mean step
        with them.
    """
    times: list[float] = []
    for k in (*steps, *steps):
        begin = time.perf_counter()
        run.step(0, k)
        setting.finish()
        times.append(time.perf_counter() - begin)
        if isinstance(run, PlainRun) and times[0] > LONG:
            break  # nothing is compiled, and what else is done once weighs little in so long a step
    watch = Stopwatch(setting.finish)
    sampler = trainer_of(run).sampler
    with ExitStack() as stack:

        def replace(owner: Any, name: str, section: str) -> None:
            stack.enter_context(
                patch.object(owner, name, watch.timed(section, getattr(owner, name)))
            )

        replace(sampler, "position_queries", "sampling")
        replace(sampler, "species_queries", "sampling")
        replace(torch.Tensor, "backward", "backward")
        replace(run.optimizer, "step", "optimiser")
        replace(run.model.encoder, "forward", "encoder")
        if isinstance(run, PlainRun):
            replace(benchmarks.plain, "ground_truth", "nearest atom")
            replace(run.model.position_field, "forward", "position field")
            replace(run.model.species_field, "forward", "species field")
        else:
            replace(nesf.training, "nearest_atom", "nearest atom")
            names = {"position_field": "position field", "species_field": "species field"}
            timed = {
                name: watch.timed(section, getattr(run.functions, name))
                for name, section in names.items()
            }
            stack.enter_context(patch.object(run, "functions", run.functions._replace(**timed)))
        step = watch.timed("other", run.step)
        for k in steps:
            step(0, k)
    sections = {name: spent / len(steps) for name, spent in watch.seconds.items()}
    return {
        "steps": len(steps),
        "seconds": statistics.median(times[len(steps) :] or times),
        "sections": sections,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    _, setting = parse(
        "benchmarks.profile_step",
        "Time the sections of a training step, plain and ours, and record them.",
        arguments,
    )
    profiles = []
    cases = [c for c in step_cases(setting.device) if c != "fp32, compiled"]
    for preset, what in WHAT.items():
        for case in tqdm(cases, desc=what, unit="case"):
            run = run_of(setting, preset, case)
            about = trainer_of(run)
            many = 1 if preset == "paper" and case == PLAIN else 2 if preset == "paper" else 10
            # the last batch may be smaller
            steps = [k % max(about.steps - 1, 1) for k in range(many)]
            profiles.append({"case": case, "what": what} | profile(setting, run, steps))
    for p in profiles:
        parts = ", ".join(f"{name} {spent:.3g}" for name, spent in p["sections"].items())
        print(f"{p['what']}, {p['case']}: {p['seconds']:.3g} s a step ({parts})")
    print(f"written: {setting.write('profile', uses_model=False, profiles=profiles)}")


if __name__ == "__main__":
    main()
