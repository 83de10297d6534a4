"""One of two gloo processes that train as a stage.

`python gloo_train_worker.py JOB RANK STORE EPOCH_TO_DIE_IN NUM_UNSEEN`: of the checkpoints the newest NUM_UNSEEN are
not in its listing.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from dxmc_core.stages import train_heads as stage
from dxmc_core.stages.train_heads import train_heads


def main(job: Path, rank: int, store: str, epoch_to_die_in: int, num_unseen: int) -> None:
    torch.set_num_threads(1)
    listed = stage._checkpoints
    stage._checkpoints = lambda job: listed(job)[: -num_unseen or None]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

    def die_in_epoch(report):
        if report.epoch == epoch_to_die_in - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    own_job = pickle.loads(job.read_bytes())
    train_heads(own_job, rank=rank, local_rank=rank, on_epoch=die_in_epoch)
    dist.destroy_process_group()
    # PyTorch (2.15) may still abort when Python ends, over a thread of gloo's; training is through by then.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
