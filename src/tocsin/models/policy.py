"""Learn a policy in any environment of Gymnasium's vector API with discrete actions: by imitation, or by evolution.

Both give a small network (tanh, softmax) that is kept as an ONNX model: observations in, a share for each action out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats
from tocsin.errors import ConfigError, MissingExtra
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.onnx_graph import OnnxGraph
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store

KIND = "policy"
UNITS = 8
"""Of the hidden layer: what evolution has to find grows with it."""
Seen = npt.NDArray[np.floating[Any]]
Actions = npt.NDArray[np.int64]
Act = Callable[[Seen], Actions]
"""From what is seen, shape (episodes, signals), to what is done, shape (episodes,)."""
A = TypeVar("A", bound=Act)
Told = Callable[[str], None]


class Episodes(Protocol):
    """Episodes side by side: a `gymnasium.vector.VectorEnv` with a box of observations and discrete actions."""

    num_envs: int
    single_observation_space: Any
    single_action_space: Any

    def reset(self, *, seed: int) -> tuple[Any, Any]: ...
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]: ...


def _tell_nobody(_: str) -> None:
    return None


Make = Callable[[int], Episodes]
"""Makes so many episodes side by side."""


@dataclass(frozen=True)
class Policy:
    """A network with one hidden layer over the logarithms of what is seen, scaled."""

    mean: Floats
    scale: Floats
    hidden: Floats
    """Shape (signals, units)."""
    hidden_bias: Floats
    out: Floats
    """Shape (units, actions)."""
    out_bias: Floats

    def scores(self, seen: Seen) -> Floats:
        """Returns a score for each action, shape (episodes, actions)."""
        units = np.tanh(((_logarithm(seen) - self.mean) / self.scale) @ self.hidden + self.hidden_bias)
        return np.asarray(units @ self.out + self.out_bias)

    def shares(self, seen: Seen) -> Floats:
        """Returns how much each action is to be preferred, shape (episodes, actions); rows add up to 1."""
        scores = self.scores(seen)
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def __call__(self, seen: Seen) -> Actions:
        return np.asarray(self.scores(seen).argmax(axis=-1))

    def to_onnx(self) -> bytes:
        """Returns the model: input ``observation`` (rows, signals), as it is; output ``share`` (rows, actions)."""
        first = self.hidden / self.scale[:, None]  # the scaling, worked into the first layer
        bias = self.hidden_bias - (self.mean / self.scale) @ self.hidden
        graph = OnnxGraph("policy")
        numbers = {"w0": first, "b0": bias, "w1": self.out, "b1": self.out_bias}
        w0, b0, w1, b1 = (graph.weight(name, values.astype(np.float32)) for name, values in numbers.items())
        graph.add("Sign", ["observation"], ["sign"])
        graph.add("Abs", ["observation"], ["size"])
        graph.add("Add", ["size", graph.weight("one", np.ones(1, np.float32))], ["above_one"])
        graph.add("Log", ["above_one"], ["logarithm"])
        graph.add("Mul", ["sign", "logarithm"], ["seen"])
        graph.add("Gemm", ["seen", w0, b0], ["before"])
        graph.add("Tanh", ["before"], ["units"])
        graph.add("Gemm", ["units", w1, b1], ["score"])
        graph.add("Softmax", ["score"], ["share"], {"axis": 1})
        signals, actions = len(self.mean), self.out.shape[1]
        return graph.model({"observation": ("rows", signals)}, {"share": ("rows", actions)})


def _logarithm(seen: Seen) -> Seen:
    """Nearer to 0 is seen more finely: one day or two that are left differ more than 31 and 32."""
    return np.asarray(np.sign(seen) * np.log1p(np.abs(seen)))


def play(episodes: Episodes, act: Act, seed: int) -> Floats:
    """Play each episode to its end; returns the sum of its rewards, shape (episodes,)."""
    return _play(episodes, act, seed).rewards


def compare(episodes: Episodes, acts: Sequence[Act], seed: int) -> Floats:
    """Let each play its share of the episodes; returns the mean sum of rewards of each, shape (acts,)."""

    def act(seen: Seen) -> Actions:
        parts = seen.reshape(len(acts), -1, seen.shape[-1])
        return np.concatenate([one(part) for one, part in zip(acts, parts, strict=True)])

    return np.asarray(play(episodes, act, seed).reshape(len(acts), -1).mean(axis=1))


def choose(make: Make, acts: Sequence[A], seed: int = 0, *, games: int = 25) -> A:
    """Return the best of some: all play ``games``, the better quarter four times as many, and so on to the last one.

    Successive halving (Jamieson & Talwalkar 2016), by quarters; each round is played on other games.
    """
    random, left = np.random.default_rng(seed), list(acts)
    while len(left) > 1:
        rewards = compare(make(games * len(left)), left, _seed(random))
        left = [left[i] for i in np.argsort(-rewards, kind="stable")[: max(1, len(left) // 4)]]
        games *= 4
    return left[0]


def imitate(
    make: Make, seed: int = 0, *, games: int = 1_000, kept: float = 0.05, rounds: int = 5, told: Told = _tell_nobody
) -> Policy:
    """Play random games, keep the best, teach a network to do the same; then again with the games of the network.

    The first round is the known lesson on CartPole; the further ones make it the cross-entropy method (Rubinstein 1999;
    Szita & Lőrincz 2006), in which a network stands for the distribution. ``kept`` is the share of games that is kept.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise MissingExtra("scikit-learn", "policy", "imitation") from None
    episodes, random = make(games), np.random.default_rng(seed)
    actions = _actions(episodes)
    act, policy = _at_random(games, actions, random), None
    for number in range(rounds):
        played = _play(episodes, act, _seed(random))
        best = np.argsort(-played.rewards, kind="stable")[: max(1, round(kept * games))]
        means = played.rewards.mean(), played.rewards[best].mean()
        told(f"round {number + 1}: mean reward {means[0]:.1f}, of the games that are kept {means[1]:.1f}")
        playing = played.playing[:, best]
        given, wanted = played.seen[:, best][playing], played.done[:, best][playing]
        if len(np.unique(wanted)) < 2:
            break  # the network is sure of one action: there is nothing more to learn
        mean, scale = _scaling(given)
        network = MLPClassifier((UNITS,), activation="tanh", learning_rate_init=0.01, max_iter=20, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it goes on learning in the next round
            network.fit((_logarithm(given) - mean) / scale, wanted)
        policy = _from_classifier(network, actions, mean, scale)
        act = _sampled(policy, random)
    if policy is None:
        raise ConfigError("the best random games hold one action only; give more games, or keep more of them")
    return policy


def evolve(make: Make, seed: int = 0, *, games: int = 50, generations: int = 400, told: Told = _tell_nobody) -> Policy:
    """Search the weights of a network by evolution: CMA-ES (Hansen & Ostermeier 2001), by its authors' library.

    Each network of a generation plays so many ``games``, in the last quarter of the generations four times as many,
    since good networks differ less than chance does. The result is the middle of the last generation.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not import matplotlib")  # nothing is drawn here
        try:
            import cma
        except ImportError:
            raise MissingExtra("cma", "policy", "evolution") from None
    random = np.random.default_rng(seed)
    first = make(games)
    actions = _actions(first)
    played = _play(first, _at_random(games, actions, random), _seed(random))
    mean, scale = _scaling(played.seen[played.playing])
    sizes = np.cumsum([len(mean) * UNITS, UNITS, UNITS * actions])
    # The library would seed numpy's random numbers for the whole process; it is given ours instead.
    options = {"verbose": -9, "seed": np.nan, "randn": lambda *shape: random.standard_normal(shape)}
    search = cma.CMAEvolutionStrategy(np.zeros(sizes[-1] + actions), 0.5, options)

    def network(weights: Floats) -> Policy:
        """One network; of weights with an axis more before the others, many (one call for all is much faster)."""
        hidden, hidden_bias, out, out_bias = np.split(weights, sizes, axis=-1)
        before = weights.shape[:-1]
        if before:
            hidden_bias, out_bias = hidden_bias[:, None], out_bias[:, None]
        hidden, out = hidden.reshape(*before, -1, UNITS), out.reshape(*before, UNITS, actions)
        return Policy(mean, scale, hidden, hidden_bias, out, out_bias)

    def play_all(many: Policy) -> Floats:
        def act(seen: Seen) -> Actions:
            return many(seen.reshape(search.popsize, -1, seen.shape[-1])).reshape(-1)

        return np.asarray(play(episodes, act, _seed(random)).reshape(search.popsize, -1).mean(axis=1))

    for number in range(generations):
        if number in (0, generations * 3 // 4):
            episodes = make(search.popsize * games * (4 if number else 1))
        tries = search.ask()
        rewards = play_all(network(np.stack(tries)))
        search.tell(tries, list(-rewards))
        told(f"generation {number + 1}: mean reward {rewards.mean():.2f}, best {rewards.max():.2f}")
    return network(np.asarray(search.result.xfavorite))


def _at_random(games: int, actions: int, random: np.random.Generator) -> Act:
    """Actions at random; how often each is taken is drawn for each game, since some are best taken seldom."""
    shares = random.dirichlet(np.ones(actions), size=games)
    return lambda seen: _draw(shares, random)


def _sampled(policy: Policy, random: np.random.Generator) -> Act:
    return lambda seen: _draw(policy.shares(seen), random)


def _draw(shares: Floats, random: np.random.Generator) -> Actions:
    below = shares.cumsum(axis=1) < random.random((len(shares), 1))
    return np.asarray(np.minimum(below.sum(axis=1), shares.shape[1] - 1))


def version(
    name: str, policy: Policy, inputs: Sequence[str], actions: Sequence[str], costs: Mapping[str, float]
) -> tuple[Manifest, Mapping[str, bytes]]:
    """Return what `Store.add` needs: a manifest with its mean cost and those of plain policies, and the files.

    ``costs`` are by policy, its own under ``learned``, all from the same episodes, which nothing was learnt on.
    """
    plain = {other: {"cost": float(cost)} for other, cost in costs.items() if other != "learned"}
    manifest = Manifest(
        name=name,
        kind=KIND,
        inputs=tuple(inputs),
        target="action",
        metrics={"cost": float(costs["learned"])},
        baselines=plain,
        judged_by="cost",
        settings={"actions": list(actions)},
    )
    return manifest, {MODEL: policy.to_onnx()}


class Adviser:
    """One version of a policy, loaded (numpy and onnxruntime only)."""

    ROWS_MIN = 8
    """Fewer rows are filled up to this many: the library sums one row alone in another order, and the last digit of a
    share must not depend on how many rows came at once."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; what advises is of kind {KIND}")
        self.inputs, self.actions = manifest.inputs, tuple(map(str, manifest.settings["actions"]))
        self._session = ModelSession(files[MODEL], f"{place}/{MODEL}")

    @classmethod
    def open(cls, store: Store, name: str, version: int) -> Adviser:
        """Returns a version of a policy, its files held against their digests."""
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    def shares(self, seen: Seen) -> Floats:
        """Returns how much each action is to be preferred, shape (rows, actions); NaN where an input is none."""
        known = np.asarray((np.abs(seen) < np.finfo(np.float32).max).all(axis=1))
        given = np.zeros((max(len(seen), self.ROWS_MIN), len(self.inputs)), np.float32)
        given[: len(seen)][known] = seen[known]
        (shares,) = self._session.run({"observation": given})
        return np.where(known[:, None], shares[: len(seen)].astype(np.float64), np.nan)


