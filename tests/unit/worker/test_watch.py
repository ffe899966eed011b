from saggar.worker.watch import Advice, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def advices(watch: Watch, clock: Clock, seconds: int, **seen: int) -> list[Advice]:
    """What it advises in looks a second apart, where that is anything."""
    found = []
    for _ in range(seconds):
        clock.now += 1
        found.append(watch.look(**{"lying": 1, "free": 1, "taken": 0, **seen}))
    return [advice for advice in found if advice is not Advice.NOTHING]


def watching() -> tuple[Watch, Clock]:
    clock = Clock()
    return Watch(patience=30, clock=clock), clock


def test_who_takes_nothing_for_long_connects_anew_and_then_ends():
    watch, clock = watching()

    assert [] == advices(watch, clock, 30)
    assert [Advice.RECONNECT] == advices(watch, clock, 1)
    assert [] == advices(watch, clock, 29)
    assert [Advice.END] == advices(watch, clock, 1)


def test_who_takes_something_after_connecting_anew_is_well():
    watch, clock = watching()
    advices(watch, clock, 31)

    assert [] == advices(watch, clock, 30, taken=1)
    assert [Advice.RECONNECT] == advices(watch, clock, 1, taken=1)


def test_who_has_no_free_hand_or_nothing_to_do_is_well():
    watch, clock = watching()

    assert [] == advices(watch, clock, 29)
    assert [] == advices(watch, clock, 1, lying=0)
    assert [] == advices(watch, clock, 100, free=0)
    assert [] == advices(watch, clock, 30)
    assert 29 == watch.stuck


def test_time_in_which_nobody_looked_does_not_count():
    watch, clock = watching()
    advices(watch, clock, 10)
    clock.now += 1000

    assert [] == advices(watch, clock, 30)


def test_it_says_since_when_it_is_stuck():
    watch, clock = watching()
    advices(watch, clock, 12)

    assert 11 == watch.stuck
    advices(watch, clock, 1, taken=3)
    assert 0 == watch.stuck
