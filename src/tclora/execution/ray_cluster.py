"""The connection to a Ray cluster: found or started, checked node by node, and left as it was.

In: an address and what one job needs. Out: a `RayCluster`. Refused: ray not installed, no cluster at the address, a
cluster on which no node has room for a job, and nodes that break the contract of `contract.py`.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tclora.errors import ConfigError, JobFailedError, MissingExtraError, TcLoraError
from tclora.execution.contract import Contract, Reply, new_contract

__all__ = ["RayCluster", "Request", "Resources", "connect", "import_ray", "room_on"]

_PROBE_S = 180.0
"""Seconds for every node to start a worker and answer; a cold import of torch from network storage takes a minute."""

_KNOCK_S = 10.0


@dataclass(frozen=True)
class Resources:
    """What one job takes on its node."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class RayCluster:
    """A cluster whose nodes were checked."""

    contract: Contract
    resources: Resources
    slots: int
    is_ours: bool
    """Started or connected to by us, so ours to leave."""

    def close(self) -> None:
        """Leave the cluster; one started for this run ends."""
        self.contract.clear()
        if self.is_ours:
            import_ray().shutdown()


@dataclass(frozen=True)
class Request:
    """What is asked of a cluster; None for as many workers as it has room for, and for one thread each."""

    address: str
    folder: Path
    """The run's folder, which every node must see."""
    reads: tuple[Path, ...] = ()
    """Folders outside of it that jobs read."""
    workers: int | None = None
    threads: int | None = None
    gpus: bool = True
    """Whether a job wants a GPU, where the cluster has any."""


def connect(request: Request) -> RayCluster:
    """Connect to the cluster at the address, or start one here for `local`, and check every node.

    Raises:
        MissingExtraError: ray is not installed.
        ConfigError: no cluster answers, no node has room for a job, or a node breaks the contract.
    """
    ray, cpus = import_ray(), request.threads or 1
    is_ours = not ray.is_initialized()
    if is_ours:
        _join(ray, request.address, cpus)
    try:
        nodes = _alive(ray)
        resources = Resources(cpus, int(request.gpus and any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)))
        room = room_on(ray, resources)
        if not room:
            raise _no_room(nodes, resources)
        contract = new_contract(request.folder, request.reads)
        _check_nodes(ray, contract, nodes)
    except BaseException:
        if is_ours:
            ray.shutdown()
        raise
    return RayCluster(contract, resources, request.workers or room, is_ours)


def room_on(ray: Any, wanted: Resources) -> int:
    """How many jobs the nodes that are alive now could hold."""
    return sum(_room(node["Resources"], wanted) for node in _alive(ray))


def import_ray() -> Any:
    """The ray package, told not to report usage."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "jobs cannot run on a cluster without ray",
            where="execution.executor",
            found="ray is not installed",
            expected="the 'ray' extra",
            do="pip install 'tclora[ray]'",
        ) from None
    return ray


def _join(ray: Any, address: str, cpus: int) -> None:
    options: dict[str, Any] = {"address": address, "namespace": "tclora", "log_to_driver": False}
    if address == "local":
        options |= {"include_dashboard": False, "num_cpus": max(cpus, os.cpu_count() or 1)}
    try:
        _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        with _own_signals():
            # Ray's own log lines would tear the progress bars; its errors arrive as exceptions.
            ray.init(logging_level="ERROR", **options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError and gRPC's own, by what is wrong
        raise ConfigError(
            "no Ray cluster can be reached",
            where="execution.address",
            found=f"{address}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
            expected="a running cluster",
            do="start one (`ray start --head`), correct the address, or set execution.address=local; "
            "where the cluster asks for a token, set RAY_AUTH_MODE=token here too",
        ) from error


def _knock(address: str) -> None:
    """See whether anything listens at `host:port`: Ray itself would try for minutes, without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts its own handler on SIGTERM; whoever calls us keeps theirs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _room(offered: dict[str, float], wanted: Resources) -> int:
    by_cpu = int(offered.get("CPU", 0) // wanted.cpus)
    return min(by_cpu, int(offered.get("GPU", 0))) if wanted.gpus else by_cpu


def _no_room(nodes: list[dict[str, Any]], wanted: Resources) -> ConfigError:
    offers = [f"{node['NodeManagerAddress']}: {node['Resources'].get('CPU', 0):.0f} CPUs" for node in nodes]
    return ConfigError(
        "no node of the cluster has room for a job",
        where="execution.threads_per_worker",
        found="; ".join(offers) or "no node",
        expected=f"a node with {wanted.cpus} CPUs" + (" and a GPU" if wanted.gpus else ""),
        do="lower execution.threads_per_worker, or add a node",
    )


def _check_nodes(ray: Any, contract: Contract, nodes: list[dict[str, Any]]) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(_probe)
    asked = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        asked[remote.options(scheduling_strategy=where).remote(contract, node["NodeID"])] = node
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    for ref in answered:
        contract.confirm(_reply(ray, ref, asked[ref]))
    if silent:
        raise JobFailedError(
            "nodes of the cluster do not answer",
            where=", ".join(asked[ref]["NodeManagerAddress"] for ref in silent),
            found=f"no answer within {_PROBE_S:.0f} s",
            do="look at `ray status`, and restart Ray on these nodes",
        )


def _probe(contract: Contract, node: str) -> Reply:
    return contract.answer(node)


def _reply(ray: Any, ref: Any, node: dict[str, Any]) -> Reply:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, TcLoraError):
            raise cause from None
        raise ConfigError(
            "a node of the cluster cannot run tclora",
            where=node["NodeManagerAddress"],
            found=str(error).strip().splitlines()[-1][:300],
            expected="the same tclora as on the machine that started the run",
            do="install tclora in the environment that Ray runs in, on every node",
        ) from error
