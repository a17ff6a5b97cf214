"""SHAP values of boosted trees: how much each feature has moved what they say of a row away from their mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tocsin.batch import Floats, Ints
from tocsin.errors import CorruptState
from tocsin.kernels import kernel

TREES = "trees.json"
"""The file beside the model that has its trees, as `trees_onnx.tree_attributes` gives them."""


@dataclass
class _Edge:
    """All that a way to a leaf asks of one feature."""

    above: float = -np.inf
    to: float = np.inf
    missing: bool = True
    share: float = 1.0
    """The share of the rows that taught which goes this way."""


class TreeContributions:
    """Exact SHAP values of trees, path-dependent: what is not known of a row goes each way as often as in training.

    A tree is the sum of its leaves, and a leaf counts where what its way asks of each feature is so (1, else 0); where
    a feature is not known, by the ``share`` of training's rows that went on. So the Shapley value of a feature is
    ``value * (so - share) * integral from 0 to 1 of prod(share * (1 - t) + so * t) dt`` over the other features of the
    way. The integrand is a polynomial, which Gauss and Legendre's quadrature integrates exactly.

    Lundberg et al., "From local explanations to global understanding with explainable AI for trees" (2020); Yu et al.,
    "Linear TreeShap" (2022).
    """

    def __init__(self, attributes: Mapping[str, Any], features: int) -> None:
        leaves = [leaf for tree in _trees(attributes) for leaf in _leaves(*tree)]
        self.features = features
        self._value = np.array([value for value, _ in leaves], np.float64)
        self._begins = np.cumsum([0, *(len(edges) for _, edges in leaves)]).astype(np.int64)
        edges = [(feature, edge) for _, way in leaves for feature, edge in way.items()]
        self._feature = np.array([feature for feature, _ in edges], np.int64)
        numbers = [(edge.above, edge.to, float(edge.missing), max(edge.share, 1e-12)) for _, edge in edges]
        self._edges: Floats = np.array(numbers, np.float64).reshape(-1, 4)
        longest = max((len(way) for _, way in leaves), default=1)
        at, weight = np.polynomial.legendre.leggauss(longest // 2 + 1)
        self._at, self._weight = (at + 1) / 2, weight / 2

    @classmethod
    def read(cls, content: bytes, features: int, place: str) -> TreeContributions:
        """Returns those of a file `TREES`; `CorruptState` says that it is none."""
        try:
            return cls(json.loads(content), features)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CorruptState(f"{place} holds no trees ({error!r}); train anew") from error

    def __call__(self, rows: Floats) -> Floats:
        """Returns shape (rows, features), in the trees' unit; ``rows`` has that shape, too, NaN where there is none."""
        out = np.zeros((len(rows), self.features))
        given = np.ascontiguousarray(rows.astype(np.float32), np.float64)
        _add(given, self._value, self._begins, self._feature, self._edges, self._at, self._weight, out)
        return out


@kernel
def _add(
    rows: Floats,
    value: Floats,
    begins: Ints,
    feature: Ints,
    edges: Floats,
    at: Floats,
    weight: Floats,
    out: Floats,
) -> None:
    """Add each leaf's Shapley values to ``out``; about 25 ns for each edge of a leaf's way."""
    so = np.empty(np.max(begins[1:] - begins[:-1]))
    for r in range(len(rows)):
        for leaf in range(len(value)):
            begin, end = begins[leaf], begins[leaf + 1]
            for e in range(begin, end):
                x = rows[r, feature[e]]
                holds = edges[e, 2] > 0.0 if np.isnan(x) else edges[e, 0] < x <= edges[e, 1]
                so[e - begin] = 1.0 if holds else 0.0
            for q in range(len(at)):
                t = at[q]
                whole = value[leaf] * weight[q]
                for e in range(begin, end):
                    whole *= edges[e, 3] * (1.0 - t) + so[e - begin] * t
                for e in range(begin, end):
                    share = edges[e, 3]
                    out[r, feature[e]] += (so[e - begin] - share) * whole / (share * (1.0 - t) + so[e - begin] * t)


_Nodes = Sequence[Mapping[str, Any]]


def _trees(attributes: Mapping[str, Any]) -> list[tuple[_Nodes, Mapping[int, float]]]:
    """Each tree's nodes, by their numbers, and what its leaves are worth."""
    names = [name for name in attributes if name.startswith("nodes_")]
    nodes: dict[int, list[Mapping[str, Any]]] = {}
    for values in zip(*(attributes[name] for name in names), strict=True):
        node = dict(zip(names, values, strict=True))
        nodes.setdefault(node["nodes_treeids"], []).append(node)
    worth: dict[int, dict[int, float]] = {tree: {} for tree in nodes}
    targets = (attributes[f"target_{name}"] for name in ("treeids", "nodeids", "weights"))
    for tree, number, weight in zip(*targets, strict=True):
        worth[tree][number] = weight
    return [(nodes[tree], worth[tree]) for tree in nodes]


def _leaves(nodes: _Nodes, worth: Mapping[int, float]) -> list[tuple[float, Mapping[int, _Edge]]]:
    """Each leaf's value, and by feature what its way asks of it."""
    leaves: list[tuple[float, Mapping[int, _Edge]]] = []

    def walk(number: int, way: Mapping[int, _Edge]) -> None:
        node = nodes[number]
        if node["nodes_modes"] == "LEAF":
            leaves.append((worth[number], way))
            return
        feature, limit = node["nodes_featureids"], node["nodes_values"]
        before = way.get(feature, _Edge())
        tracks = bool(node["nodes_missing_value_tracks_true"])
        for child, above, to, missing in (
            (node["nodes_truenodeids"], before.above, min(before.to, limit), tracks),
            (node["nodes_falsenodeids"], max(before.above, limit), before.to, not tracks),
        ):
            share = before.share * nodes[child]["nodes_hitrates"] / node["nodes_hitrates"]
            walk(child, {**way, feature: _Edge(above, to, before.missing and missing, share)})

    walk(0, {})
    return leaves
