"""The stages as they are planned, one module for each; what each module has is `Plan`."""

from ray_jobs.plan import Plan
from ray_jobs.plans import (
    assign_clusters,
    build_semantic_space,
    embed_images,
    mine_neighbors,
    suggest_k,
    train_heads,
    write_report,
)

PLANS: tuple[Plan, ...] = (
    embed_images,
    suggest_k,
    build_semantic_space,
    mine_neighbors,
    train_heads,
    assign_clusters,
    write_report,
)
_BY_NAME = {plan.NAME: plan for plan in PLANS}


def plan_of(stage: str) -> Plan:
    """What is known of a stage."""
    return _BY_NAME[stage]
