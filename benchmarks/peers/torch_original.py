"""DEEPSEC's searches as published, written anew from their description, to measure what they cost.

Per image or per step they copy to the host and loop in Python; the search over c keeps one success flag for
all constants, so that c only falls once something has succeeded; a failed image comes back black.  See
Ling et al., "DEEPSEC", S&P 2019.  JSMA, BLB, CW2 and EAD are targeted there, OptMargin is not.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Settings = dict[str, Any]


class Found:
    """The closest successes so far, and the constants under search, on the host."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, s: Settings):
        rows = len(x)
        self.labels, self.targeted = labels.cpu().numpy(), s["targeted"]
        self.images, self.distance = np.zeros(x.shape, np.float32), np.full(rows, np.inf)
        self.c, self.lower, self.upper = np.full(rows, s["c"]), np.zeros(rows), np.full(rows, 1e10)

    def constants(self) -> torch.Tensor:
        """Return c as float32 [B]."""
        return torch.from_numpy(self.c.astype(np.float32))

    def look(self, x_adv: torch.Tensor, logits: torch.Tensor, distance: torch.Tensor) -> None:
        """Keep what succeeds closer than before: one image after the other, from copies on the host."""
        images, distances = x_adv.detach().cpu().numpy(), distance.detach().cpu().numpy()
        classes = logits.detach().cpu().numpy().argmax(1)
        for row in range(len(images)):
            hit = (classes[row] == self.labels[row]) == self.targeted
            if hit and distances[row] < self.distance[row]:
                self.distance[row] = distances[row]
                self.images[row] = images[row]

    def next(self) -> None:
        """Choose the next constant of each image; its flag is the best-ever one, never reset."""
        for row in range(len(self.c)):
            if np.isfinite(self.distance[row]):
                self.upper[row] = min(self.upper[row], self.c[row])
                self.c[row] = (self.lower[row] + self.upper[row]) / 2
            else:
                self.lower[row] = max(self.lower[row], self.c[row])
                self.c[row] *= 10


def cw2(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, s: Settings) -> torch.Tensor:
    """Adam in tanh space for every constant, all steps, no early end."""
    nothing = [torch.zeros(1, *x.shape[1:])]
    return _adam(network, x, labels, s, nothing)


def optmargin(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, s: Settings) -> torch.Tensor:
    """CW2 with the hinge summed over noisy copies, forward by forward; success is the clean copy's alone.

    The noises are orthogonal, shared by the batch, scaled so that the largest entry is ``noise``; the last
    one is zero.
    """
    vectors = torch.linalg.qr(torch.randn(x[0].numel(), s["copies"]))[0]
    vectors = vectors * (s["noise"] / vectors.abs().max())
    vectors[:, -1] = 0.0
    return _adam(network, x, labels, s, [v.reshape(1, *x.shape[1:]) for v in vectors.T])


def _adam(
    network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, s: Settings, noises: list[torch.Tensor]
) -> torch.Tensor:
    found = Found(x, labels, s)
    start = torch.atanh((2 * x - 1) * 0.9999)
    reference = (torch.tanh(start) + 1) / 2
    for _ in range(s["search_steps"]):
        modifier = torch.zeros_like(x, requires_grad=True)
        optimizer = torch.optim.Adam([modifier], lr=s["learning_rate"])
        c = found.constants()
        for _ in range(s["steps"]):
            x_adv = (torch.tanh(start + modifier) + 1) / 2
            distance = _squared(x_adv - reference)
            hinges = torch.zeros(len(x))
            for noise in noises:
                logits = network(x_adv + noise)
                hinges = hinges + hinge(logits, labels, s)
            optimizer.zero_grad()
            (distance + c * hinges).sum().backward()
            optimizer.step()
            found.look(x_adv, logits, distance)  # the last copy is the clean one
        found.next()
    return torch.from_numpy(found.images)


