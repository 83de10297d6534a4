"""Every way in which two clusters may want one name."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dxmc_core.method.nouns.name_choice import ChosenName, NounEvidence, OwnName, choose_names, spelling_key


def cluster(own: str | None, strength: float = 0.5, **shares: float) -> tuple[OwnName | None, dict[str, float]]:
    """A cluster by its own name, and the shares of nouns in it (underscores for spaces)."""
    name = None if own is None else OwnName(own, "noun", strength)
    return name, {noun.replace("_", " "): share for noun, share in shares.items()}


def names(*clusters: tuple[OwnName | None, dict[str, float]]) -> list[str]:
    nouns = [[NounEvidence(noun, None, share, 0.0, share) for noun, share in shares.items()] for _, shares in clusters]
    by_spelling = [{spelling_key(noun): share for noun, share in shares.items()} for _, shares in clusters]
    return [found.name for found in choose_names([own for own, _ in clusters], nouns, by_spelling)]


def test_what_no_other_cluster_wants_stays_and_what_is_missing_is_numbered() -> None:
    found = choose_names([OwnName("dog", "hypernym", 0.4), None], [[], []], [{}, {}])
    assert found == [ChosenName("dog", "hypernym"), ChosenName("cluster 1", "unnamed")]


def test_the_strongest_has_the_name_and_the_other_a_second_word_that_is_true_of_it_alone() -> None:
    weak, strong = cluster("drum", 0.5, drum=0.8, bell=0.3), cluster("drum", 0.6, drum=0.9, horn=0.6)
    assert names(weak, strong) == ["drum (bell)", "drum"]


def test_a_second_word_that_is_true_of_both_is_none() -> None:
    weak = cluster("drum", 0.5, drum=0.8, bell=0.6, horn=0.3)
    assert names(weak, cluster("drum", 0.9, drum=0.9, bell=0.4)) == ["drum (horn)", "drum"]
    assert names(weak, cluster("drum", 0.9, drum=0.9, bell=0.4, horn=0.2)) == ["cluster 0 (drum)", "drum"]


def test_a_second_word_is_the_one_that_tells_most_and_has_evidence() -> None:
    strong = cluster("drum", 0.9, drum=0.9, bell=0.1)
    assert names(cluster("drum", 0.5, bell=0.5, horn=0.45), strong) == ["drum (horn)", "drum"]
    assert names(cluster("drum", 0.5, bell=0.24), strong) == ["cluster 0 (drum)", "drum"]


def test_three_of_one_name_are_told_from_one_another() -> None:
    clusters = [cluster("dog", strength, **shares) for strength, shares in (
        (0.3, {"poodle": 0.6, "snow": 0.5}), (0.4, {"beagle": 0.5, "snow": 0.6}), (0.5, {"pug": 0.5}),
    )]  # fmt: skip
    assert names(*clusters) == ["dog (poodle)", "dog (beagle)", "dog"]


def test_a_second_word_need_not_tell_what_is_told_apart_already() -> None:
    beagles = cluster("dog", 0.4, beagle=0.5, snow=0.5)
    snow = cluster("dog", 0.3, snow=0.6)
    # Snow is true of both, but the beagles are told from the others by their breed.
    assert names(cluster("dog", 0.5), beagles, snow) == ["dog", "dog (beagle)", "dog (snow)"]


def test_case_and_glosses_do_not_make_two_names() -> None:
    found = names(cluster("Drum", 0.5, **{"fig (fruit)": 0.3}), cluster("drum (musical instrument)", 0.9))
    assert found == ["Drum (fig)", "drum (musical instrument)"]
    assert spelling_key("Drum (musical instrument)") == spelling_key("drum")
    assert spelling_key("(odd)") == "(odd)"


def test_a_gloss_cannot_repeat_a_told_apart_name() -> None:
    found = names(cluster("fig (fruit)", 0.9), cluster("fig", 0.8, fruit=0.5, leaf=0.26))
    assert found == ["fig (fruit)", "fig (leaf)"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "dog", "Dog", "cat", "cluster 1", "dog (pug)", "dog 2"]),
            st.floats(0, 1),
            st.dictionaries(st.sampled_from(["pug", "snow", "Cat", "dog"]), st.floats(0, 1), max_size=3),
        ),
        max_size=8,
    )
)
def test_no_two_names_are_alike_whatever_clusters_want(wanted: list) -> None:
    found = names(*(cluster(own, strength, **shares) for own, strength, shares in wanted))
    assert len({name.casefold() for name in found}) == len(wanted)
