"""Candidates of a round stand side by side, and none of them always goes first."""

from bench.turns import Candidate, take_turns


async def test_each_round_begins_with_another_and_the_first_is_not_counted() -> None:
    order: list[tuple[int, str]] = []

    def candidate(name: str) -> Candidate:
        async def measure(number: int) -> float:
            order.append((number, name))
            return float(number)

        return Candidate(name, measure)

    found = await take_turns([candidate(name) for name in "abc"], 4)
    rounds = ["".join(name for number, name in order if number == place) for place in range(5)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca"]
    assert found == {name: [1.0, 2.0, 3.0, 4.0] for name in "abc"}
