"""Teach recurrent forecasters by gradient: one for all, or one for each of many keys, all together (JAX, optax).

Many models of one shape are one model with an axis more (`jax.vmap`): each has its own weights, its own batches and its
own time to stop, and learns what it would have learnt alone.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tocsin.errors import MissingExtra
from tocsin.models.recurrent import GATES

try:
    import jax
    import jax.numpy as jnp
    import optax
except ImportError:
    raise MissingExtra("jax and optax", "train", "training") from None

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
CLIP = 1.0
"""The longest gradient of a step (Pascanu et al. 2013): recurrent nets now and then have one that is far too long."""
TOGETHER_BYTES = 64 * 1024
"""Models are taught together for as long as what they compute in one period stays in the processor's nearest cache;
the next ones after them. With 100 LSTMs of 16 units at once each epoch took three times as long as with four."""
Progress = Callable[[float, float], None]
"""Called after each epoch with the share that is done at most, and the mean loss on the part that says when to stop."""


@dataclass(frozen=True)
class Recipe:
    """How to teach."""

    cell: str = "lstm"
    units: int = 32
    epochs: int = 50
    patience: int = 5
    batch: int = 128
    learning_rate: float = 0.003
    seed: int = 0


class Lesson(NamedTuple):
    """What one model learns from: periods, and which windows of them."""

    inputs: F32
    """Shape (periods, inputs), scaled."""
    changes: F32
    """Shape (periods,): how much the target has changed a horizon later, scaled."""
    train: Ints
    validate: Ints


class Learnt(NamedTuple):
    """A model's best weights, by the part that says when to stop."""

    weights: dict[str, F32]
    loss: float
    epochs: int


def forward(cell: str, weights: Any, windows: Any) -> Any:
    """Returns the scaled change after each window; ``windows`` has the shape (rows, window, inputs)."""
    given = jnp.swapaxes(windows @ weights["w"].T + weights["b"], 0, 1)
    return last_state(cell, weights["r"].T, given) @ weights["out"] + weights["bias"]


def _advance(cell: str, state: Any, x: Any, own: Any) -> Any:
    """One period: ``x`` comes from the inputs and ``own`` from the state before, each (rows, gates times units)."""
    hidden, memory = state
    units = hidden.shape[-1]
    if cell == "rnn":
        return jnp.tanh(x + own), memory
    if cell == "gru":
        update, reset = jnp.split(jax.nn.sigmoid(x[:, : 2 * units] + own[:, : 2 * units]), 2, axis=1)
        new = jnp.tanh(x[:, 2 * units :] + reset * own[:, 2 * units :])
        return (1 - update) * new + update * hidden, memory
    let_in, let_out, keep = jnp.split(jax.nn.sigmoid(x[:, : 3 * units] + own[:, : 3 * units]), 3, axis=1)
    memory = keep * memory + let_in * jnp.tanh(x[:, 3 * units :] + own[:, 3 * units :])
    return let_out * jnp.tanh(memory), memory


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def last_state(cell: str, recurrent: Any, given: Any) -> Any:
    """Returns the hidden state after all periods, shape (rows, units); ``given`` is (window, rows, gates times units).

    Its gradient is written out: the one of the weights is then a single large product after the loop, where the
    library would add a small one to it in each period (three times as long).
    """
    return _run(cell, recurrent, given)[0]


def _run(cell: str, recurrent: Any, given: Any) -> Any:
    zero = jnp.zeros((given.shape[1], recurrent.shape[0]), given.dtype)

    def step(state: Any, x: Any) -> Any:
        own = state[0] @ recurrent
        return _advance(cell, state, x, own), (state, own)

    (hidden, _), before = jax.lax.scan(step, (zero, zero), given)
    return hidden, (recurrent, given, before)


def _run_back(cell: str, kept: Any, slope: Any) -> Any:
    recurrent, given, before = kept

    def step(slopes: Any, now: Any) -> Any:
        x, (state, own) = now
        (hidden, memory), of_x, of_own = jax.vjp(partial(_advance, cell), state, x, own)[1](slopes)
        return (hidden + of_own @ recurrent.T, memory), (of_x, of_own)

    _, (of_given, of_own) = jax.lax.scan(step, (slope, jnp.zeros_like(slope)), (given, before), reverse=True)
    return jnp.einsum("tbh,tbg->hg", before[0][0], of_own), of_given


last_state.defvjp(_run, _run_back)


