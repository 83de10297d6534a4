"""What a run needs: time, memory and disk of each stage, for `dxmc preflight`. Each stage counts its own (`cost`).

Operations and bytes follow from the sizes; the rates at which they are done are those of `Machine`.
"""

from dataclasses import asdict
from typing import Any

from dxmc_core.stages import (
    assign_clusters,
    build_semantic_space,
    embed_images,
    mine_neighbors,
    suggest_k,
    train_heads,
    write_report,
)
from dxmc_core.workload import GIB, PROCESS_BYTES, RAY_BYTES, Machine, StageCost, Workload

#: The command imports its libraries, and then Ray's own processes start, in the time of so many others.
_PROCESSES_BEFORE_STAGES = 2.5


def estimate(load: Workload, machine: Machine) -> list[StageCost]:
    """The stages in their order, after the start of Ray."""
    stages = [
        embed_images,
        *([suggest_k] if load.chooses_k else []),
        *([build_semantic_space] if load.num_nouns else []),
        mine_neighbors,
        train_heads,
        assign_clusters,
        write_report,
    ]
    return [_start(machine), *(stage.cost(load, machine) for stage in stages)]


def _start(machine: Machine) -> StageCost:
    parts = (machine.starting(_PROCESSES_BEFORE_STAGES),)
    return StageCost("start of Ray", parts, RAY_BYTES + PROCESS_BYTES, note="a cluster that is there is joined sooner")


def warnings_of(costs: list[StageCost], machine: Machine) -> list[str]:
    """What would not fit, one sentence each."""
    found = []
    for cost in costs:
        if cost.memory_bytes > machine.memory_bytes:
            found.append(
                f"{cost.stage} needs about {cost.memory_bytes / GIB:.1f} GiB of memory on a node, which has "
                f"{machine.memory_bytes / GIB:.1f}"
            )
        if cost.temporary_bytes > machine.temporary_bytes:
            found.append(
                f"{cost.stage} writes about {cost.temporary_bytes / GIB:.1f} GiB of temporary files, TMPDIR has "
                f"{machine.temporary_bytes / GIB:.1f} free"
            )
    written = sum(cost.disk_bytes for cost in costs)
    if machine.disk_bytes is not None and written > machine.disk_bytes:
        found.append(
            f"the run directory takes about {written / GIB:.1f} GiB, its disk has {machine.disk_bytes / GIB:.1f} free"
        )
    return found


def as_document(load: Workload, machine: Machine) -> dict[str, Any]:
    """The estimate as JSON types."""
    costs = estimate(load, machine)
    seconds = sum(cost.seconds for cost in costs)
    gpu_hours = seconds / 3600 * machine.gpus * machine.nodes
    return {
        "workload": asdict(load),
        "machine": asdict(machine),
        "stages": [cost.as_document() for cost in costs],
        "seconds": seconds,
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "memory_bytes": max(cost.memory_bytes for cost in costs),
        "gpu_hours": gpu_hours,
        "dollars": gpu_hours * machine.gpu_dollars_per_hour,
        "warnings": warnings_of(costs, machine),
    }
