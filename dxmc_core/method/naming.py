"""Interim."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class ClusterName:
    name: str
    names: tuple[str, ...]
    evidence: tuple
    source: str

def name_clusters(image_embeddings, labels, noun_embeddings, nouns, synset_ids, *, num_clusters, hypernyms=None, synset_nouns=None, confidences=None):
    sims = np.zeros((num_clusters, len(nouns)), np.float32)
    for c in range(num_clusters):
        m = image_embeddings[labels == c].astype(np.float32)
        if len(m): sims[c] = m.mean(0) @ noun_embeddings.astype(np.float32).T
    lift = sims - sims.mean(0)
    out, used = [], set()
    for c in range(num_clusters):
        order = [j for j in np.argsort(-lift[c]) if nouns[j] not in used][:5]
        if order: used.add(nouns[order[0]])
        out.append(ClusterName(nouns[order[0]] if order else f"unnamed {c}", tuple(nouns[j] for j in order), tuple((nouns[j], synset_ids[j], 0.5, 0.1) for j in order), "noun"))
    return out
