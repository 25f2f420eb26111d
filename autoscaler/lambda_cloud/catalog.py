"""Instance types, prices and advertised capacity: Lambda's live answer over the packaged list.

Prices have moved by a third within months, so the live ones count; the packaged ones
(`prices`) fill in while the API cannot be read, and their specs serve where no request may be
made. A price that neither has is None.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

from autoscaler.domain import Instance, InstanceType, Offering, TypeOffer
from autoscaler.errors import UnavailableError
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.prices import price_list

FRESH_S = 10.0
"""How long a live answer is used again: openings last about 84 s, a request costs a second."""
ADVERTISED_S = 60.0
"""After this long without a live answer the advertised capacity counts as unknown."""


@dataclass(frozen=True)
class Catalog:
    """What can be had, at what price. `advertised` is None where it is not known."""

    types: Mapping[str, InstanceType]
    advertised: frozenset[Offering] | None

    def get(self, name: str) -> InstanceType | None:
        return self.types.get(name)

    def price_cents_per_hour(self, name: str) -> int | None:
        found = self.types.get(name)
        return found.price_cents_per_hour if found else None

    def is_advertised(self, offering: Offering) -> bool:
        return self.advertised is not None and offering in self.advertised


def overlay(live: Iterable[TypeOffer] | None) -> Catalog:
    """The live answer over the packaged price list; `None` is no answer."""
    types = dict(price_list().types)
    if live is None:
        return Catalog(types, None)
    advertised: set[Offering] = set()
    for offer in live:
        name = offer.instance_type.name
        advertised.update(Offering(name, region) for region in offer.regions)
        if offer.instance_type.price_cents_per_hour is None and name in types:
            continue
        types[name] = offer.instance_type
    return Catalog(types, frozenset(advertised))


def with_price(instance: Instance) -> Instance:
    """With the packaged price where Lambda gives none with the machine; None if neither has."""
    given = instance.instance_type
    known = price_list().types.get(given.name)
    if given.price_cents_per_hour is not None or known is None:
        return instance
    return replace(
        instance, instance_type=replace(given, price_cents_per_hour=known.price_cents_per_hour)
    )


class CatalogSource:
    """The catalog of this moment. Thread-safe; one request at a time, however many ask."""

    def __init__(
        self,
        client: LambdaClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._clock = clock
        self._asking = threading.Lock()
        self._known = overlay(None)
        self._read_s: float | None = None

    def known(self, name: str) -> InstanceType | None:
        """A type as last seen; sends nothing."""
        return self._known.get(name)

    def dearest_cents_per_hour(self) -> int:
        """Of all types, as last seen; sends nothing."""
        return max(t.price_cents_per_hour or 0 for t in self._known.types.values())

    def current(self) -> Catalog:
        """At most one request per FRESH_S, and one at a time: who comes while another asks takes
        what is known. While the API is away: last prices, capacity unknown.

        Raises AuthError and AccountError, which waiting does not fix.
        """
        if self._age_s() >= FRESH_S and self._asking.acquire(blocking=False):
            try:
                self._known = overlay(self._client.list_instance_types())
                self._read_s = self._clock()
            except UnavailableError:
                pass  # the age says what the old answer is still good for
            finally:
                self._asking.release()
        if self._age_s() >= ADVERTISED_S:
            return Catalog(self._known.types, None)
        return self._known

    def _age_s(self) -> float:
        """Infinite before the first answer, and when the clock was set back."""
        if self._read_s is None or self._clock() < self._read_s:
            return inf
        return self._clock() - self._read_s
