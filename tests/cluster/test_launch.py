# SPDX-License-Identifier: GPL-2.0-or-later
"""From words and variables to a plan: precedence, refusals with their mend, launchers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.cluster import auth, launch
from supervisor.cluster.launch import LaunchOptions
from supervisor.cluster.launchers import detect
from supervisor.cluster.plan import ClusterPlan, Rendezvous, VirtualPlan
from supervisor.errors import DsmsupError, UsageError

CPUS = (0, 1, 2, 3)

# What the launchers really set (Open MPI 4.1.4, MPICH 4.0.2, Slurm 22.05.8), shortened.
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_ess_base_jobid": "2116812801",
    "OMPI_MCA_orte_precondition_transports": "667f5f6c24e0c97b-e16846ce2f51dbb5",
}
HYDRA = {
    "PMI_RANK": "0",
    "PMI_SIZE": "2",
    "PMI_FD": "6",
    "MPI_LOCALRANKID": "0",
    "MPI_LOCALNRANKS": "2",
}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_STEP_NODELIST": "node[07-09]",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "0",
}


def no_share(*_: Any) -> str:
    raise AssertionError("nothing was to be exchanged")


def plan(
    options: dict[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    share: launch.Share = no_share,
    cpus: tuple[int, ...] = CPUS,
    machine_cpus: int = 8,
) -> VirtualPlan | ClusterPlan:
    return launch.plan(LaunchOptions(**options or {}), environ or {}, cpus, share, machine_cpus)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    auth.keygen(tmp_path / "key")
    return str(tmp_path / "key")


def cluster_words(key_file: str) -> dict[str, Any]:
    return {"hosts": 3, "rendezvous": "node1:7000", "key_file": key_file}


# Virtual hosts ------------------------------------------------------------------------


@pytest.mark.parametrize(("cpus", "hosts"), [((5,), 2), ((0, 1), 2), (CPUS, 4)])
def test_nothing_named_means_virtual_hosts(cpus: tuple[int, ...], hosts: int) -> None:
    found = plan(cpus=cpus)
    assert isinstance(found, VirtualPlan) and found.hosts == hosts == len(found.cpu_sets)
    assert {cpu for share in found.cpu_sets for cpu in share} == set(cpus)


def test_n_and_its_variable() -> None:
    assert plan({"n": 1}) == VirtualPlan(1, (CPUS,))
    assert plan({"n": "2"}) == VirtualPlan(2, ((0, 1), (2, 3)))
    assert plan({}, {"DSMSUP_N": " 2 "}) == VirtualPlan(2, ((0, 1), (2, 3)))
    assert plan({"n": 1}, {"DSMSUP_N": "2"}) == VirtualPlan(1, (CPUS,))
    assert plan({}, {"DSMSUP_N": ""}) == plan()
    patient = VirtualPlan(2, ((0, 1), (2, 3)), 7.5)
    assert plan({"n": 2, "join_timeout": "7.5"}) == patient
    assert plan({"n": 2}, {"DSMSUP_JOIN_TIMEOUT": "7.5"}) == patient


def test_the_default_has_a_bound() -> None:
    found = plan(cpus=tuple(range(256)))
    assert found.hosts == 64


@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        ({"n": 0}, {}, "-n 0: the number of hosts is 1 to 64"),
        ({"n": -3}, {}, "-n -3: the number"),
        ({"n": 65}, {}, "-n 65: the number of hosts is 1 to 64"),
        ({"n": "two"}, {}, "-n two: not a number"),
        ({"n": "1_0"}, {}, "-n 1_0: not a number"),
        ({"n": "\u0662"}, {}, "-n \u0662: not a number"),
        ({"n": 2, "join_timeout": "1_0"}, {}, "--join-timeout 1_0: give seconds"),
        ({"hosts": 2, "rendezvous": "a:\u0662"}, {}, "a port from 1 to 65535"),
        ({}, {"DSMSUP_N": "0"}, "DSMSUP_N 0: the number"),
        ({"n": 2, "hosts": 2}, {}, "-n makes virtual hosts here, --hosts names a cluster"),
        ({}, {"DSMSUP_N": "2", "DSMSUP_HOSTS": "2"}, "DSMSUP_N makes .* DSMSUP_HOSTS names"),
        ({"n": 2, "key_file": "k"}, {}, "--key-file has no meaning beside -n"),
        ({"host_id": 1}, {}, "--host-id needs a cluster: give --hosts N --rendezvous HOST:PORT"),
        ({"hosts": 2}, {}, "--hosts needs a place to meet: give --rendezvous HOST:PORT"),
        ({"rendezvous": "a:1"}, {}, "--rendezvous needs the number of hosts"),
        ({"hosts": 2, "rendezvous": "a:1"}, {}, "--hosts needs a key: make one with `dsmsup key"),
        ({}, {"DSMSUP_HOSTS": "2"}, "DSMSUP_HOSTS needs a place to meet"),
        ({"hosts": 0}, {}, "--hosts 0: the number of hosts is 1 to 64"),
        ({"hosts": 99, "rendezvous": "a:1"}, {}, "--hosts 99: "),
        ({"hosts": 2, "rendezvous": "a"}, {}, "--rendezvous a: give HOST:PORT"),
        ({"hosts": 2, "rendezvous": "a:"}, {}, "give HOST:PORT"),
        ({"hosts": 2, "rendezvous": "a:0"}, {}, "a port from 1 to 65535"),
        ({"hosts": 2, "rendezvous": "a:65536"}, {}, "a port from 1 to 65535"),
        ({"hosts": 2, "rendezvous": "a:http"}, {}, "give HOST:PORT"),
        ({"hosts": 2, "rendezvous": ":7000"}, {}, "names no host"),
        ({"hosts": 2, "rendezvous": "0.0.0.0:7000"}, {}, "names no host"),
        ({"hosts": 2, "rendezvous": "[::]:7000"}, {}, "names no host"),
        ({"hosts": 2, "rendezvous": "fd00::1:7000"}, {}, r"write IPv6 as \[ADDRESS\]:PORT"),
        ({"hosts": 2, "rendezvous": "[fe80::1]:7000"}, {}, r"interface.*\[fe80::1%INTERFACE\]"),
        ({"hosts": 2, "rendezvous": "a:1", "host_id": 2}, {}, "--host-id 2: .* 2 hosts is 0 to 1"),
        ({"hosts": 2, "rendezvous": "a:1", "host_id": -1}, {}, "--host-id -1: "),
        ({"hosts": 2, "rendezvous": "a:1", "key_file": "/nonexistent"}, {}, "no key file /nonex"),
        ({"hosts": 2, "rendezvous": "a:1", "key_file": ""}, {}, "--key-file names no file"),
        ({"join_timeout": 0}, {}, "--join-timeout 0: give seconds, above 0"),
        ({"join_timeout": "soon"}, {}, "--join-timeout soon: give seconds"),
        ({"join_timeout": "nan"}, {}, "--join-timeout nan: give seconds"),
        ({}, {"DSMSUP_JOIN_TIMEOUT": "-5"}, "DSMSUP_JOIN_TIMEOUT -5: give seconds"),
    ],
)
def test_what_cannot_be_is_one_line_with_its_mend(
    options: dict[str, Any], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plan(options, environ)
    assert "\n" not in str(caught.value)


def test_a_habit_in_the_environment_is_no_mistake() -> None:
    environ = {"DSMSUP_KEY_FILE": "/nonexistent", "DSMSUP_HOST_ID": "1"}
    assert plan({}, environ) == plan()
    assert plan({"n": 2}, environ | {"DSMSUP_HOSTS": "9"}) == plan({"n": 2})


# A cluster ----------------------------------------------------------------------------


def test_the_cluster_form(key_file: str) -> None:
    words = cluster_words(key_file)
    found = plan(words)
    assert isinstance(found, ClusterPlan)
    assert (found.hosts, found.host_id, found.cpus) == (3, None, CPUS)
    assert found.rendezvous == Rendezvous(("node1",), 7000) and found.listener is None
    assert found.key == auth.read_key(key_file) and found.key.decode() not in repr(found)
    assert found.join_timeout_s == 60
    variables = {
        "DSMSUP_HOSTS": "3",
        "DSMSUP_RENDEZVOUS": "node1:7000",
        "DSMSUP_KEY_FILE": key_file,
    }
    assert plan({}, variables) == found
    named = plan({"host_id": 2, "join_timeout": 1.5}, variables)
    assert isinstance(named, ClusterPlan)
    assert (named.host_id, named.join_timeout_s) == (2, 1.5)
    assert plan({"hosts": 2}, variables).hosts == 2
    assert plan({"hosts": 2, **{"rendezvous": "[fd00::1]:80"}}, variables).hosts == 2
    assert plan({"n": 1}, variables) == VirtualPlan(1, (CPUS,))
    assert plan(words, {"DSMSUP_N": "7"}) == found


def test_ipv6_and_one_host(key_file: str) -> None:
    found = plan({**cluster_words(key_file), "rendezvous": "[fd00::1]:7000"})
    assert isinstance(found, ClusterPlan)
    assert found.rendezvous == Rendezvous(("fd00::1",), 7000)
    assert str(found.rendezvous) == "[fd00::1]:7000"
    assert plan({"hosts": 1}) == VirtualPlan(1, (CPUS,))


def test_an_indexed_job(key_file: str) -> None:
    environ = {
        "DSMSUP_HOSTS": "3",
        "DSMSUP_RENDEZVOUS": "job-0.svc:7000",
        "DSMSUP_KEY_FILE": key_file,
        "JOB_COMPLETION_INDEX": "2",
    }
    found = plan({}, environ)
    assert isinstance(found, ClusterPlan) and found.host_id == 2
    chosen = plan({"host_id": 1}, environ)
    assert isinstance(chosen, ClusterPlan) and chosen.host_id == 1
    with pytest.raises(UsageError, match="JOB_COMPLETION_INDEX 3: the host id among 3 hosts"):
        plan({}, environ | {"JOB_COMPLETION_INDEX": "3"})
    assert plan({}, {"JOB_COMPLETION_INDEX": "2"}) == plan(), "an index alone names no cluster"


# Launchers ----------------------------------------------------------------------------


class Job:
    """A launcher's exchange: rank 0's text is kept for the others."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[tuple[Any, ...]] = []

    def share(
        self,
        way: str,
        job: str,
        rank: int,
        size: int,
        text: str,
        environ: Mapping[str, str],
        wait_s: float,
    ) -> str:
        self.calls.append((way, rank, size, wait_s))
        if rank == 0:
            self.text = text
        return self.text


