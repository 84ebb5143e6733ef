"""The choice of a worker."""

from services.gateway.placement import choose
from services.gateway.routes import Worker


def worker(
    name: str,
    *,
    running: int = 0,
    waiting: int = 0,
    resident: str = "",
    draining: bool = False,
    base: str = "base",
) -> Worker:
    return Worker(
        id=name,
        address=f"{name}:1",
        base_model=base,
        max_sequences=4,
        resident=frozenset(resident.split()),
        running=running,
        waiting=waiting,
        draining=draining,
    )


def chosen(
    workers: list[Worker],
    digest: str | None = None,
    in_flight: dict[str, int] | None = None,
    exclude: tuple[str, ...] = (),
) -> str | None:
    found = choose(
        workers,
        base_model="base",
        adapter_digest=digest,
        in_flight=in_flight or {},
        exclude=exclude,
    )
    return None if found is None else found.id


def test_the_one_with_least_in_flight_wins() -> None:
    assert chosen([worker("a", running=2), worker("b", running=1, waiting=0), worker("c", waiting=2)]) == "b"


def test_this_gateways_own_requests_count() -> None:
    assert chosen([worker("a"), worker("b", running=1)], in_flight={"a": 2}) == "b"


def test_a_resident_adapter_outweighs_load() -> None:
    assert chosen([worker("a"), worker("b", running=3, resident="x y")], "x") == "b"


def test_a_loaded_worker_with_the_adapter_is_spilled_from() -> None:
    assert chosen([worker("a", running=1), worker("b", running=3, waiting=1, resident="x")], "x") == "a"


def test_a_burst_that_no_report_shows_yet_spills_too() -> None:
    assert chosen([worker("a", running=1), worker("b", resident="x")], "x", {"b": 4}) == "a"


def test_where_all_are_loaded_the_adapter_stays_where_it_is() -> None:
    assert chosen([worker("a", running=4), worker("b", running=9, resident="x")], "x") == "b"


def test_among_residents_the_least_loaded_wins() -> None:
    workers = [worker("a", running=2, resident="x"), worker("b", running=1, resident="x"), worker("c")]
    assert chosen(workers, "x") == "b"


def test_base_requests_do_not_care_what_is_resident() -> None:
    assert chosen([worker("a", running=1, resident="x"), worker("b")]) == "b"


def test_draining_foreign_and_excluded_workers_are_left_out() -> None:
    workers = [worker("a", draining=True), worker("b", base="other"), worker("c")]
    assert chosen(workers) == "c"
    assert chosen(workers, exclude=("c",)) is None


def test_without_workers_there_is_no_choice() -> None:
    assert chosen([]) is None
