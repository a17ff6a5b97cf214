"""Text into classes: TF-IDF with naive Bayes or a linear model, taught by scikit-learn, kept as one ONNX model.

The model takes texts and gives classes: lower case, words of two letters or more, their weights, the classes' shares.
Which method and which smoothing is chosen by cross-validation within the texts that teach; what judges is looked at
once, by what was chosen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.errors import ConfigError, MissingExtra
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.store import Store

KIND = "text"
WORD = r"\w\w+"
_WORD_RE2 = r"[\p{L}\p{N}_]{2,}"
"""The same words for the runtime, whose expressions are those of RE2."""
WORDS_MAX = 60_000
"""Words that a model knows, the most frequent ones: a text is a row of so many numbers while it is judged."""
FOLDS = 3
Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Candidate:
    """A way to tell classes apart, and how much it is held back from believing single words."""

    method: str
    """``naive_bayes`` (McCallum & Nigam 1998), or ``linear``: hinge loss by stochastic gradient (Zhang 2004)."""
    smoothing: float

    def build(self, seed: int) -> Any:
        from sklearn.linear_model import SGDClassifier
        from sklearn.naive_bayes import MultinomialNB

        if self.method == "naive_bayes":
            return MultinomialNB(alpha=self.smoothing)
        return SGDClassifier(alpha=self.smoothing, random_state=seed)


CANDIDATES = (
    *(Candidate("naive_bayes", smoothing) for smoothing in (1.0, 0.1, 0.01)),
    *(Candidate("linear", smoothing) for smoothing in (3e-5, 1e-4, 3e-4)),
)


@dataclass(frozen=True)
class TextModel:
    """What was taught: the vectoriser and the classifier of scikit-learn, and how sure their scores are."""

    vectoriser: Any
    classifier: Any
    sharpness: float
    """What scores are multiplied by before they become shares, so that the shares hold what they promise."""
    chosen: Candidate
    accuracies: Mapping[Candidate, float]
    """By candidate: the share of texts that cross-validation put into the right class."""

    def scores(self, texts: Sequence[str]) -> Floats:
        """Returns a score for each class, shape (texts, classes), before it becomes a share."""
        return _scores(self.classifier, self.vectoriser.transform(map(str.lower, texts)))

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Returns the share of each class, shape (texts, classes); rows add up to 1."""
        return _softmax(self.sharpness * self.scores(texts))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Returns the class of each text."""
        return [str(self.classifier.classes_[i]) for i in self.scores(texts).argmax(axis=1)]

    def to_onnx(self) -> bytes:
        """Returns the model: input ``text`` (rows,); outputs ``class``, ``probability`` and ``known``, each (rows,).

        ``known`` is how many of the text's words, each counted once, the model was taught.
        """
        vocabulary = self.vectoriser.get_feature_names_out()
        coefficients, intercepts = _linear(self.classifier)
        return _graph(
            [str(word) for word in vocabulary],
            np.asarray(self.vectoriser.idf_, np.float32),
            np.asarray(self.sharpness * coefficients, np.float32),
            np.asarray(self.sharpness * intercepts, np.float32),
            [str(name) for name in self.classifier.classes_],
        )


def train(
    texts: Sequence[str], classes: Sequence[str], candidates: Sequence[Candidate] = CANDIDATES, seed: int = 0
) -> TextModel:
    """Return the best of some candidates, chosen by cross-validation, taught with all of the texts.

    Raises
    ------
    ConfigError
        There are fewer than two classes, or a class has too few texts to hold any back.
    """
    try:
        from sklearn.model_selection import StratifiedKFold
    except ImportError:
        raise MissingExtra("scikit-learn", "train", "a model of texts") from None
    _check(texts, classes)
    wanted, lower = np.array([str(name) for name in classes]), [text.lower() for text in texts]
    held_back: dict[Candidate, Floats] = {}
    for teach, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(lower, wanted):
        vectoriser = _vectoriser()
        taught = vectoriser.fit_transform([lower[i] for i in teach])
        judged = vectoriser.transform([lower[i] for i in judge])
        for candidate in candidates:
            classifier = candidate.build(seed).fit(taught, wanted[teach])
            scores = held_back.setdefault(candidate, np.empty((len(wanted), len(classifier.classes_))))
            scores[judge] = _scores(classifier, judged)
    names = np.unique(wanted)
    numbers = np.searchsorted(names, wanted)
    accuracies = {c: float(np.mean(scores.argmax(axis=1) == numbers)) for c, scores in held_back.items()}
    chosen = max(accuracies, key=lambda candidate: accuracies[candidate])
    vectoriser = _vectoriser()
    classifier = chosen.build(seed).fit(vectoriser.fit_transform(lower), wanted)
    return TextModel(vectoriser, classifier, _sharpness(held_back[chosen], numbers), chosen, accuracies)


def version(
    name: str, column: str, model: TextModel, judge: tuple[Sequence[str], Sequence[str]], target: str = "class"
) -> tuple[Manifest, Mapping[str, bytes]]:
    """Return what `Store.add` needs: a manifest with the accuracy on texts that judge, and the files.

    The baseline beside it says the most frequent class of every text.
    """
    texts, classes = judge
    accuracy = float(np.mean(np.array(model.predict(texts)) == np.array([str(c) for c in classes])))
    most = Counter(map(str, classes)).most_common(1)[0][1] / len(classes)
    manifest = Manifest(
        name=name,
        kind=KIND,
        inputs=(column,),
        target=target,
        metrics={"accuracy": accuracy, "accuracy_cross_validated": model.accuracies[model.chosen]},
        baselines={"most_frequent": {"accuracy": most}},
        judged_by="accuracy",
        higher_is_better=True,
        settings={
            "method": model.chosen.method,
            "smoothing": model.chosen.smoothing,
            "classes": [str(name) for name in model.classifier.classes_],
        },
    )
    return manifest, {MODEL: model.to_onnx()}


def _check(texts: Sequence[str], classes: Sequence[str]) -> None:
    counts = Counter(map(str, classes))
    if len(texts) != len(classes):
        raise ConfigError(f"there are {len(texts)} texts and {len(classes)} classes; give one class for each text")
    if len(counts) < 2:
        raise ConfigError(f"the texts have {len(counts)} class; to be told apart there must be two or more")
    name, fewest = counts.most_common()[-1]
    if fewest < FOLDS:
        raise ConfigError(f"class '{name}' has {fewest} texts; give {FOLDS} or more, or leave it out")


def _vectoriser() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        lowercase=False, token_pattern=WORD, sublinear_tf=True, min_df=2, max_features=WORDS_MAX, dtype=np.float64
    )


def _linear(classifier: Any) -> tuple[Floats, Floats]:
    """Coefficients (words, classes) and intercepts (classes,); a classifier of two classes has but one score."""
    if hasattr(classifier, "feature_log_prob_"):
        return classifier.feature_log_prob_.T, classifier.class_log_prior_
    coefficients, intercepts = classifier.coef_.T, classifier.intercept_
    if coefficients.shape[1] == 1:
        coefficients, intercepts = np.hstack([-coefficients, coefficients]), np.append(-intercepts, intercepts)
    return coefficients, intercepts


def _scores(classifier: Any, rows: Any) -> Floats:
    coefficients, intercepts = _linear(classifier)
    return np.asarray(rows @ coefficients + intercepts)


def _softmax(scores: Floats) -> Floats:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _sharpness(scores: Floats, numbers: npt.NDArray[np.int64]) -> float:
    """The factor under which the shares of held-back texts have the least logarithmic loss (Guo et al. 2017)."""
    factors = np.geomspace(0.1, 100, 61)
    losses = [-np.mean(np.log(_softmax(f * scores)[np.arange(len(numbers)), numbers] + 1e-12)) for f in factors]
    return float(factors[int(np.argmin(losses))])


def _graph(words: Sequence[str], idf: Scores, weights: Scores, bias: Scores, classes: Sequence[str]) -> bytes:
    """The model in ONNX's operators, and one of the runtime's own (``Tokenizer`` of com.microsoft)."""
    try:
        import onnx.helper
        from onnx import TensorProto, numpy_helper
    except ImportError:
        raise MissingExtra("onnx", "train", "a model of texts") from None
    node = onnx.helper.make_node
    nodes = [
        # The locale C lowers A to Z alone, everywhere alike; what calls the model has lowered the other letters.
        node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER", locale="C", is_case_sensitive=1),
        node("Tokenizer", ["lower"], ["words"], domain="com.microsoft", mark=0, pad_value="", mincharnum=2,
             tokenexp=_WORD_RE2),
        node("TfIdfVectorizer", ["words"], ["counts"], mode="TF", min_gram_length=1, max_gram_length=1,
             max_skip_count=0, ngram_counts=[0], ngram_indexes=list(range(len(words))), pool_strings=list(words)),
        # 1 + log(count), and 0 where the count is 0
        node("Max", ["counts", "one"], ["at_least_one"]),
        node("Log", ["at_least_one"], ["logarithm"]),
        node("Min", ["counts", "one"], ["present"]),
        node("Add", ["logarithm", "present"], ["frequency"]),
        node("Mul", ["frequency", "idf"], ["weighted"]),
        node("LpNormalization", ["weighted"], ["features"], axis=1, p=2),
        node("MatMul", ["features", "weights"], ["product"]),
        node("Add", ["product", "bias"], ["scores"]),
        node("Softmax", ["scores"], ["probabilities"], axis=1),
        node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        node("Gather", ["classes", "best"], ["class"]),
        node("ReduceMax", ["probabilities"], ["probability"], axes=[1], keepdims=0),
        node("ReduceSum", ["present", "across"], ["known"], keepdims=0),
    ]  # fmt: skip
    numbers = {"one": np.ones(1, np.float32), "idf": idf, "weights": weights, "bias": bias, "across": np.array([1])}
    constants = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in numbers.items()]
    constants.append(
        onnx.helper.make_tensor("classes", TensorProto.STRING, [len(classes)], [c.encode() for c in classes])
    )
    outputs = {"class": TensorProto.STRING, "probability": TensorProto.FLOAT, "known": TensorProto.FLOAT}
    graph = onnx.helper.make_graph(
        nodes,
        "text",
        [onnx.helper.make_tensor_value_info("text", TensorProto.STRING, ["rows"])],
        [onnx.helper.make_tensor_value_info(name, kind, ["rows"]) for name, kind in outputs.items()],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


class TextClassifier:
    """One version of a model of texts, loaded (numpy and onnxruntime only)."""

    ROWS_MAX = 64
    """Texts of one call: each is a row of as many numbers as the model knows words."""
    ROWS_MIN = 8
    """Fewer texts are filled up to this many: the library sums one row alone in another order, and the last digit of a
    probability must not depend on how many texts came at once."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        from tocsin.models.runtime import ModelSession

        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; what tells texts apart is of kind {KIND}")
        self._session = ModelSession(files[MODEL], f"{place}/{MODEL}")

    @classmethod
    def open(cls, store: Store, name: str, version: int) -> TextClassifier:
        """Returns a version of a model, its files held against their digests."""
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    def classify(self, texts: Sequence[str | None]) -> tuple[list[str | None], Floats]:
        """Return the class of each text and its probability; None and NaN where no word of it is known."""
        classes: list[str | None] = [None] * len(texts)
        probabilities = np.full(len(texts), math.nan)
        some = [i for i, text in enumerate(texts) if text and not text.isspace()]
        for start in range(0, len(some), self.ROWS_MAX):
            at = some[start : start + self.ROWS_MAX]
            given = [(texts[i] or "").lower().replace("\0", " ") for i in at]
            given += [""] * (self.ROWS_MIN - len(given))
            names, shares, known = self._session.run({"text": np.array(given, object)})
            for i, name, share, words in zip(at, names, shares, known, strict=False):
                if words:
                    classes[i], probabilities[i] = str(name), share
        return classes, probabilities
