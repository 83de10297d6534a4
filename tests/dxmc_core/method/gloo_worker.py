"""The multi-process tests' other processes: every case in worlds of 1..n gloo ranks, and what rank 0 found in
world_<n>.pt.

`python gloo_worker.py NUM_PROCESSES FOLDER`; world_0.pt is rank 0 without any process group.
"""

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.artifacts.matrices import Allocate
from dxmc_core.method import losses
from dxmc_core.method.distributed import (
    GlobalBatchNorm1d,
    all_gather_rows,
    all_reduce_sum,
    global_mean,
    rank,
    row_counts_of_ranks,
    rows_of_rank,
    world_size,
)
from dxmc_core.method.hyperparameters import Hyperparameters, method_settings
from dxmc_core.method.training import train
from dxmc_core.method.training_data import Batch, TrainingData

NUM_CLUSTERS, WIDTH, NUM_IMAGES, BATCH_SIZE = 5, 12, 151, 31
TRAINING_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "best": ("best", {"num_epochs": 4}),
    "dxmc_code": ("dxmc", {"fidelity": "code"}),
    "dxmc_paper_shared_trunk": ("dxmc", {"fidelity": "paper", "shared_trunk": True}),
    "mca": ("mca", {"adapter_width": 6, "confidence_threshold": 0.25, "learning_rate": 1e-2}),
    "sic": ("sic", {"nouns_per_cluster": 3, "pseudo_label_weight": 1.0}),
    "tac": ("tac", {}),
    "temi": ("temi", {"num_heads": 3, "hidden_width": 8, "bottleneck_width": 6, "learning_rate": 1e-2}),
    "turtle": ("turtle", {"spaces": "image_and_text", "steps_per_epoch": 5}),
}


def random_matrix(num_rows: int, width: int, *, seed: int) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def averaged_gradient(local: Tensor, num_rows: int) -> Tensor:
    """What DDP's mean makes of the ranks' gradients of their own rows, all rows together."""
    assert local.grad is not None
    return all_gather_rows(local.grad, row_counts=row_counts_of_ranks(num_rows)) / world_size()


def loss_cases(num_rows: int) -> dict[str, Tensor]:
    """Each loss and its gradient with respect to the logits of a global batch of `num_rows` rows."""
    found = {}
    share = rows_of_rank(num_rows)
    for name, loss in {
        "cluster_code": lambda a, b: losses.cluster_contrastive(a.softmax(1), b.softmax(1), temperature=0.5),
        "cluster_paper": lambda a, b: losses.cluster_contrastive(
            a.softmax(1), b.softmax(1), temperature=0.5, fidelity="paper"
        ),
        "entropy": lambda a, b: losses.assignment_entropy(a.softmax(1)) + 2 * losses.assignment_entropy(b.softmax(1)),
        "consistency": lambda a, b: losses.consistency(a.softmax(1), b.softmax(1)),
        "nt_xent_dot": lambda a, b: losses.instance_contrastive(a, b, temperature=0.5),
        "nt_xent_cosine": lambda a, b: losses.instance_contrastive(a, b, temperature=0.2, contrast="nt_xent_cosine"),
        "info_nce": lambda a, b: losses.instance_contrastive(
            a, b, temperature=0.2, contrast="info_nce", row_counts=row_counts_of_ranks(num_rows)
        ),
        "symmetric_info_nce": lambda a, b: losses.symmetric_info_nce(a, b, temperature=0.2),
        "soft_cross_entropy": lambda a, b: losses.soft_cross_entropy(a.log_softmax(1), b.softmax(1), weights=b[:, 0]),
        "temi": two_head_temi,
    }.items():
        first, second = (random_matrix(num_rows, NUM_CLUSTERS, seed=s)[share].requires_grad_() for s in (1, 2))
        value = loss(first, second)
        value.backward()
        found[f"{name}/{num_rows}"] = value.detach()
        found[f"{name}/{num_rows}/gradient"] = torch.cat([averaged_gradient(x, num_rows) for x in (first, second)], 1)
    return found


def two_head_temi(first: Tensor, second: Tensor) -> Tensor:
    """TEMI of two heads, of which the second has the logits of the first with another sign."""
    students = [torch.stack([rows, -rows]).log_softmax(2) for rows in (first, second)]
    teachers = [(2 * student).detach().log_softmax(2) for student in students]
    mean = torch.full((2, NUM_CLUSTERS), 1 / NUM_CLUSTERS, dtype=first.dtype)
    values, weight = losses.temi((students[0], students[1]), (teachers[0], teachers[1]), mean)
    return values[0] + 2 * values[1] + weight


def collective_cases() -> dict[str, Tensor]:
    """Plain collectives of rows that every rank has in another number."""
    num_rows = 7
    local = random_matrix(num_rows, 3, seed=5)[rows_of_rank(num_rows)].requires_grad_()
    gathered = all_gather_rows(local)
    (gathered.square().sum() + all_reduce_sum(local.sum(0)).pow(3).sum() + global_mean(local).exp().sum()).backward()
    return {"gathered": gathered.detach(), "gathered/gradient": averaged_gradient(local, num_rows)}