@pytest.mark.parametrize(
    ("environ", "rank_name", "way"),
    [(OPEN_MPI, "OMPI_COMM_WORLD_RANK", "local"), (HYDRA, "PMI_RANK", "pmi1")],
)
def test_a_launcher_needs_no_option(environ: dict[str, str], rank_name: str, way: str) -> None:
    job = Job()
    home = plan({}, environ | {rank_name: "0"}, job.share)
    other = plan({}, environ | {rank_name: "1", "DSMSUP_JOIN_TIMEOUT": "7"}, job.share)
    assert isinstance(home, ClusterPlan) and isinstance(other, ClusterPlan)
    assert home.listener is not None
    try:
        assert (home.hosts, home.host_id, other.hosts, other.host_id) == (2, 0, 2, 1)
        assert home.key == other.key and len(home.key) >= 32
        assert home.rendezvous == other.rendezvous and other.listener is None
        address, port = home.listener.getsockname()
        assert other.rendezvous == Rendezvous((address,), port)
        assert address == "127.0.0.1", "all on one node: nobody else needs to reach us"
        assert home.home_listens and other.home_listens
        assert job.calls == [(way, 0, 2, 60.0), (way, 1, 2, 7.0)]
    finally:
        home.listener.close()


def test_over_several_nodes_home_tells_all_its_addresses() -> None:
    job = Job()
    environ = HYDRA | {"MPI_LOCALNRANKS": "1"}
    home = plan({}, environ, job.share)
    assert isinstance(home, ClusterPlan) and home.listener is not None
    try:
        assert home.listener.getsockname()[0] in ("::", "0.0.0.0")
        assert home.rendezvous.hosts and home.rendezvous.port == home.listener.getsockname()[1]
        assert not {"0.0.0.0", "::"} & set(home.rendezvous.hosts)
    finally:
        home.listener.close()


