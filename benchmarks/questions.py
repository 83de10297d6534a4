"""What answers to yes/no questions are worth: ACC, NMI and ARI after 20, 50 and 200 of them, over seeds.

    python benchmarks/questions.py --datasets dtd ucf101 --data DIR --cache DIR --output questions.json

A person is simulated who sees six pictures on either side of a question and answers by their labels, truthfully: a side
is of the class of five of its pictures or more, and a question is skipped where there is no such class. Corrections are
applied as `dxmc review` applies them, and new questions found when the 60 of a report are answered. "Proposals" are
asked in the order of the page; "near" are what proposals are chosen from, in random order; "random" ones are about any
two clusters, and any piece of a cluster.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dxmc_core.estimator import DXMC
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.clusters.proposals import NUM_SHOWN, Proposal, propose

CHECKPOINTS = (0, 20, 50, 200)
ORDERS = ("proposals", "near", "random")
#: Questions of a report; when they are answered, the corrections are applied and others are found.
_ROUND = 60
#: Images that a yes names at most on either side, as in the report.
_MAX_NAMED = 100
_ALL = 10**9


class Session:
    """A clustering that is corrected by answers.

    Attributes:
        clusters: (N,) as corrected so far.
        answers, num_yes, skipped: how many questions were answered, how many of them by yes, and how many skipped.
    """

    def __init__(self, embeddings: np.ndarray, clusters: np.ndarray, classes: np.ndarray) -> None:
        self._embeddings, self._classes = embeddings, classes
        self.clusters = np.unique(clusters, return_inverse=True)[1]
        self.answers = self.num_yes = self.skipped = 0
        #: By kind of question, one and how many were yes, and how many were expected to be.
        self._counts = {kind: [1.0, 1.0] for kind in ("merge", "split", "move")}
        self._apart: list[tuple[int, int]] = []
        self._together: list[tuple[int, int]] = []

    def questions(self, order: str, rng: np.random.Generator) -> Iterator[Proposal]:
        """Questions about the clusters as they are now."""
        self.clusters = np.unique(self.clusters, return_inverse=True)[1]
        found = propose(
            self._embeddings,
            self.clusters,
            np.bincount(self.clusters),
            max_proposals=_ROUND if order == "proposals" else _ALL,
            apart=self._apart,
            together=self._together,
        )
        self._counts = {kind: [1.0, 1.0] for kind in self._counts}
        if order == "proposals":
            while found:
                yield found.pop(max(range(len(found)), key=lambda place: self._worth(found[place])))
        elif order == "near":
            yield from (found[place] for place in rng.permutation(len(found)))
        else:
            yield from self._random(found, rng)

    def _random(self, found: Sequence[Proposal], rng: np.random.Generator) -> Iterator[Proposal]:
        pieces = [question for question in found if question.kind == "split"]
        wholes = [self._typical_first(np.flatnonzero(self.clusters == number)) for number in np.unique(self.clusters)]
        for _ in range(50 * _ROUND):
            kind = rng.choice(["merge", "split", "move"])
            first, second = (int(number) for number in rng.choice(len(wholes), 2, replace=False))
            if kind == "merge":
                yield Proposal("merge", first, second, wholes[first], wholes[second], 0.0, 0)
                continue
            if not pieces:
                continue
            question = pieces[rng.integers(len(pieces))]
            if kind == "split":
                yield question
            elif question.first != second:
                half = (question.group, question.other)[rng.integers(2)]
                yield Proposal("move", question.first, second, half, wholes[second], 0.0, 0)

    def _worth(self, question: Proposal) -> float:
        """As the page reckons it: kinds of which fewer were yes than expected come later."""
        num_yes, expected = self._counts[question.kind]
        return question.probability * question.num_images * num_yes / expected

    def _typical_first(self, members: np.ndarray) -> np.ndarray:
        mean = self._embeddings[members].mean(axis=0, dtype=np.float32)
        return members[np.argsort(-(self._embeddings[members] @ mean), kind="stable")]

    def is_open(self, question: Proposal) -> bool:
        """Whether the answer does not follow from others."""
        same = self._cluster_of(question.group) == self._cluster_of(question.other)
        return same == (question.kind == "split")

    def answer(self, question: Proposal) -> None:
        """Let the person answer, and correct the clustering."""
        classes = [self._class_of(side) for side in (question.group, question.other)]
        pair = int(question.group[0]), int(question.other[0])
        if min(classes) < 0:
            self.skipped += 1
            (self._together if question.kind == "split" else self._apart).append(pair)
            return
        is_yes = (classes[0] == classes[1]) != (question.kind == "split")
        self.answers += 1
        self.num_yes += is_yes
        self._counts[question.kind][0] += is_yes
        self._counts[question.kind][1] += question.probability
        if not is_yes:
            (self._together if question.kind == "split" else self._apart).append(pair)
        elif question.kind == "merge":
            self.clusters[self.clusters == self._cluster_of(question.other)] = self._cluster_of(question.group)
        elif question.kind == "move":
            self.clusters[question.group[:_MAX_NAMED]] = self._cluster_of(question.other)
        else:
            self._split(question)

    def _split(self, question: Proposal) -> None:
        """Every image that is not named goes to the side whose mean it is nearer to."""
        members = np.flatnonzero(self.clusters == self._cluster_of(question.group))
        sides = question.group[:_MAX_NAMED], question.other[:_MAX_NAMED]
        means = np.stack([self._embeddings[side].mean(axis=0, dtype=np.float32) for side in sides])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        nearer = (self._embeddings[members] @ means.T).argmax(axis=1)
        goes_to = dict(zip(members.tolist(), nearer.tolist(), strict=True))
        goes_to |= {row: place for place, side in enumerate(sides) for row in side.tolist() if row in goes_to}
        self.clusters[[row for row, place in goes_to.items() if place == 0]] = self.clusters.max() + 1

    def _cluster_of(self, side: np.ndarray) -> int:
        return _most_frequent(self.clusters[side[:NUM_SHOWN]])[0]

    def _class_of(self, side: np.ndarray) -> int:
        """The class that more than three quarters of the pictures show, or -1."""
        found, count = _most_frequent(self._classes[side[:NUM_SHOWN]])
        return found if 4 * count > 3 * len(side[:NUM_SHOWN]) else -1

    def scores(self) -> dict[str, float]:
        return external_scores(self._classes, self.clusters)


def _most_frequent(values: np.ndarray) -> tuple[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()]), int(counts.max())


def simulate(embeddings: np.ndarray, clusters: np.ndarray, classes: np.ndarray, *, order: str, seed: int) -> dict:
    """Scores by the number of answers, and the share of answers that were yes."""
    session, rng = Session(embeddings, clusters, classes), np.random.default_rng(seed)
    scores = {0: session.scores()}
    while session.answers < CHECKPOINTS[-1]:
        before = session.answers + session.skipped
        for question in session.questions(order, rng):
            if session.answers + session.skipped - before == _ROUND or session.answers == CHECKPOINTS[-1]:
                break
            if session.is_open(question):
                session.answer(question)
                if session.answers in CHECKPOINTS:
                    scores[session.answers] = session.scores()
        if session.answers + session.skipped == before:  # nothing is left to ask
            break
    for number in CHECKPOINTS:
        scores.setdefault(number, session.scores())
    share = session.num_yes / max(session.answers, 1)
    return {"scores": scores, "answers": session.answers, "skipped": session.skipped, "yes": share}


def cluster(name: str, data: Path, cache: Path | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, clusters by `best` and classes of a data set."""
    with np.load(data / "clip_vitb32" / f"{name}.npz") as found:
        embeddings, classes = found["embeddings"], np.unique(found["labels"], return_inverse=True)[1]
    kept = None if cache is None else cache / f"{name}-{seed}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as found:
            return embeddings, found["labels"], classes
    with np.load(data / "clip_vitb32" / "nouns.npz") as found:
        nouns, noun_embeddings = found["nouns"].tolist(), found["embeddings"]
    model = DXMC(len(np.unique(classes)), random_state=seed)
    model.fit(embeddings, noun_embeddings=noun_embeddings, nouns=nouns)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, labels=model.labels_)
    return embeddings, model.labels_, classes