def batch_norm_case(num_rows: int) -> dict[str, Tensor]:
    """Batch norm of so few rows that ranks may have none, after a first batch that moves the running statistics."""
    norm = (GlobalBatchNorm1d if dist.is_initialized() else nn.BatchNorm1d)(WIDTH).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, WIDTH))
        norm.bias.copy_(torch.linspace(-1, 1, WIDTH))
    norm(3 + 50 * random_matrix(9, WIDTH, seed=7)[rows_of_rank(9)])
    share = rows_of_rank(num_rows)
    local = (100 + random_matrix(num_rows, WIDTH, seed=6))[share].requires_grad_()
    output = norm(local)
    weighted = (output.pow(3) * random_matrix(num_rows, WIDTH, seed=8)[share]).sum()
    all_reduce_sum(weighted[None]).square().sum().backward()
    found = {f"{key}/{num_rows}": value for key, value in norm.state_dict().items()}
    found[f"output/{num_rows}"] = all_gather_rows(output.detach(), row_counts=row_counts_of_ranks(num_rows))
    found[f"input_gradient/{num_rows}"] = averaged_gradient(local, num_rows)
    assert norm.weight.grad is not None
    found[f"weight_gradient/{num_rows}"] = all_reduce_sum(norm.weight.grad) / world_size()
    return found


def training_case(method: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """20 float64 steps, uneven last batches included: the loss of every step and what training ends with."""
    rows = random_matrix(NUM_IMAGES, 2 * WIDTH, seed=11)
    neighbors = torch.randint(NUM_IMAGES, (NUM_IMAGES, 4), generator=torch.Generator().manual_seed(12))
    images, texts = (nn.functional.normalize(half) for half in rows.split(WIDTH, dim=1))
    data = TrainingData(
        images,
        texts,
        neighbors,
        neighbors.flip(1).to(torch.int32),
        noun_embeddings=random_matrix(20, WIDTH, seed=13),
        noun_hypernyms=torch.tensor([[noun, noun + 10] for noun in range(10)]),
        selected_nouns=random_matrix(20, WIDTH, seed=14),
    )
    published = method_settings(method, NUM_CLUSTERS, NUM_IMAGES, **overrides)
    assert isinstance(published, Hyperparameters)
    settings = replace(published, num_epochs=5, batch_size=BATCH_SIZE)
    objective = settings.objective(WIDTH, NUM_CLUSTERS, seed=3).double()
    step_losses: list[Tensor] = []
    compute_terms = objective.loss_terms

    def recorded_terms(batch: Batch) -> dict[str, Tensor]:
        terms = compute_terms(batch)
        step_losses.append(terms["total"].detach())
        return terms

    objective.loss_terms = recorded_terms  # type: ignore[method-assign]
    reports = train(objective, data, settings, seed=4)
    return {
        "losses": torch.stack(step_losses),
        "weights": torch.cat([value.double().reshape(-1) for value in objective.state_dict().values()]),
        "cluster_sizes": torch.tensor([report.cluster_sizes for report in reports]),
        "num_changed": torch.tensor([report.num_changed or 0 for report in reports]),
    }


def shared_arrays_case() -> dict[str, Tensor]:
    """Arrays that one rank of a host makes and changes afterwards: what all ranks see, averaged."""
    rows = random_matrix(6, 3, seed=14).numpy()
    host = HostArrays(rank=rank(), local_rank=rank())

    def build(allocate: Allocate) -> dict[str, np.ndarray]:
        large = allocate(rows.shape, rows.dtype)
        large[...] = rows
        return {
            "large": large,
            "small": np.arange(8, dtype=np.int32).reshape(4, 2),
            "empty": np.empty((0, 2), np.int32),
        }

    arrays = host.share(("absent", "large", "small", "empty"), build)
    assert sorted(arrays) == ["empty", "large", "small"]
    assert arrays["empty"].shape == (0, 2)
    if rank() == 0:
        arrays["large"][0] = 7
    all_reduce_sum(torch.ones(1))  # Nobody looks before rank 0 has changed it.
    seen = {f"shared/{name}": torch.from_numpy(arrays[name].astype(np.float64)) for name in ("large", "small")}
    averaged = {name: all_reduce_sum(matrix) / world_size() for name, matrix in seen.items()}
    host.close()
    return averaged | {"shared/after_closing": torch.from_numpy(arrays["large"].copy())}


def run_cases() -> dict[str, Any]:
    found: dict[str, Any] = collective_cases() | shared_arrays_case()
    for num_rows in (3, 22):
        found |= loss_cases(num_rows) | batch_norm_case(num_rows)
    return found | {name: training_case(*case) for name, case in TRAINING_CASES.items()}


def take_part(own_rank: int, num_processes: int, folder: Path) -> None:
    """Be this rank in every world that has it."""
    torch.set_num_threads(1)
    if own_rank == 0:
        torch.save(run_cases(), folder / "world_0.pt")
    for num_ranks in range(own_rank + 1, num_processes + 1):
        store = f"file://{folder}/store_{num_ranks}"
        dist.init_process_group("gloo", init_method=store, rank=own_rank, world_size=num_ranks)
        found = run_cases()
        if own_rank == 0:
            torch.save(found, folder / f"world_{num_ranks}.pt")
        dist.destroy_process_group()


def main(num_processes: int, folder: Path) -> int:
    # Forked before torch has started any thread, so that torch is imported once and not once a process.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=take_part, args=(index, num_processes, folder)) for index in range(num_processes)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(abs(process.exitcode or 0) for process in ranks)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
