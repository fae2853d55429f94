"""Values: equal by content within their class, hashable; their text hides what it is told to."""

from dataclasses import field, replace

from gateway.frozen import frozen


@frozen
class Point:
    x: int
    y: int = 0
    proof: bytes = field(default=b"", repr=False)


@frozen
class Pixel:
    x: int
    y: int = 0
    proof: bytes = b""


@frozen
class One:
    only: tuple[int, ...]


@frozen
class Nothing:
    pass


def test_values_are_equal_when_all_their_fields_are() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2, b"a") != Point(1, 2, b"b")
    assert One((1,)) == One((1,)) != One((2,))
    assert Nothing() == Nothing()


def test_a_value_is_equal_to_none_of_another_class() -> None:
    others: list[tuple[object, object]] = [
        (Point(1, 2), Pixel(1, 2)),
        (One((1,)), (1,)),
        (Nothing(), ()),
    ]
    assert [ours == other for ours, other in others] == [False] * 3


def test_equal_values_are_one_member_of_a_set() -> None:
    assert len({Point(1), Point(1), Point(2), One((1,)), One((1,)), Nothing(), Nothing()}) == 4


def test_a_value_tells_its_fields_but_those_that_are_kept_out() -> None:
    assert repr(Point(1, proof=b"secret")) == "Point(x=1, y=0)"
    assert repr(One((1,))) == "One(only=(1,))"
    assert repr(Nothing()) == "Nothing()"


def test_a_value_is_slotted_and_can_be_replaced_but_for_a_field() -> None:
    assert not hasattr(Point(1), "__dict__")
    assert replace(Point(1), y=5) == Point(1, 5)
