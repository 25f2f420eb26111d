"""The packaged price list, `prices.json`: every instance type with its price and size.

It is dated and says where it comes from. The provider lays Lambda's live answers over it
(`catalog`); jobs, which cannot ask Lambda, estimate their cost with it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from pydantic import BeforeValidator

from autoscaler.domain import InstanceType
from autoscaler.lambda_cloud.wire import read


def _by_name(types: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {instance_type["name"]: instance_type for instance_type in types}


@dataclass(frozen=True)
class PriceList:
    as_of: str
    """The month in which the prices were read, "2026-08"."""
    source: str
    types: Annotated[Mapping[str, InstanceType], BeforeValidator(_by_name)]
    """By name; every one has a price."""


@cache
def price_list() -> PriceList:
    """No network."""
    text = files("autoscaler.lambda_cloud").joinpath("prices.json").read_text(encoding="utf-8")
    return read(PriceList, json.loads(text), "prices.json")
