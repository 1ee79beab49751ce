"""The methods of this package as people write them in PyTorch.

A step is a function without arguments that trains a network on one batch.
"""

import torch
from torch import nn
from torch.func import functional_call
from torch.func import grad
from torch.func import vmap
from torch.nn.functional import cross_entropy

RATE, MOMENTUM = 0.01, 0.9


def network(name):
    """Returns the network of that name in `benchmarks.networks`."""
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    hidden, inputs = [], 3
    for filters in (32, 64, 64):
        hidden.append(nn.Conv2d(inputs, filters, 3, padding="same"))
        if name == "cnn_bn":
            hidden.append(nn.BatchNorm2d(filters))
        hidden += [nn.ReLU(), nn.MaxPool2d(2)]
        inputs = filters
    dense = [nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*hidden, *dense)


class Trainer:
    """Holds a network, its optimizer and a batch.

    Args:
        networks: List of networks.
        batch: Tuple `(x, y)` of tensors.
        part: Integer, the number of shards, or of source examples, which come
            first.
    """

    def __init__(self, networks, batch, part=None):
        self.networks, (self.x, self.y), self.part = networks, batch, part
        self.network = networks[0]
        self.parameters = list(self.network.parameters())
        self.optimizers = [
            torch.optim.SGD(n.parameters(), RATE, MOMENTUM) for n in networks
        ]
        self.alphas = torch.full((part or 1,), 0.5)

    def plain(self):
        self.optimizers[0].zero_grad()
        cross_entropy(self.network(self.x), self.y).backward()
        self.optimizers[0].step()

    def shard_by_shard(self):
        """Deep Bilevel Learning, a backward pass for each shard."""
        shards = zip(self.x.chunk(self.part), self.y.chunk(self.part))
        judge, *others = [self._gradient(*shard) for shard in shards]
        weights = torch.stack(
            [_dot(judge, g) / (_dot(g, g) + 0.01) for g in others]
        )
        weights /= weights.abs().sum()
        self._apply(
            [
                sum(w * g for w, g in zip(weights, gradients))
                for gradients in zip(*others)
            ]
        )

    def shards_by_vmap(self):
        """Deep Bilevel Learning, all shards by `torch.func`."""
        gradients = self._gradients_of_rows(self.part)
        rows = torch.cat([g.flatten(1) for g in gradients], dim=1)
        judge, others = rows[0], rows[1:]
        weights = others @ judge / ((others * others).sum(dim=1) + 0.01)
        weights /= weights.abs().sum()
        self._apply([torch.tensordot(weights, g[1:], 1) for g in gradients])

    def one_by_one(self):
        """SOSELETO, a backward pass for each source example."""
        size = self.part
        judge = self._gradient(self.x[size:], self.y[size:])
        slopes, total = [], [torch.zeros_like(p) for p in self.parameters]
        for i in range(size):
            gradient = self._gradient(self.x[i : i + 1], self.y[i : i + 1])
            slopes.append(_dot(judge, gradient))
            for t, g in zip(total, gradient):
                t += self.alphas[i] / size * g
        self._follow(torch.stack(slopes), total)

    def examples_by_vmap(self):
        """SOSELETO, all source examples by `torch.func`."""
        size = self.part
        judge = self._gradient(self.x[size:], self.y[size:])
        gradients = self._gradients_of_rows(size, size)
        slopes = sum(
            torch.tensordot(g.flatten(1), j.flatten(), 1)
            for g, j in zip(gradients, judge)
        )
        shares = self.alphas / size
        total = [torch.tensordot(shares, g, 1) for g in gradients]
        self._follow(slopes, total)

    def reweight(self):
        """Learning to Reweight, through a differentiable inner step."""
        size = self.part
        weights = torch.zeros(size, requires_grad=True)
        loss = (weights * self._losses()).sum()
        gradient = torch.autograd.grad(loss, self.parameters, create_graph=True)
        names = [name for name, _ in self.network.named_parameters()]
        moved = {
            name: p - RATE * g
            for name, p, g in zip(names, self.parameters, gradient)
        }
        outputs = functional_call(self.network, moved, self.x[size:])
        judged = cross_entropy(outputs, self.y[size:])
        (slopes,) = torch.autograd.grad(judged, weights)
        weights = (-slopes).clamp(min=0)
        weights /= weights.sum().clamp(min=1e-8)
        self._apply(
            torch.autograd.grad(
                (weights * self._losses()).sum(), self.parameters
            )
        )

    def co_teaching(self):
        """Co-teaching, half of the batch kept."""
        losses = [
            cross_entropy(n(self.x), self.y, reduction="none")
            for n in self.networks
        ]
        kept = [loss.argsort()[: len(self.x) // 2] for loss in losses]
        for loss, chosen, optimizer in zip(losses, kept[::-1], self.optimizers):
            optimizer.zero_grad()
            loss[chosen].mean().backward()
            optimizer.step()

    def _losses(self):
        outputs = self.network(self.x[: self.part])
        return cross_entropy(outputs, self.y[: self.part], reduction="none")

    def _gradient(self, x, y):
        loss = cross_entropy(self.network(x), y)
        return torch.autograd.grad(loss, self.parameters)

    def _gradients_of_rows(self, rows, size=None):
        """Returns the gradients of equal parts of the batch, stacked."""
        x, y = (
            t[:size].unflatten(0, (rows, -1)).contiguous()
            for t in (self.x, self.y)
        )

        def loss(parameters, x, y):
            return cross_entropy(
                functional_call(self.network, parameters, x), y
            )

        parameters = {n: p.detach() for n, p in self.network.named_parameters()}
        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
        return list(gradients.values())

    def _follow(self, slopes, gradient):
        self._apply(gradient)
        self.alphas = (self.alphas + RATE * slopes).clamp(0, 1)

    def _apply(self, gradient):
        for parameter, g in zip(self.parameters, gradient):
            parameter.grad = g
        self.optimizers[0].step()


def _dot(a, b):
    return sum((x * y).sum() for x, y in zip(a, b))