def ead(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, s: Settings) -> torch.Tensor:
    """FISTA with a constant step size; the elastic-net rule counts c times the hinge as distance."""
    found = Found(x, labels, s)
    for _ in range(s["search_steps"]):
        c = found.constants()
        point = extrapolated = x.clone()
        for step in range(s["steps"]):
            y = extrapolated.clone().requires_grad_(True)
            smooth = c * hinge(network(y), labels, s) + _squared(y - x)
            (gradient,) = torch.autograd.grad(smooth.sum(), y)
            moved = y.detach() - s["learning_rate"] * gradient - x
            kept = x + moved.sign() * (moved.abs() - s["beta"]).clamp(min=0)
            previous, point = point, kept.clamp(0, 1)
            extrapolated = point + step / (step + 3) * (point - previous)
            with torch.no_grad():
                logits = network(point)
            l1 = (point - x).abs().flatten(1).sum(1)
            elastic = _squared(point - x) + s["beta"] * l1 + c * hinge(logits, labels, s)
            found.look(point, logits, elastic if s["rule"] == "en" else l1)
        found.next()
    return torch.from_numpy(found.images)


def blb(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, s: Settings) -> torch.Tensor:
    """One L-BFGS over the whole batch for each set of constants, the box by clamping."""
    found = Found(x, labels, s)
    for _ in range(s["search_steps"]):
        c = found.constants()
        point = x.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([point], lr=1, max_iter=s["steps"])

        def closure(
            point: torch.Tensor = point, c: torch.Tensor = c, optimizer: torch.optim.LBFGS = optimizer
        ) -> torch.Tensor:
            optimizer.zero_grad()
            boxed = point.clamp(0, 1)
            entropy = F.cross_entropy(network(boxed), labels, reduction="none")
            loss = (_squared(boxed - x) + c * entropy).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        boxed = point.detach().clamp(0, 1)
        with torch.no_grad():
            found.look(boxed, network(boxed), _squared(boxed - x))
        found.next()
    return torch.from_numpy(found.images)


def jsma(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, s: Settings) -> torch.Tensor:
    """One image after the other; what does not reach the target comes back as far as it got."""
    return torch.cat([_jsma_one(network, x[i : i + 1], int(labels[i]), s) for i in range(len(x))])


def _jsma_one(network: torch.nn.Module, image: torch.Tensor, target: int, s: Settings) -> torch.Tensor:
    flat = image.detach().flatten().clone()
    domain = flat < 0.99
    for _ in range(math.ceil(len(flat) * s["gamma"] / 2)):
        with torch.no_grad():
            answer = int(network(flat.reshape(image.shape)).argmax())
        if answer == target or not domain.any():
            break
        first, second = _best_pair(_jacobian(network, flat.reshape(image.shape)), target, domain)
        for pixel in (first, second):
            flat[pixel] += s["theta"]
            domain[pixel] = False
        flat.clamp_(0, 1)
    return flat.reshape(image.shape)


def _jacobian(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return d logits / d pixels [K, n]: a backward pass a row."""
    point = image.clone().requires_grad_(True)
    logits = network(point)[0]
    rows = np.empty((len(logits), image.numel()), np.float32)
    for k in range(len(logits)):
        (gradient,) = torch.autograd.grad(logits[k], point, retain_graph=True)
        rows[k] = gradient.flatten().cpu().numpy()
    return torch.from_numpy(rows)


def _best_pair(jacobian: torch.Tensor, target: int, domain: torch.Tensor) -> tuple[int, int]:
    """Return the pair of the largest product over a dense n x n map; without one, pixel 0 twice."""
    size = jacobian.shape[1]
    wanted = jacobian[target]
    others = jacobian.sum(0) - wanted
    up, down = wanted[:, None] + wanted[None, :], others[:, None] + others[None, :]
    distinct = np.ones((size, size), np.int64)
    np.fill_diagonal(distinct, 0)
    allowed = torch.from_numpy(distinct) * (domain[:, None] & domain[None, :])
    score = up * down.abs() * allowed * (up > 0) * (down < 0)
    best = int(score.argmax())
    return best // size, best % size


def hinge(logits: torch.Tensor, labels: torch.Tensor, s: Settings) -> torch.Tensor:
    """Return max(how far the goal is missed, -confidence), [B]."""
    own = logits.gather(1, labels[:, None])[:, 0]
    rivals = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    missed = rivals - own if s["targeted"] else own - rivals
    return missed.clamp(min=-s.get("confidence", 0.0))


def _squared(change: torch.Tensor) -> torch.Tensor:
    return change.square().flatten(1).sum(1)


ALGORITHMS = {"jsma": jsma, "blb": blb, "cw2": cw2, "ead": ead, "optmargin": optmargin}
TARGETED = {"jsma": True, "blb": True, "cw2": True, "ead": True, "optmargin": False}
