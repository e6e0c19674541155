"""The split: which arm answers for an entity, by a salted hash, so that the same entity always gets the same arm.

An entity's place is `blake2b(str(entity), key=salt)`, its first 53 bits as a share from 0 to 1 (RFC 7693; a keyed hash,
so that two rollouts with different salts draw independently). The first canary has the places from 0 upwards, the
second those from 1 downwards, the champion what is between: a canary that grows takes entities from the champion alone
and keeps those it had. A third canary lies on top of the first, a fourth below the second; when the one beneath grows
they are pushed along, and still no entity goes back to the champion.
"""

from bisect import bisect_right
from collections.abc import Container, Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from typing import Any

from bentos.runtime.rollouts.rollout import CHAMPION, Rollout

REMEMBERED = 100_000  # entities whose arm is kept: about 10 MB, and a tenth of a microsecond instead of one


def place(salt: str, entity: int | str) -> float:
    """Where an entity lies between 0 and 1: uniform over entities, and always the same for one salt."""
    found = blake2b(str(entity).encode(errors="surrogatepass"), digest_size=8, key=salt.encode()).digest()
    return (int.from_bytes(found) >> 11) / 2**53


class Split:
    """Assigns entities to the champion and the canaries of one rollout; canaries that are not loaded have no share."""

    def __init__(self, rollout: Rollout, loaded: Container[str]) -> None:
        low, high = rollout.canaries[0::2], rollout.canaries[1::2]
        names = [*(arm.name for arm in low), CHAMPION, *(arm.name for arm in reversed(high))]
        self._arms = [name if name in loaded else CHAMPION for name in names]
        below = accumulate(arm.weight for arm in low)
        above = accumulate(arm.weight for arm in high)
        self._borders = [*below, *(1.0 - taken for taken in reversed([*above]))]
        self._salt = rollout.salt
        self._remembered = lru_cache(REMEMBERED, typed=True)(self._find)

    def arm_of(self, entity: Any) -> str:
        """The arm that answers for an entity; the champion for what is no entity, since it refuses it as well."""
        return self._remembered(entity) if type(entity) in (int, str) else CHAMPION

    def assigned(self, entities: Iterable[Any], named: Iterable[str]) -> list[str]:
        """The arm of each row: the one that its caller named, else, where that is "", the entity's own."""
        return [name or self.arm_of(entity) for entity, name in zip(entities, named, strict=True)]

    def _find(self, entity: int | str) -> str:
        return self._arms[bisect_right(self._borders, place(self._salt, entity))]


def split_of(rollout: Rollout, loaded: Container[str]) -> Split | None:
    """The split of a rollout, None where the champion answers all."""
    return Split(rollout, loaded) if any(arm.weight for arm in rollout.canaries) else None