def test_what_is_given_under_a_launcher_is_kept(key_file: str) -> None:
    job = Job()
    environ = HYDRA | {"DSMSUP_KEY_FILE": key_file}
    home = plan({"rendezvous": "node1:7000"}, environ)
    assert isinstance(home, ClusterPlan)
    assert (home.host_id, home.key) == (0, auth.read_key(key_file))
    keyed = plan({}, environ, job.share)
    assert isinstance(keyed, ClusterPlan) and keyed.key == auth.read_key(key_file)
    assert keyed.listener is not None
    keyed.listener.close()
    placed = plan({"rendezvous": "node1:7000"}, HYDRA, job.share)
    assert isinstance(placed, ClusterPlan) and placed.listener is None
    assert placed.rendezvous == Rendezvous(("node1",), 7000) and not placed.home_listens
    wider = plan({"hosts": 5, "rendezvous": "node1:7000", "host_id": 4}, environ)
    assert isinstance(wider, ClusterPlan) and (wider.hosts, wider.host_id) == (5, 4)
    assert plan({"n": 2}, environ) == plan({"n": 2})
    with pytest.raises(UsageError, match="not those that mpiexec started: give --rendezvous"):
        plan({"host_id": 1}, HYDRA, job.share)


def test_srun_over_several_nodes_asks_for_a_key_file(key_file: str) -> None:
    with pytest.raises(UsageError, match=r"srun shares no secret .*DSMSUP_KEY_FILE .*--mpi=pmi2"):
        plan({}, SLURM)
    found = plan({}, SLURM | {"DSMSUP_KEY_FILE": key_file})
    first = plan({}, SLURM | {"DSMSUP_KEY_FILE": key_file, "SLURM_PROCID": "0"})
    assert isinstance(found, ClusterPlan) and isinstance(first, ClusterPlan)
    assert (found.hosts, found.host_id, first.host_id) == (3, 2, 0)
    assert found.rendezvous == first.rendezvous
    assert found.rendezvous.hosts == ("node07",) and 20000 <= found.rendezvous.port < 30000
    job = Job()
    pmi = plan({}, SLURM | {"PMI_RANK": "2", "PMI_SIZE": "3", "PMI_FD": "9"}, served_by(job))
    assert isinstance(pmi, ClusterPlan) and pmi.host_id == 2


