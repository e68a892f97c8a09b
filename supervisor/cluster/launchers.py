# SPDX-License-Identifier: GPL-2.0-or-later
"""What the environment tells of the launcher that started this process.

Pure: it reads a mapping and nothing else. What each launcher sets was looked at with
Open MPI 4.1 and 5.0, MPICH 4.0 and 5.0, Intel MPI 2021.18 and Slurm 22.05.

A batch script of Slurm runs with SLURM_PROCID=0 and SLURM_NTASKS=N too, though only one
such process exists: only SLURM_STEP_ID tells a task of srun. An mpirun inside a Slurm
job, in turn, hands Slurm's variables on, so it is asked first.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from supervisor.cluster.plan import Rendezvous


class Launcher(NamedTuple):
    """One process's place in a launcher's job.

    `ways` are the exchanges (`exchange.py`) that may work, best first; `job` names the
    job uniquely on a node; `fallback` is where rank 0 can be met without any exchange.
    """

    name: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    ways: tuple[str, ...]
    job: str = ""
    fallback: Rendezvous | None = None
    hint: str = ""

    @property
    def one_node(self) -> bool:
        """Whether all of the job's processes are on this node."""
        return self.local_size == self.size


def detect(environ: Mapping[str, str]) -> Launcher | None:
    """The launcher of this process, None without one.

    Numbers that make no sense are as good as no launcher: the variables may be leftovers.
    """
    for reader in _READERS:
        try:
            launcher = reader(environ)
        except (LookupError, ValueError):
            continue
        if (
            0 <= launcher.rank < launcher.size
            and 0 <= launcher.local_rank < launcher.local_size <= launcher.size
        ):
            return launcher
    return None


def _open_mpi(environ: Mapping[str, str]) -> Launcher:
    size = int(environ["OMPI_COMM_WORLD_SIZE"])
    local_size = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid", "")
    # Version 4 gives each job 128 random bits; they make the name unguessable.
    secret = environ.get("OMPI_MCA_orte_precondition_transports", "")
    return Launcher(
        "mpirun",
        int(environ["OMPI_COMM_WORLD_RANK"]),
        size,
        int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")),
        local_size,
        ("pmix", "local") if job and local_size == size else ("pmix",),
        f"openmpi {job} {secret}",
    )


def _hydra(environ: Mapping[str, str]) -> Launcher:
    size = int(environ["PMI_SIZE"])
    if "SLURM_STEP_ID" in environ and "MPI_LOCALNRANKS" not in environ:
        slurm = _slurm(environ)  # srun --mpi=pmi2
        return slurm._replace(ways=("pmi1", *slurm.ways) if "PMI_FD" in environ else slurm.ways)
    return Launcher(
        "mpiexec",
        int(environ["PMI_RANK"]),
        size,
        int(environ.get("MPI_LOCALRANKID", "0")),
        int(environ.get("MPI_LOCALNRANKS", "1")),
        ("pmi1",) if "PMI_FD" in environ else (),
    )


def _slurm(environ: Mapping[str, str]) -> Launcher:
    step = f"{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
    size = int(environ.get("SLURM_STEP_NUM_TASKS") or environ["SLURM_NTASKS"])
    counts = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    local_size = counts[int(environ.get("SLURM_NODEID", "0"))]
    first = _first_node(environ.get("SLURM_STEP_NODELIST", ""))
    ways = ("pmix", "local") if local_size == size else ("pmix",)
    return Launcher(
        "srun",
        int(environ["SLURM_PROCID"]),
        size,
        int(environ.get("SLURM_LOCALID", "0")),
        local_size,
        ways,
        f"slurm {environ.get('SLURM_CLUSTER_NAME', '')} {step}",
        Rendezvous((first,), _port(step)) if first else None,
        " (srun --mpi=pmi2 or --mpi=pmix needs none)",
    )


_READERS: Final[tuple[Callable[[Mapping[str, str]], Launcher], ...]] = (
    _open_mpi,
    _hydra,
    _slurm,
)


def completion_index(environ: Mapping[str, str]) -> str:
    """A pod's number within an indexed job of Kubernetes, "" elsewhere.

    Count and rendezvous are the manifest's to give, so this alone is no launcher.
    """
    return environ.get("JOB_COMPLETION_INDEX", "").strip()


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's `2(x3),1` as [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match or int(match[2] or 1) > 65536:
            raise ValueError(text)
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _first_node(nodes: str) -> str:
    """The first name in Slurm's list: `n[03-05,9],m1` gives `n03`."""
    match = re.match(r"[^,\[\]]+", nodes)
    if not match:
        return ""
    name = match[0]
    rest = nodes[match.end() :]
    while inside := re.match(r"\[([^\],-]+)[^\]]*\]([^,\[\]]*)", rest):
        name += inside[1] + inside[2]
        rest = rest[inside.end() :]
    return name


def _port(step: str) -> int:
    """A port that all tasks of a step compute alike, below the kernel's own choices."""
    return 20000 + zlib.crc32(step.encode()) % 10000
