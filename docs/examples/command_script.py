"""Fits a polynomial to noisy points by gradient descent: stands for any program of yours."""

import argparse
import json
import math
import random

Points = list[tuple[float, float]]


def predict(weights: list[float], x: float) -> float:
    """Return the polynomial's value."""
    return sum(weight * x**power for power, weight in enumerate(weights))


def loss(weights: list[float], points: Points) -> float:
    """Return the mean squared error."""
    return sum((predict(weights, x) - y) ** 2 for x, y in points) / len(points)


def step(weights: list[float], points: Points, lr: float) -> list[float]:
    """Return the weights after one step of gradient descent."""
    errors = [(x, predict(weights, x) - y) for x, y in points]
    slopes = [2 * sum(error * x**power for x, error in errors) / len(points) for power in range(len(weights))]
    return [weight - lr * slope for weight, slope in zip(weights, slopes, strict=True)]


def main() -> None:
    """Train on one half of the points and print the loss on the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--degree", type=int, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    noise, chance = random.Random(0), random.Random(args.seed)  # the data are the same for every seed
    points = [(x / 30, math.sin(3 * x / 30) + noise.gauss(0, 0.1)) for x in range(-30, 31)]
    train, held_out = points[::2], points[1::2]
    weights = [chance.gauss(0, 0.1) for _ in range(args.degree + 1)]
    for number in range(args.steps):
        weights = step(weights, train, args.lr)
        if number % 50 == 0:
            print(f"step {number}: train_loss {loss(weights, train):.4f}")
    print(json.dumps({"val_loss": loss(weights, held_out)}))


if __name__ == "__main__":
    main()
