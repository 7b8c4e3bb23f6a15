"""Whether the nodes of a cluster have what processes on it are to reserve."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import ray
from attrs import frozen

# What Ray's first autoscaler calls the nodes of a cluster that it only watches.
_WATCHED = re.compile(r"node_[0-9a-f]+")
_NAMES = {"CPU": "num_cpus", "GPU": "num_gpus"}


@frozen
class Reservation:
    """What each of some equal processes reserves.

    Attributes:
        what: the processes, for messages.
        amounts: by Ray's name of the resource.
        count: of the processes.
    """

    what: str
    amounts: Mapping[str, float]
    count: int = 1

    @classmethod
    def of(
        cls, what: str, num_cpus: float, num_gpus: float, resources: Mapping[str, float], *, count: int = 1
    ) -> "Reservation":
        """From the options of a process."""
        amounts = {"CPU": num_cpus, "GPU": num_gpus, **resources}
        return cls(what, {name: amount for name, amount in amounts.items() if amount > 0}, count)


def nodes() -> list[dict[str, float]]:
    """What each living node of the connected cluster has, used or not."""
    return [each["Resources"] for each in ray.nodes() if each["Alive"]]


def may_grow() -> bool:
    """Whether an autoscaler may start nodes for the connected cluster: new ones tell of groups, old ones of types."""
    # Ray has no public way to ask. Where another release has moved this, nothing is refused.
    try:
        from ray._private.state import state  # noqa: PLC0415
        from ray.experimental.internal_kv import _internal_kv_get  # noqa: PLC0415
    except ImportError:
        return True
    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        return True
    report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report") or {}
    return not all(map(_WATCHED.fullmatch, report.get("active_nodes") or ()))


def shortage(wanted: Sequence[Reservation], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """What these nodes can never run together, and what they have; None if nothing of the kind is certain."""
    names = sorted({name for each in wanted for name in each.amounts}, key=lambda name: (name not in _NAMES, name))
    have = " | ".join(sorted({_listed({name: node.get(name, 0) for name in names}) for node in nodes}))
    for each in wanted:
        if each.count and not any(_holds(node, each.amounts) for node in nodes):
            most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in each.amounts}
            lacking = {name: amount for name, amount in each.amounts.items() if amount > most[name]}
            return (
                f"{each.what}: got {_listed(each.amounts)}, but no node has {_listed(lacking or each.amounts)}"
                f"{'' if lacking else ' together'}; nodes have: {have}; lower it, or add a node that has it"
            )
    for name in names:
        total = sum(each.count * each.amounts.get(name, 0) for each in wanted)
        there = sum(node.get(name, 0) for node in nodes)
        if total > there:
            parts = ", ".join(
                f"{each.what} {each.count} x {each.amounts[name]:g}" for each in wanted if each.amounts.get(name)
            )
            label = _NAMES.get(name, name)
            return f"{label}: {parts} are {total:g}, but all nodes together have {there:g}; lower one, or add nodes"
    return None


def free() -> str:
    """What is not reserved in the connected cluster, of cores, accelerators and further resources of nodes."""
    return _listed(_of_interest(ray.available_resources().items())) or "nothing"


def _of_interest(items: Iterable[tuple[str, float]]) -> dict[str, float]:
    own = ("node:", "memory", "object_store_memory")
    return {name: amount for name, amount in items if not name.startswith(own)}


def _holds(node: Mapping[str, float], amounts: Mapping[str, float]) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in amounts.items())


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{_NAMES.get(name, name)} {amount:g}" for name, amount in amounts.items())
