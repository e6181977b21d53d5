"""Names in the graph: equal requests share their work, different ones never do."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from sample_fields import rain_on, region, relief_on

import downscale

GRID = region(8, 10)
FIELD = rain_on(GRID, 2, seed=3).chunk({"time": 1})
OROG = relief_on(GRID, (2, 2)).orog
MASK = xr.ones_like(OROG).astype("f8")


def keys_of(field: xr.DataArray) -> set[str]:
    return {str(key) for key in dask.base.collections_to_expr(field.data).optimize().__dask_graph__()}


def other(value: xr.DataArray) -> xr.DataArray:
    changed = value.copy(deep=True)
    changed[0, 0] = 0.0
    return changed


REQUESTS: list[dict[str, Any]] = [
    {"factor": 2},
    {"factor": 3},
    {"factor": 2, "method": "bilinear"},
    {"factor": 2, "method": "bicubic"},
    {"factor": 2, "taps": 5},
    {"factor": 2, "order": 1.1},
    {"factor": 2, "bounds": None},
    {"factor": 2, "bounds": (0, 1000.0)},
    {"factor": 2, "conserve": None},
    {"factor": 2, "tolerance": 1e-3},
    {"factor": 2, "check": "skip"},
    {"factor": 2, "mask": MASK},
    {"factor": 2, "mask": other(MASK)},
    {"factor": 2, "orog": OROG, "lapse_rate": -6.5e-3},
    {"factor": 2, "orog": other(OROG), "lapse_rate": -6.5e-3},
    {"factor": 2, "orog": OROG, "lapse_rate": -6e-3},
    {"factor": 2, "orog": OROG, "lapse_rate": -6e-3, "relief_smoothing": 0},
    {"factor": 2, "method": "cascade", "seed": 1},
    {"factor": 2, "method": "cascade", "seed": 2},
    {"factor": 2, "quantity": "extensive"},
]


def made(request: dict[str, Any], field: xr.Dataset = FIELD) -> xr.DataArray:
    return downscale.downscale(field, **request).pr


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: " ".join(map(str, request)))
def test_equal_requests_have_one_name(request_: dict[str, Any]) -> None:
    one, two = made(request_), made({k: v.copy(deep=True) if hasattr(v, "copy") else v for k, v in request_.items()})
    assert one.data.name == two.data.name
    assert keys_of(one) == keys_of(two)


def test_different_requests_have_different_names() -> None:
    fields = [made(request) for request in REQUESTS] + [made({"factor": 2}, FIELD + 0.0)]
    assert len({field.data.name for field in fields}) == len(fields)
    together = dask.compute(*(field.data for field in fields))
    for request, field, mixed in zip([*REQUESTS, {"factor": 2}], fields, together, strict=True):
        np.testing.assert_array_equal(mixed, field.compute(), err_msg=str(request))


def test_an_object_without_a_token_has_a_name_of_its_own() -> None:
    from downscale.engine.apply import tokenize_content

    class Closed:
        def __reduce__(self) -> Any:
            raise TypeError("not to be looked into")

    one = Closed()
    assert tokenize_content(one) != tokenize_content(one)
    assert tokenize_content(np.arange(3)) == tokenize_content(np.arange(3)) != tokenize_content(np.arange(4))
