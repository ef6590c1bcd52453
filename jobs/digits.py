"""Read handwritten digits (8 x 8 pixels, bundled with scikit-learn) with a small neural network.

    dlcluster sweep sweeps/lr.yaml

A job is a function `train(run, *, ...)`. Its arguments are what a sweep may vary; `run` is how it reports. Everything
at the top of the file happens once per worker, `train` once per trial.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

# The same split for every trial, whatever its seed: seeds must differ in training, not in what they are judged on.
# RandomState's numbers are frozen for ever, those of numpy's newer generators may change with a version.
ITEMS = np.random.RandomState(20240229).permutation(1797)
TRAIN, VALIDATION, TEST = ITEMS[:1077], ITEMS[1077:1437], ITEMS[1437:]  # TEST: for the end, so nothing here reads it

DIGITS = load_digits()
PIXELS = (DIGITS.data / 16).astype(np.float32)  # (1797, 64), from 0 to 1
LABELS = DIGITS.target  # (1797,), from 0 to 9


def train(
    run, *, lr=0.01, hidden=64, epochs=15, batch_size=64, optimizer="sgd", momentum=0.9, weight_decay=0.0, save_every=5
):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = load_part(TRAIN, device)
    validation = load_part(VALIDATION, device)

    torch.manual_seed(run.seed)  # decides the first weights
    shuffle = torch.Generator().manual_seed(run.seed)  # decides the order of the images
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)).to(device)
    descent = make_optimizer(optimizer, model.parameters(), lr, momentum, weight_decay)

    state = run.resume()  # the newest checkpoint if this trial was interrupted, else None
    if state:
        model.load_state_dict(state["model"])
        descent.load_state_dict(state["optimizer"])
        shuffle.set_state(state["shuffle"])

    for epoch in range(state.epoch if state else 0, epochs):
        total = 0.0
        for batch in torch.randperm(len(images), generator=shuffle).to(device).split(batch_size):
            loss = cross_entropy(model(images[batch]), labels[batch])
            descent.zero_grad()
            loss.backward()
            descent.step()
            total += loss.detach() * len(batch)

        val_loss, correct = evaluate(model, *validation)
        run.log(
            epoch=epoch + 1, train_loss=total / len(images), val_loss=val_loss, val_accuracy=correct.double().mean()
        )
        if epoch + 1 == epochs:  # which images the final model reads rightly: makes fair comparisons and intervals
            run.predictions("validation", VALIDATION, correct=correct)
        if run.should_stop() or (save_every and (epoch + 1) % save_every == 0):
            # All that the next epoch depends on, so that an interrupted trial ends with the very same numbers.
            state = {"model": model.state_dict(), "optimizer": descent.state_dict(), "shuffle": shuffle.get_state()}
            run.save(state, epoch=epoch + 1)


def load_part(items, device):
    return torch.from_numpy(PIXELS[items]).to(device), torch.from_numpy(LABELS[items]).to(device)


def make_optimizer(name, parameters, lr, momentum, weight_decay):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    raise ValueError(f"optimizer: expected 'sgd' or 'adam', got {name!r}")


@torch.inference_mode()
def evaluate(model, images, labels):
    """The mean loss, and for each image whether it was read rightly: (n,) bool."""
    scores = model(images)
    return cross_entropy(scores, labels), scores.argmax(dim=1) == labels
