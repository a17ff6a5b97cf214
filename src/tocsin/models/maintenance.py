"""When to maintain, as an environment on the Gymnasium API; and the plain policies that a learned one stands beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats
from tocsin.errors import MissingExtra
from tocsin.models.policy import Act, choose, play
from tocsin.models.wear import LIFE_MAX_DAYS, READING_MAX, SIGNALS, Machines, Plant

try:
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode, VectorEnv
except ImportError:
    raise MissingExtra("gymnasium", "policy", "an environment to learn policies in") from None

RUN, MAINTAIN = 0, 1
ACTIONS = ("run", "maintain")
"""What can be done each morning, in the order of their numbers."""
Seen = npt.NDArray[np.float32]
Actions = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


def _space(plant: Plant) -> Any:  # the library's type of a box says float or int
    low = np.array([-READING_MAX, 0, 0, 0, 0], np.float32)
    high = np.array([READING_MAX, LIFE_MAX_DAYS, LIFE_MAX_DAYS, plant.days, plant.idle_every - 1], np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


class MaintenanceEnv(gym.Env[Seen, Any]):
    """A machine that wears, and the choice each morning to let it run or to stop it for maintenance.

    Observations are `SIGNALS`, actions 0 (run) and 1 (maintain), the reward is the day's cost, negative. An episode is
    truncated after ``plant.days`` days. Use `MaintenanceFleet` to learn: many machines cost little more than one.

    Examples
    --------
    >>> env = MaintenanceEnv(Plant(days=3))
    >>> seen, _ = env.reset(seed=1)
    >>> {name: round(float(value), 2) for name, value in zip(SIGNALS, seen, strict=True)}
    {'reading': 0.05, 'rul': 22.06, 'rul_lower': 6.4, 'age': 0.0, 'idle_in': 4.0}
    >>> _, reward, terminated, truncated, _ = env.step(MAINTAIN)
    >>> reward, terminated, truncated
    (-1.0, False, False)
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, plant: Plant = Plant()) -> None:  # noqa: B008 (it is frozen)
        self._machines = Machines(plant, 1)
        self._left = 0
        self.observation_space = _space(plant)
        self.action_space = gym.spaces.Discrete(len(ACTIONS))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self._machines.reset(self.np_random)
        self._left = self._machines.plant.days
        return self._machines.observe()[0], {}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        cost = self._machines.step(np.array([action == MAINTAIN]), self.np_random)
        self._left -= 1
        return self._machines.observe()[0], -float(cost[0]), False, self._left <= 0, {}


class MaintenanceFleet(VectorEnv[Seen, Actions, npt.NDArray[Any]]):
    """Many machines of `MaintenanceEnv` at once, as an environment of Gymnasium's vector API.

    All episodes end together; the step after that begins new ones.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, count: int, plant: Plant = Plant()) -> None:  # noqa: B008 (it is frozen)
        self.num_envs = count
        self._machines = Machines(plant, count)
        self._left = 0
        self.single_observation_space = one = _space(plant)
        self.single_action_space = gym.spaces.Discrete(len(ACTIONS))
        low, high = (np.tile(bound, (count, 1)) for bound in (one.low, one.high))
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gym.spaces.MultiDiscrete(np.full(count, len(ACTIONS)))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self._machines.reset(self.np_random)
        self._left = self._machines.plant.days
        return self._machines.observe(), {}

    def step(self, actions: Actions) -> tuple[Seen, npt.NDArray[Any], Truths, Truths, dict[str, Any]]:
        never = np.zeros(self.num_envs, np.bool_)
        if self._left <= 0:
            return self.reset()[0], np.zeros(self.num_envs), never, never, {}
        cost = self._machines.step(np.asarray(actions) == MAINTAIN, self.np_random)
        self._left -= 1
        return self._machines.observe(), -cost, never, np.full(self.num_envs, self._left <= 0), {}


@dataclass(frozen=True)
class Interval:
    """Maintain a part that is so old; between the two ages only on a day on which the line stands still.

    With ``days=inf`` it is run to failure.
    """

    days: float
    idle_days: float

    def __call__(self, seen: Seen) -> Actions:
        age, idle = seen[:, SIGNALS.index("age")], seen[:, SIGNALS.index("idle_in")] == 0
        return np.where(age >= np.where(idle, self.idle_days, self.days), MAINTAIN, RUN)


RUN_TO_FAILURE = Interval(np.inf, np.inf)


@dataclass(frozen=True)
class Threshold:
    """Maintain when a signal is past a limit; there is one for the days on which the line stands still.

    The signal is ``reading`` (past: higher), ``rul`` or ``rul_lower`` (past: lower).
    """

    signal: str
    limit: float
    idle_limit: float

    def __call__(self, seen: Seen) -> Actions:
        value, idle = seen[:, SIGNALS.index(self.signal)], seen[:, SIGNALS.index("idle_in")] == 0
        limit = np.where(idle, self.idle_limit, self.limit)
        return np.where(value >= limit if self.signal == "reading" else value <= limit, MAINTAIN, RUN)


def intervals(plant: Plant) -> list[Interval]:
    """Returns all intervals that are worth a try: any age, any younger one on days on which the line stands still."""
    longest = min(plant.days, int(3 * plant.life_days))
    return [
        Interval(days, days - earlier)
        for days, earlier in product(range(1, longest + 1), range(plant.idle_every))
        if days > earlier
    ] + [Interval(np.inf, days) for days in range(1, longest + 1)]


def thresholds(plant: Plant) -> list[Threshold]:
    """Returns the thresholds that are worth a try: a grid for each signal, on idle days earlier or the same."""
    wear = [*np.round(np.arange(0.3, 1.16, 0.05), 2), np.inf]
    days = [-1.0, *np.arange(0.0, 0.75 * plant.life_days)]
    tries = [Threshold("reading", float(a), float(b)) for a, b in product(wear, wear) if b <= a]
    for signal in ("rul", "rul_lower"):
        tries += [Threshold(signal, float(a), float(b)) for a, b in product(days, days) if b >= a]
    return tries


def tuned(plant: Plant, seed: int = 0) -> dict[str, Act]:
    """Returns the plain policies by name, those with settings tuned on the episodes of a seed."""

    def make(count: int) -> MaintenanceFleet:
        return MaintenanceFleet(count, plant)

    return {
        "run_to_failure": RUN_TO_FAILURE,
        "interval": choose(make, intervals(plant), seed),
        "threshold": choose(make, thresholds(plant), seed),
    }


def judge(plant: Plant, acts: Mapping[str, Act], seed: int, episodes: int = 1_000) -> dict[str, Floats]:
    """Returns what each policy costs in each of the same episodes, shape (episodes,), by name."""
    fleet = MaintenanceFleet(episodes, plant)
    return {name: -play(fleet, act, seed) for name, act in acts.items()}