class _Room(NamedTuple):
    """What the largest of all lessons needs, in steps of a power of two: what has its shape is compiled once.

    So that is for all groups, and in one process for trainings of about as many readings one after the other. It
    costs memory only; periods, batches and chunks that are not there are not computed.
    """

    periods: int
    batches: int
    chunks: int

    @classmethod
    def of(cls, lessons: Sequence[Lesson], recipe: Recipe) -> _Room:
        periods = max(len(one.inputs) for one in lessons)
        batches = max(_batches(one, recipe) for one in lessons)
        chunks = max(-(-len(one.validate) // recipe.batch) for one in lessons)
        return cls(*(1 << (count - 1).bit_length() for count in (periods, batches, chunks)))


def teach(
    lessons: Sequence[Lesson], window: int, recipe: Recipe, kept: Path | None = None, told: Progress | None = None
) -> list[Learnt]:
    """Teach one model for each lesson, many together, as many groups at a time as there are cores.

    ``kept`` is a folder that holds how far they are after each epoch: where it is there it goes on from it. The same
    lessons and recipe give the same weights, on one machine, however often it was interrupted. ``told`` may be called
    from another thread, one call at a time.
    """
    each = 4 * recipe.batch * GATES[recipe.cell] * recipe.units
    groups = -(-len(lessons) // max(1, TOGETHER_BYTES // each))
    size = -(-len(lessons) // groups)
    # Those of about the same length go together. Groups are of one size, so that they are compiled once: the last is
    # filled up with its last lesson.
    order = np.argsort([len(one.train) for one in lessons], kind="stable")
    places = order[np.minimum(np.arange(groups * size), len(lessons) - 1)].reshape(groups, size)
    room = _Room.of(lessons, recipe)
    compiled = _compiled(recipe.cell, window, recipe.learning_rate)
    turn, stop, done = threading.Lock(), threading.Event(), np.zeros(groups)

    def one_group(number: int) -> list[Learnt]:
        def tell(share: float, loss: float) -> bool:
            with turn:
                done[number] = share
                if told is not None and not stop.is_set():
                    told(float(done.mean()), loss)
            return not stop.is_set()

        file = None if kept is None else kept / f"group-{number}.npz"
        return _together([lessons[i] for i in places[number]], compiled, recipe, room, file, tell)

    learnt: dict[int, Learnt] = {}
    with ThreadPoolExecutor(min(groups, os.cpu_count() or 1)) as pool:
        try:
            for number, some in enumerate(pool.map(one_group, range(groups))):
                learnt.update(zip(places[number].tolist(), some, strict=True))
        except BaseException:
            stop.set()  # an interrupt, too: each group ends with its epoch, which is kept
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [learnt[i] for i in range(len(lessons))]


def _batches(lesson: Lesson, recipe: Recipe) -> int:
    return max(1, len(lesson.train) // recipe.batch)


def _together(
    lessons: Sequence[Lesson], compiled: tuple[Any, Any, Any], recipe: Recipe, room: _Room, kept: Path | None,
    told: Callable[[float, float], bool],
) -> list[Learnt]:  # fmt: skip
    """Teach a group; ``told`` is called after each epoch with the share that is done, and says whether to go on."""
    inputs = _stacked([one.inputs for one in lessons], room.periods)
    changes = _stacked([one.changes for one in lessons], room.periods)
    batches = max(_batches(one, recipe) for one in lessons)
    longest = max(len(one.validate) for one in lessons)
    chunks = -(-longest // recipe.batch)
    judged = room.chunks * recipe.batch
    validate = np.stack([np.resize(one.validate, judged) for one in lessons])
    weight = np.stack([np.arange(judged) < len(one.validate) for one in lessons]).astype(np.float32)
    run, judge, start = compiled
    weights = _initial(recipe, len(lessons), inputs.shape[-1])
    state = (weights, start(weights), weights, np.full(len(lessons), np.inf, np.float32),
             np.zeros(len(lessons), np.int32), np.zeros((), np.int32))  # fmt: skip
    if kept is not None and kept.exists():
        state = _restored(kept, state)
    weights, moments, best, loss, since, epoch = state
    by_chunk = (_in_chunks(validate, room.chunks), _in_chunks(weight, room.chunks))
    while epoch < recipe.epochs and (since < recipe.patience).any():
        order = np.zeros((room.batches, len(lessons), recipe.batch), np.int64)
        order[:batches] = _order(lessons, batches, recipe, int(epoch))
        weights, moments = run(weights, moments, inputs, changes, order, batches)
        now = np.asarray(judge(weights, inputs, changes, *by_chunk, chunks))
        better = (now < loss) & (since < recipe.patience)
        best = jax.tree.map(lambda new, old: jnp.where(_wide(better, new), new, old), weights, best)  # noqa: B023
        loss = np.where(better, now, loss)
        since = np.where(better, 0, since + 1).astype(np.int32)
        epoch = epoch + np.int32(1)
        if kept is not None:
            _keep(kept, (weights, moments, best, loss, since, epoch))
        if not told(int(epoch) / recipe.epochs, float(np.mean(loss))):
            break
    return [
        Learnt({name: np.asarray(values[k]) for name, values in best.items()}, float(loss[k]), int(epoch))
        for k in range(len(lessons))
    ]


@lru_cache(maxsize=8)
def _compiled(cell: str, window: int, learning_rate: float) -> tuple[Any, Any, Any]:
    """Returns one epoch, the loss on the part that says when to stop, and the optimiser's start, for many models."""
    optimiser = optax.adam(learning_rate)
    back = np.arange(1 - window, 1)

    def losses(weights: Any, inputs: Any, changes: Any, ends: Any) -> Any:
        said = forward(cell, weights, inputs[ends[:, None] + back])
        return optax.losses.huber_loss(said, changes[ends])

    def slope(weights: Any, inputs: Any, changes: Any, ends: Any) -> Any:
        steep = jax.grad(lambda w: losses(w, inputs, changes, ends).mean())(weights)
        length = optax.tree.norm(steep)
        return jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, CLIP / (length + 1e-9)), steep)

    def one_batch(state: Any, ends: Any, inputs: Any, changes: Any) -> Any:
        weights, moments = state
        steps, moments = optimiser.update(jax.vmap(slope)(weights, inputs, changes, ends), moments)
        return optax.apply_updates(weights, steps), moments

    # How many batches and chunks there are is an argument: another count is not compiled anew.
    @jax.jit
    def run(weights: Any, moments: Any, inputs: Any, changes: Any, order: Any, batches: Any) -> Any:
        return jax.lax.fori_loop(
            0, batches, lambda i, state: one_batch(state, order[i], inputs, changes), (weights, moments)
        )

    @jax.jit
    def judge(weights: Any, inputs: Any, changes: Any, ends: Any, counts: Any, chunks: Any) -> Any:
        def chunk(i: Any, total: Any) -> Any:
            return total + (jax.vmap(losses)(weights, inputs, changes, ends[i]) * counts[i]).sum(axis=1)

        return jax.lax.fori_loop(0, chunks, chunk, jnp.zeros(inputs.shape[0])) / counts.sum(axis=(0, 2))

    return run, judge, optimiser.init


def _initial(recipe: Recipe, models: int, inputs: int) -> dict[str, F32]:
    """Small random weights, the same for each model (Glorot & Bengio 2010); an LSTM begins by remembering."""
    random = np.random.default_rng(recipe.seed)
    gates, units = GATES[recipe.cell], recipe.units
    reach = 1 / np.sqrt(units)
    one = {
        "w": random.uniform(-reach, reach, (gates * units, inputs)),
        "r": random.uniform(-reach, reach, (gates * units, units)),
        "b": np.zeros(gates * units),
        "out": random.uniform(-reach, reach, units) * 0.1,
        "bias": np.zeros(()),
    }
    if recipe.cell == "lstm":
        one["b"][2 * units : 3 * units] = 1.0
    return {name: np.repeat(values[None], models, axis=0).astype(np.float32) for name, values in one.items()}


def _order(lessons: Sequence[Lesson], batches: int, recipe: Recipe, epoch: int) -> Ints:
    """The windows of an epoch, shape (batches, models, batch): each model's own in a new order; few come again."""
    drawn = []
    for one in lessons:
        random = np.random.default_rng((recipe.seed, epoch))
        drawn.append(np.resize(random.permutation(one.train), (batches, recipe.batch)))
    return np.stack(drawn, axis=1)


def _stacked(arrays: Sequence[F32], periods: int) -> Any:
    """Returns arrays of different lengths as one, zeros at their ends; what is missing becomes 0, and is never read."""
    whole = np.zeros((len(arrays), periods, *arrays[0].shape[1:]), np.float32)
    for k, one in enumerate(arrays):
        whole[k, : len(one)] = np.nan_to_num(one)
    return jnp.asarray(whole)


def _in_chunks(values: npt.NDArray[Any], chunks: int) -> Any:
    return jnp.asarray(np.stack(np.split(values, chunks, axis=1)))


def _wide(mask: npt.NDArray[np.bool_], like: Any) -> Any:
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def _keep(path: Path, state: Any) -> None:
    content = io.BytesIO()
    np.savez(content, *map(np.asarray, jax.tree.leaves(state)))
    new = path.with_suffix(".new")
    new.write_bytes(content.getvalue())
    new.replace(path)


def _restored(path: Path, like: Any) -> Any:
    """Returns the state that a file holds; arrays only, nothing in it can run."""
    with np.load(path, allow_pickle=False) as saved:
        leaves = [saved[name] for name in saved.files]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