def _actions(episodes: Episodes) -> int:
    count = getattr(episodes.single_action_space, "n", None)
    if count is None or len(episodes.single_observation_space.shape) != 1:
        raise ConfigError("a policy is learnt where observations are a row of numbers and actions are discrete")
    return int(count)


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))


def _scaling(seen: Seen) -> tuple[Floats, Floats]:
    rows = _logarithm(seen.astype(np.float64))
    return rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)


@dataclass(frozen=True)
class _Played:
    rewards: Floats
    """Of each episode."""
    seen: npt.NDArray[np.float32]
    """Shape (steps, episodes, signals)."""
    done: Actions
    """Shape (steps, episodes)."""
    playing: npt.NDArray[np.bool_]
    """Whether the episode still went on, shape (steps, episodes)."""


def _play(episodes: Episodes, act: Act, seed: int) -> _Played:
    now, _ = episodes.reset(seed=seed)
    playing, rewards = np.ones(episodes.num_envs, np.bool_), np.zeros(episodes.num_envs)
    steps: list[tuple[Any, Actions, npt.NDArray[np.bool_]]] = []
    while playing.any():
        actions = act(now)
        steps.append((np.array(now), actions, playing))
        now, reward, terminated, truncated, _ = episodes.step(actions)
        rewards += np.where(playing, reward, 0.0)
        playing = playing & ~(terminated | truncated)
    return _Played(rewards, *(np.stack(parts) for parts in zip(*steps, strict=True)))


def _from_classifier(network: Any, actions: int, mean: Floats, scale: Floats) -> Policy:
    """The weights of scikit-learn's network; one of two classes has one score only, that of the second."""
    (hidden, out), (hidden_bias, out_bias) = network.coefs_, network.intercepts_
    if len(network.classes_) == 2:
        out, out_bias = np.hstack([np.zeros_like(out), out]), np.append(0.0, out_bias)
    weights, bias = np.zeros((len(out), actions)), np.full(actions, -30.0)  # an action that is never taken
    weights[:, network.classes_], bias[network.classes_] = out, out_bias
    return Policy(mean, scale, hidden, hidden_bias, weights, bias)
