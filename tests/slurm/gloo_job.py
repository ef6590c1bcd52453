"""What DistributedDataParallel needs of a cluster, in a few lines: an all-reduce over all ranks in every step."""

import os
import time

import torch
import torch.distributed as dist


def train(run, *, start=1.0, steps=6, every=2, pause=0.0):
    dist.init_process_group("gloo")
    assert (dist.get_rank(), dist.get_world_size()) == (run.rank, run.world_size)
    state = run.resume()
    step = state["step"] if state else 0
    print(f"rank {run.rank} of {run.world_size} on {os.environ['SLURMD_NODENAME']} starting at {step}", flush=True)
    while step < steps:
        step += 1
        time.sleep(pause)
        share = torch.tensor([start / run.world_size, float(run.should_stop())])
        dist.all_reduce(share)  # all ranks stop at the same step, or none
        run.log(loss=share[0] / step)
        if share[1] or step % every == 0:
            run.save({"step": step}, epoch=step)
    dist.destroy_process_group()
