"""Per-token exits in plain numpy, float64: what `generate_dynamic` is compared with."""

import itertools

import numpy as np
from tiny import NEW_TOKENS

from jaxdepth.depth.policies import Caching, Policy
from jaxdepth.model.parameters import LAYER_PARAMETERS, has_parameter

T = NEW_TOKENS
# Those whose scores are probabilities or a cosine.
GRADED = (Policy.TOP1, Policy.MARGIN, Policy.SATURATION, Policy.CLASSIFIER)


def softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


class Slow:
    """One lane in plain numpy, float64: token by token, and a layer at a time."""

    def __init__(self, model, classifier, probes=None, guard_answers=False):
        c = self.config = model.config
        self.classifier = classifier
        self.probes, self.guard_answers = probes, guard_answers
        self.layers = [
            {
                n: np.float64(getattr(model.layers, n)[i])
                for n in LAYER_PARAMETERS
                if has_parameter(n, c)
            }
            for i in range(4)
        ]
        self.embed, self.final = np.float64(model.embed[...]), np.float64(model.norm[...])
        self.head = self.embed if model.head is None else np.float64(model.head[...])
        pairs = np.arange(0, model.config.head_dim, 2) / model.config.head_dim
        self.turns = np.exp(1j * np.arange(96)[:, None] * model.config.rope.theta**-pairs)

    def norm(self, h, scale):
        return h / np.sqrt(h @ h / len(h) + self.config.rms_norm_eps) * scale

    def turn(self, x, position):
        low, high = np.split(x, 2, axis=-1)
        turned = (low + 1j * high) * self.turns[position]
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def layer(self, i, h, position, cache):
        """The stream after layer i; the layer's keys and values go to `cache[i]`."""
        w, c = self.layers[i], self.config
        x = self.norm(h, w["attn_norm"])
        q, k, v = ((x @ w[name]).reshape(-1, c.head_dim) for name in "qkv")
        new = (self.turn(k, position)[:, None], v[:, None])
        window = slice(-c.sliding_window if c.sliding_window else None, None)
        cache[i] = [np.concatenate(x, axis=1)[:, window] for x in zip(cache[i], new, strict=True)]
        keys, values = (np.repeat(x, len(q) // len(k), axis=0) for x in cache[i])
        scores = keys @ self.turn(q, position)[..., None] / c.head_dim**0.5
        h = h + (softmax(scores, axis=1).swapaxes(1, 2) @ values).ravel() @ w["o"]
        x = self.norm(h, w["mlp_norm"])
        gate = x @ w["gate"]
        return h + (gate / (1 + np.exp(-gate)) * (x @ w["up"])) @ w["down"]

    def logits(self, h):
        return self.head @ self.norm(h, self.final)

    def score(self, policy, streams, d, places) -> float:
        """Of exit d, by the streams from the embedding on."""
        logits, h, before = self.logits(streams[d]), streams[d], streams[d - 1]
        second, first = np.sort(softmax(logits))[-2:]
        match policy:
            case Policy.TOP1:
                return first
            case Policy.MARGIN:
                return first - second
            case Policy.SATURATION:
                return h @ before / np.sqrt((h @ h) * (before @ before))
            case Policy.PATIENCE:
                tops = [self.logits(streams[e]).argmax() for e in places if e <= d][::-1]
                return len(list(itertools.takewhile(lambda top: top == tops[0], tops)))
            case Policy.CLASSIFIER:
                weights, bias = self.classifier
                return 1 / (1 + np.exp(-(h @ weights[d - 1] + bias[d - 1])))
            case Policy.FIXED:
                return d
            case Policy.GUARDED:
                return self.calm  # of the lane that is decoded, see `say`
            case Policy.ORACLE:
                return float(logits.argmax() == self.logits(streams[4]).argmax())

    def calmness(self, guard, streams) -> float:
        """The probability of being harmless that a guard reads."""
        weights, centre, bias = (a[guard.layer] for a in self.probes[guard.probe])
        return 1 / (1 + np.exp((streams[guard.layer] - centre) @ weights + bias))

    def exit_of(self, rule, streams, places, need) -> int | None:
        for d in (d for d in places if d < len(streams)):
            if rule.guard is not None:
                if d < (rule.guard.first_exit or rule.guard.layer):
                    continue
                self.calm = min(self.calms + [self.calmness(rule.guard, streams)] * self.reads)
            if d == 4 or self.score(rule.policy, streams, d, places) >= need:
                return d

    def read(self, token, position, cache, frozen=lambda streams: False):
        streams = [self.embed[token]]
        for i in range(4):
            after = self.layer(i, streams[-1], position, cache)
            streams.append(streams[-1] if frozen(streams) else after)
        return streams

    def prompt(self, tokens):
        nothing = np.zeros((self.config.num_key_value_heads, 0, self.config.head_dim))
        cache = [[nothing, nothing] for _ in range(4)]
        for position, token in enumerate(tokens):
            streams = self.read(token, position, cache)
        return streams, cache

    def say(self, streams, cache, length, rule, exits):
        """(token, exit, score, confidence) of every new token."""
        cache, places, decoded = list(cache), sorted({*exits, 4}), []
        self.calms = []
        for t in range(T):
            self.reads = t == 0 or self.guard_answers
            need = rule.threshold
            if rule.decay is not None:
                need = min(1.0, 0.9 * need + 0.1 * np.exp(-rule.decay * t / T))

            def exited(streams, need=need):
                return self.exit_of(rule, streams, places, need) is not None

            if t:
                frozen = exited if rule.caching == Caching.PROPAGATE else lambda streams: False
                streams = self.read(decoded[-1][0], length + t - 1, cache, frozen)
            exit = self.exit_of(rule, streams, places, need)
            logits = self.logits(streams[exit])
            score = self.score(rule.policy, streams, exit, places)
            if rule.guard is not None:
                self.calms = [score]
            decoded.append((logits.argmax(), exit, score, softmax(logits).max()))
        return [np.array(column) for column in zip(*decoded, strict=True)]


def bars_of(slow, streams, cache, length, exits) -> dict:
    """Two thresholds for each policy, between scores that a text has on its way to full depth."""
    cache, passes = list(cache), [streams]
    for t in range(T):
        token = slow.logits(passes[-1][4]).argmax()
        passes.append(slow.read(token, length + t, cache))

    def bar(policy, q):
        scores = [slow.score(policy, s, d, exits) for s in passes for d in exits if d < 4]
        place = int(q * len(scores))
        return float(np.mean(np.sort(scores)[place : place + 2]))

    return {policy: (bar(policy, 0.6), bar(policy, 0.8)) for policy in GRADED}