def served_by(job: Job) -> launch.Share:
    job.text = f"{'ab' * 32}@7000@node07"
    return job.share


def test_a_job_whose_first_process_is_something_else_is_told() -> None:
    job = Job()
    job.text = "hello"
    with pytest.raises(UsageError, match="no dsmsup of this version"):
        plan({}, HYDRA | {"PMI_RANK": "1"}, job.share)


def test_home_closes_its_listener_when_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = []
    real = launch.listen_on_loopback
    monkeypatch.setattr(
        launch, "listen_on_loopback", lambda: listeners.append(real()) or listeners[-1]
    )

    def fail(*_: Any) -> str:
        raise DsmsupError("nobody came")

    with pytest.raises(DsmsupError, match="nobody came"):
        plan({}, HYDRA, fail)
    assert listeners[0].fileno() == -1


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OMPI_COMM_WORLD_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "x", "PMI_SIZE": "2"},
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # A batch script.
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x"},
        SLURM | {"SLURM_NODEID": "7"},
    ],
)
def test_leftovers_are_no_launcher(environ: dict[str, str]) -> None:
    assert detect(environ) is None
    assert plan({}, environ) == plan()


def test_mpirun_within_a_slurm_job_is_mpirun() -> None:
    found = detect(SLURM | OPEN_MPI)
    assert found is not None and (found.name, found.rank, found.size) == ("mpirun", 1, 2)
    found = detect(SLURM | HYDRA)
    assert found is not None and (found.name, found.rank) == ("mpiexec", 0)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("vm", "vm"),
        ("node[07-09]", "node07"),
        ("n[3,5-9],m1", "n3"),
        ("a-b-1,c", "a-b-1"),
        ("rack[1-2]node[01-16]", "rack1node01"),
        ("n[1-3].example.org", "n1.example.org"),
    ],
)
def test_first_node_of_a_slurm_list(nodes: str, first: str) -> None:
    found = detect(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found is not None and found.fallback is not None
    assert found.fallback.hosts == (first,)


def test_several_unbound_processes_of_one_node_share_its_processors() -> None:
    job = served_by(Job())
    unbound = plan({}, OPEN_MPI, job, machine_cpus=4)
    bound = plan({}, OPEN_MPI, job, cpus=(2, 3), machine_cpus=4)
    assert isinstance(unbound, ClusterPlan) and isinstance(bound, ClusterPlan)
    assert unbound.cpus == bound.cpus == (2, 3)
    alone = OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}
    alone |= {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert plan({}, alone) == VirtualPlan(1, (CPUS,))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(OPEN_MPI | HYDRA | SLURM)), st.text(max_size=9)))
def test_no_environment_makes_detection_fail(environ: dict[str, str]) -> None:
    detect(environ)
    detect(SLURM | environ)
