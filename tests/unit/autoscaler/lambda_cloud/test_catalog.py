from typing import Any

import pytest

from autoscaler.domain import InstanceType, Offering, TypeOffer
from autoscaler.errors import AuthError
from autoscaler.lambda_cloud.catalog import ADVERTISED_S, FRESH_S, CatalogSource, overlay
from autoscaler.lambda_cloud.prices import price_list
from autoscaler.lambda_cloud.transport import MAX_ATTEMPTS
from tests.unit.autoscaler.lambda_rig import Scripted, error_body, scripted

A10 = "gpu_1x_a10"
BUSY = Scripted(503, error_body("global/internal-error"))


def offer(name: str, price: int | None, *regions: str) -> TypeOffer:
    return TypeOffer(InstanceType(name, price, 1, 1, 1), regions)


def types_answer(price: int, *regions: str) -> Scripted:
    type_ = {"name": A10, "price_cents_per_hour": price, "specs": {}}
    offerings = [{"name": region} for region in regions]
    return Scripted(
        body={"data": {A10: {"instance_type": type_, "regions_with_capacity_available": offerings}}}
    )


def test_the_price_list_says_from_when_and_where_it_is():
    found = price_list()
    assert found.as_of.startswith("20") and len(found.source) > 20
    assert found.types[A10].price_cents_per_hour == 129
    for name, instance_type in found.types.items():
        assert instance_type.name == name
        assert instance_type.price_cents_per_hour and instance_type.price_cents_per_hour > 0
        assert min(instance_type.vcpus, instance_type.memory_gib) > 0
        digits = name.removeprefix("gpu_").split("x", 1)[0]
        assert instance_type.gpus == (0 if name.startswith("cpu_") else int(digits))


def test_live_prices_override_and_unknown_ones_do_not_erase():
    catalog = overlay([offer(A10, 150, "us-west-1"), offer("gpu_1x_a100", None), offer("new", 7)])
    assert catalog.price_cents_per_hour(A10) == 150
    assert catalog.price_cents_per_hour("gpu_1x_a100") == 199
    assert catalog.price_cents_per_hour("new") == 7
    assert catalog.price_cents_per_hour("nonsense") is None
    assert catalog.is_advertised(Offering(A10, "us-west-1"))
    assert not catalog.is_advertised(Offering(A10, "us-east-1"))


def test_without_an_answer_nothing_is_known_to_be_advertised():
    assert overlay(None).advertised is None
    assert overlay([]).advertised == frozenset()


def test_grace_is_arm():
    types = price_list().types
    assert types["gpu_1x_gh200"].architecture == "arm64"
    assert types["gpu_1x_b200_sxm6"].architecture == "x86_64"
    assert types["gpu_1x_h100_sxm5"].architecture == "x86_64"


def test_one_request_serves_for_a_while():
    moments = [1000.0]
    wired = scripted(types_answer(150, "a"), types_answer(160, "b"))
    source = CatalogSource(wired.client, lambda: moments[0])
    for _ in range(3):
        assert source.current().price_cents_per_hour(A10) == 150
    moments[0] += FRESH_S
    assert source.current().price_cents_per_hour(A10) == 160
    assert len(wired.adapter.calls) == 2


def test_while_the_api_is_away_prices_stay_and_capacity_becomes_unknown():
    moments = [1000.0]
    away = [BUSY] * MAX_ATTEMPTS
    wired = scripted(*away, types_answer(150, "a"), *away, *away)
    source = CatalogSource(wired.client, lambda: moments[0])
    first = source.current()
    assert first.advertised is None and first.price_cents_per_hour(A10) == 129
    assert source.current().advertised == {Offering(A10, "a")}
    moments[0] += ADVERTISED_S - 1
    assert source.current().advertised == {Offering(A10, "a")}
    moments[0] += 1
    later = source.current()
    assert later.advertised is None and later.price_cents_per_hour(A10) == 150


def test_a_refused_key_is_not_covered_up():
    wired = scripted(Scripted(401, error_body("global/invalid-api-key")))
    with pytest.raises(AuthError):
        CatalogSource(wired.client).current()


def test_who_comes_while_another_asks_takes_what_is_known(monkeypatch: pytest.MonkeyPatch):
    """A launch does not wait behind another's request, which may take as long as an outage."""
    moments = [1000.0]
    wired = scripted(types_answer(150, "a"), types_answer(160, "b"))
    source = CatalogSource(wired.client, lambda: moments[0])
    source.current()
    moments[0] += FRESH_S
    meanwhile = []
    send = wired.adapter.send

    def send_while_another_comes(*args: Any, **options: Any) -> Any:
        meanwhile.append(source.current().price_cents_per_hour(A10))
        return send(*args, **options)

    monkeypatch.setattr(wired.adapter, "send", send_while_another_comes)
    assert source.current().price_cents_per_hour(A10) == 160
    assert meanwhile == [150] and len(wired.adapter.calls) == 2
