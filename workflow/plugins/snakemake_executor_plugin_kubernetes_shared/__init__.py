"""Snakemake's executor for Kubernetes, on a volume that Snakemake and all pods mount.

The executor itself supposes that nothing is shared. It would then run every job of this workflow on
the spot, without a word, because their files are on the volume and not in a storage.
"""

import shlex
from dataclasses import replace
from typing import Any

import snakemake_executor_plugin_kubernetes as kubernetes
from snakemake_executor_plugin_kubernetes import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = replace(
    kubernetes.common_settings,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(kubernetes.Executor):
    """The executor with these settings; a job starts where Snakemake itself was started."""

    def get_job_exec_prefix(self, job: Any) -> str:
        """Return what comes before a job's command."""
        return f"cd {shlex.quote(str(self.workflow.workdir_init))}"
