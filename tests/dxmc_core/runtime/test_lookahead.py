"""Working ahead: the same items in the same order, no more of them at a time than was said, errors in their place."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dxmc_core.runtime.lookahead import Budget, map_ahead, prefetched


def squares_until(stop, started=None):
    for number in range(stop):
        if started is not None:
            started.append(number)
        yield number * number


@pytest.mark.parametrize("ahead", [0, 1, 5, 100])
def test_mapped_items_keep_their_order(ahead):
    with ThreadPoolExecutor(3) as threads:
        assert list(map_ahead(lambda x: -x, range(20), threads=threads, ahead=ahead)) == [-x for x in range(20)]


def test_no_more_items_are_taken_than_was_said():
    started = []
    with ThreadPoolExecutor(3) as threads:
        results = map_ahead(lambda x: x, squares_until(100, started), threads=threads, ahead=4)
        assert next(results) == 0
        assert len(started) == 5
        results.close()


@pytest.mark.parametrize("ahead", [1, 3])
def test_prefetched_items_keep_their_order_and_their_errors(ahead):
    def failing():
        yield from squares_until(4)
        raise ValueError("the fifth")

    items = prefetched(failing(), ahead=ahead)
    assert [next(items) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(ValueError, match="the fifth"):
        next(items)


def test_items_are_made_before_they_are_asked_for():
    third_made = threading.Event()

    def items():
        yield 1
        yield 2
        third_made.set()
        yield 3

    taken = prefetched(items(), ahead=2)
    assert next(taken) == 1
    assert third_made.wait(10)
    assert list(taken) == [2, 3]


def test_budget_is_never_exceeded_but_by_one_alone():
    budget, lock, in_use, seen = Budget(10), threading.Lock(), [], []

    def work(amount):
        with budget.using(amount):
            with lock:
                in_use.append(amount)
                seen.append(list(in_use))
            with lock:
                in_use.remove(amount)

    amounts = [1, 4, 9, 50, 10, 3, 3, 3] * 20
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, amounts))
    assert all(sum(used) <= 10 or len(used) == 1 for used in seen)
    assert len(seen) == len(amounts)