def markdown(results: Sequence[dict]) -> str:
    """A table: ACC / NMI / ARI in percent, means over seeds; a standard deviation of ACC."""
    lines = [
        "| set | questions | " + " | ".join(f"{number} answers" for number in CHECKPOINTS) + " | yes |",
        "|---|---|" + "---|" * (len(CHECKPOINTS) + 1),
    ]
    for name in dict.fromkeys(result["dataset"] for result in results):
        for order in ORDERS:
            runs = [run for run in results if (run["dataset"], run["order"]) == (name, order)]
            cells = []
            for number in CHECKPOINTS:
                values = {key: [100 * run["scores"][number][key] for run in runs] for key in ("acc", "nmi", "ari")}
                spread = statistics.stdev(values["acc"]) if len(runs) > 1 else 0.0
                acc, nmi, ari = (statistics.fmean(values[key]) for key in ("acc", "nmi", "ari"))
                cells.append(f"{acc:.1f} ± {spread:.1f} / {nmi:.1f} / {ari:.1f}")
            share = statistics.fmean(run["yes"] for run in runs)
            lines.append(f"| {name} | {order} | " + " | ".join(cells) + f" | {100 * share:.0f} % |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="in clip_vitb32/ of the data")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where clusterings are kept")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    results: list[dict] = []
    for name in options.datasets:
        for seed in range(options.seeds):
            embeddings, clusters, classes = cluster(name, options.data, options.cache, seed)
            for order in ORDERS:
                run = simulate(embeddings, clusters, classes, order=order, seed=seed)
                results.append({"dataset": name, "order": order, "seed": seed, **run})
                found = " ".join(f"{number}: {100 * run['scores'][number]['acc']:.1f}" for number in CHECKPOINTS)
                print(f"{name} seed {seed} {order}: ACC {found}", file=sys.stderr, flush=True)
            options.output.write_text(json.dumps(results, indent=1))
    print(markdown(results))


if __name__ == "__main__":
    main()
