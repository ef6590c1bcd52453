"""The network of jobs/digits.py, trained by several processes at once, here or on several nodes.

    dlcluster sweep sweeps/ddp.yaml

`launch: {gpus: 2}` or `{processes_per_node: 2}` starts `train` once for each process, and sets what torch.distributed
wants to know. All ranks call the same functions of `run`; only those of rank 0 write.
"""

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from jobs.digits import TRAIN, VALIDATION, evaluate, load_part, make_optimizer


def train(run, *, lr=0.01, hidden=64, epochs=15, batch_size=64, optimizer="sgd", momentum=0.9, save_every=5):
    use_cuda = torch.cuda.is_available()
    device = torch.device("cuda", run.local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    meeting_point = dist.HashStore() if run.world_size == 1 else None  # None: where MASTER_ADDR and MASTER_PORT say
    dist.init_process_group(
        "nccl" if use_cuda else "gloo", store=meeting_point, rank=run.rank, world_size=run.world_size
    )
    images, labels = load_part(TRAIN, device)
    validation = load_part(VALIDATION, device)

    torch.manual_seed(run.seed)  # the same first weights in all ranks
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)).to(device)
    parallel = DistributedDataParallel(model)
    descent = make_optimizer(optimizer, model.parameters(), lr, momentum, 0.0)

    state = run.resume()  # the same checkpoint in all ranks
    if state:
        model.load_state_dict(state["model"])
        descent.load_state_dict(state["optimizer"])

    for epoch in range(state.epoch if state else 0, epochs):
        total = torch.zeros((), device=device)
        for batch in shuffled(run.seed, epoch, len(images)).split(batch_size):
            share = batch.tensor_split(run.world_size)[run.rank].to(device)
            loss = cross_entropy(parallel(images[share]), labels[share], reduction="sum")
            descent.zero_grad()
            (loss * run.world_size / len(batch)).backward()  # the mean over the ranks is the mean over the batch
            descent.step()
            total += loss.detach()

        dist.all_reduce(total)
        val_loss, correct = evaluate(model, *validation)
        accuracy = correct.double().mean()
        run.log(epoch=epoch + 1, train_loss=total / len(images), val_loss=val_loss, val_accuracy=accuracy)
        if epoch + 1 == epochs:
            run.predictions("validation", VALIDATION, correct=correct)
        if should_all_stop(run, device) or (save_every and (epoch + 1) % save_every == 0):
            run.save({"model": model.state_dict(), "optimizer": descent.state_dict()}, epoch=epoch + 1)
    dist.destroy_process_group()


def shuffled(seed, epoch, n):
    """The order of the images: it depends on nothing else, so there is nothing to save about it."""
    return torch.from_numpy(np.random.RandomState([seed, epoch]).permutation(n))


def should_all_stop(run, device):
    """One rank hears of a request a moment before the others, and would leave them waiting: they stop if any does."""
    stop = torch.tensor(float(run.should_stop()), device=device)
    dist.all_reduce(stop, op=dist.ReduceOp.MAX)
    return bool(stop)
