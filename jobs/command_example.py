"""A program that has never heard of dlcluster: logistic regression on two clouds of points, standard library only.

python jobs/command_example.py --lr 0.1 --epochs 20 --seed 0
dlcluster sweep sweeps/command.yaml
"""

import argparse
import math
import random


def make_points(n, rng):
    """Points (x, y, 1) with their class: two overlapping clouds, the second one up and to the right."""
    points = []
    for _ in range(n):
        label = rng.randrange(2)
        points.append(((rng.gauss(1.5 * label, 1.0), rng.gauss(label, 1.0), 1.0), label))
    return points


def probability(weights, point):
    score = sum(w * x for w, x in zip(weights, point, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


def evaluate(weights, points):
    """The mean loss and the share of points on the right side."""
    loss, n_right = 0.0, 0
    for point, label in points:
        p = probability(weights, point)
        loss -= math.log(p if label else 1 - p)
        n_right += (p > 0.5) == label
    return loss / len(points), n_right / len(points)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data = random.Random(2024)  # the points are always the same; the seed decides how they are learned
    training, validation = make_points(400, data), make_points(400, data)
    rng = random.Random(args.seed)
    weights = [rng.gauss(0, 2) for _ in range(3)]
    for epoch in range(1, args.epochs + 1):
        rng.shuffle(training)
        for point, label in training:
            error = probability(weights, point) - label
            weights = [w - args.lr * (error * x + args.weight_decay * w) for w, x in zip(weights, point, strict=True)]
        loss, accuracy = evaluate(weights, validation)
        print(f"epoch={epoch} val_loss={loss:.4f} val_accuracy={accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
