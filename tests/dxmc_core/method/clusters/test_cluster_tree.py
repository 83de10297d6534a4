"""Which clusters join first, and what inner nodes are called, on a small hierarchy and on WordNet's own."""

import numpy as np

from dxmc_core.method.clusters.cluster_tree import NamedCluster, NodeName, cluster_tree, name_inner_nodes
from dxmc_core.method.nouns.taxonomy import Taxonomy
from dxmc_core.vocabulary.wordnet import wordnet_taxonomy

#: As in test_hypernyms: entity over animal (dog, cat), vehicle and food, with enough leaves to be specific.
HYPERNYMS = {
    "entity": [],
    **{kind: ["entity"] for kind in ("animal", "vehicle", "food")},
    **{kind: ["animal"] for kind in ("dog", "cat")},
    **{kind: ["vehicle"] for kind in ("car", "boat")},
    **{breed: ["dog"] for breed in ("poodle", "beagle", "boxer")},
    **{breed: ["cat"] for breed in ("tabby", "manx")},
    **{kind: ["food"] for kind in ("bread", "rice", "soup", "pie")},
}
TAXONOMY = Taxonomy(HYPERNYMS, {synset: synset for synset in HYPERNYMS})


def on_a_line(*places):
    """Unit vectors at small angles: how far apart two of them are is the difference of their places."""
    angles = np.array(places) / 100
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def leaf(name, *nouns, has_synsets=True):
    """A cluster called by its best noun, which all nouns listed describe."""
    listed = nouns or (name,)
    return NamedCluster(name, [(noun, noun if has_synsets else None, 0.8) for noun in listed], listed[0] == name)


def named(places, clusters, sizes=None, taxonomy=TAXONOMY):
    tree = cluster_tree(on_a_line(*places), np.array(sizes or [10] * len(places)))
    return tree, name_inner_nodes(tree, clusters, taxonomy=taxonomy)


def test_inner_nodes_are_called_by_the_lowest_common_hypernym():
    clusters = [leaf("poodle"), leaf("beagle"), leaf("tabby"), leaf("car"), leaf("boat")]
    tree, names = named([0, 1, 4, 40, 43], clusters)
    assert [(name.name, name.source) for name in names] == [
        ("dog", "hypernym"),
        ("vehicle", "hypernym"),
        ("animal", "hypernym"),
        # All that animals and vehicles have in common says nothing.
        ("poodle, beagle and 3 more", "members"),
    ]
    assert tree.joins.tolist() == [[0, 1], [3, 4], [2, 5], [6, 7]]


def test_a_node_that_shares_the_name_of_the_one_above_lists_its_largest_clusters():
    clusters = [leaf("poodle"), leaf("beagle"), leaf("boxer")]
    _, names = named([0, 1, 4], clusters, sizes=[10, 30, 20])
    assert [name.name for name in names] == ["dog (beagle, poodle)", "dog"]


def test_without_synsets_a_noun_that_most_clusters_share_is_the_name():
    described = [("red", "petal"), ("pink", "Petal"), ("stone",)]
    _, names = named([0, 1, 30], [leaf(nouns[0], *nouns, has_synsets=False) for nouns in described])
    assert names == [NodeName("petal (red, pink)", "noun"), NodeName("petal", "noun")]


def test_unnamed_clusters_vote_by_what_they_are_near_to_and_one_stray_changes_nothing():
    scattered = NamedCluster("cluster 7", [("poodle", "poodle", 0.3), ("beagle", "beagle", 0.1)], False)
    dogs = [leaf("poodle"), leaf("beagle"), leaf("boxer"), leaf("rice"), scattered]
    _, names = named([0, 1, 3, 6, 10], dogs)
    assert names[-1] == NodeName("dog", "hypernym")
    nothing = NamedCluster("cluster 1", [], False)
    _, names = named([0, 1], [leaf("poodle"), nothing])
    assert names == [NodeName("poodle, cluster 1", "members")]


def test_large_clusters_count_more_in_the_tree():
    places = [0, 10, 19]
    even, _ = named(places, [leaf("a"), leaf("b"), leaf("c")], sizes=[10, 10, 10])
    uneven, _ = named(places, [leaf("a"), leaf("b"), leaf("c")], sizes=[5, 40, 40])
    assert even.joins[0].tolist() == [1, 2]
    assert uneven.joins[0].tolist() == [0, 1]
    np.testing.assert_allclose(even.heights[0], 2 * np.sin(0.09 / 2))


def test_on_wordnet_dogs_are_dogs_and_a_dog_and_a_car_have_no_name_in_common():
    kinds = {"beagle": "beagle.n.01", "poodle": "poodle.n.01", "sparrow": "sparrow.n.01", "cab": "cab.n.03"}
    clusters = [NamedCluster(noun, [(noun, synset, 0.9)], True) for noun, synset in kinds.items()]
    _, names = named([0, 1, 4, 40], clusters, taxonomy=wordnet_taxonomy())
    assert [name.name for name in names] == ["dog", "vertebrate", "beagle, poodle and 2 more"]


def test_one_cluster_has_no_inner_node():
    tree, names = named([0], [leaf("poodle")])
    assert (tree.num_points, names) == (1, [])
