"""Eqs. 10 and 11 in float64 NumPy, with a hand-written network."""

import numpy as np


def loss_and_gradient(weights, x, y):
    """Mean cross-entropy of a tanh network and its gradient, by hand."""
    kernel, bias, kernel_out, bias_out = weights
    hidden = np.tanh(x @ kernel + bias)
    logits = hidden @ kernel_out + bias_out
    logits = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(probabilities[rows, y]).mean()
    delta = probabilities.copy()
    delta[rows, y] -= 1.0
    delta /= len(y)
    back = (delta @ kernel_out.T) * (1.0 - hidden**2)
    return loss, [x.T @ back, back.sum(0), hidden.T @ delta, delta.sum(0)]


def shard_gradients(weights, x, y, num_shards):
    pairs = zip(np.split(x, num_shards), np.split(y, num_shards))
    return [loss_and_gradient(weights, *pair)[1] for pair in pairs]


def deep_bilevel(
    gradients,
    num_validation_shards=1,
    mu=0.01,
    lambda_=1.0,
    l1_normalize=True,
    per_layer=False,
    solver="diagonal",
    drop=(),
):
    """Returns the weights, `(groups, shards)`, and the weighted gradient."""
    groups = [[0, 1], [2, 3]] if per_layer else [[0, 1, 2, 3]]
    judge = gradients[:num_validation_shards]
    shards = gradients[num_validation_shards:]
    weights, total = [], [None] * 4
    for group in groups:
        flat = np.array(
            [np.concatenate([g[i].ravel() for i in group]) for g in shards]
        )
        v = sum(np.concatenate([g[i].ravel() for i in group]) for g in judge)
        c = flat @ v
        if solver == "exact":
            gram = flat @ flat.T
            w = np.linalg.solve(gram / lambda_ + mu * np.eye(len(c)), c)
        else:
            w = c / ((flat**2).sum(1) / lambda_ + mu)
        w[list(drop)] = 0.0
        if l1_normalize:
            w = w / np.abs(w).sum()
        weights.append(w)
        for i in group:
            total[i] = sum(a * g[i] for a, g in zip(w, shards))
    return np.array(weights), total
