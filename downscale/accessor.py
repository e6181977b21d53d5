"""The xarray accessor ``.downscale`` of Datasets and DataArrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from downscale.request import takes_request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from downscale.conservation.report import ConservationReport
    from downscale.engine.plan import Plan


class _Accessor:
    """Downscale this object; see :func:`downscale.downscale` for all arguments.

    Examples
    --------
    >>> import downscale
    >>> ds = downscale.sample.open("north_america")
    >>> dict(ds.downscale(4).sizes)["lat"]
    148
    """

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    @takes_request
    def __call__(self, factor: Any = None, method: Any = "sobolev", **options: Any) -> Any:
        """Return the fine object; same as ``downscale.downscale(obj, factor, method, ...)``.

        Parameters
        ----------
        {arguments}
        """
        from downscale.api import downscale

        return downscale(self._obj, factor, method, **options)

    @takes_request
    def plan(self, factor: Any = None, method: Any = "sobolev", **options: Any) -> Plan:
        """Return the plan of a call with these arguments, without reading any data."""
        from downscale.api import plan

        return plan(self._obj, factor, method, **options)

    def check(self, other: Any, **options: Any) -> ConservationReport:
        """Check conservation between this object and ``other``; the order of coarse and fine does not matter."""
        from downscale.check.conservation import check_conservation, coarse_and_fine

        return check_conservation(*coarse_and_fine(self._obj, other), **options)

    def conserve(self, coarse: Any, constraint: str = "auto", **options: Any) -> Any:
        """Return this fine field with the cell means of ``coarse``; see :func:`downscale.conserve`."""
        from downscale.check.conserve import conserve

        return conserve(self._obj, coarse, constraint, **options)

    def hourly(self, step: Any = "h", **options: Any) -> Any:
        """Return hourly steps of daily fields with exact means and extremes; see :func:`downscale.hourly`."""
        from downscale.steps.hourly import hourly

        return hourly(self._obj, step, **options)

    def plot(self, other: Any = None, kind: str = "compare", **options: Any) -> Figure:
        """Plot this object and another one; the order of coarse and fine does not matter.

        Parameters
        ----------
        other : Dataset or DataArray, optional
            The object at the other resolution; optional for a spectrum.
        kind : {"compare", "zoom", "conservation", "spectrum"}
            A figure of :mod:`downscale.plot`.
        **options
            Options of that function, such as ``path="map.png"`` or ``select={"time": -1}``.

        Raises
        ------
        OptionError
            If the kind is unknown, or the other object is missing.
        """
        from downscale import plot
        from downscale.check.conservation import coarse_and_fine
        from downscale.errors import OptionError, listing

        kinds = ("compare", "zoom", "conservation", "spectrum")
        if kind not in kinds:
            raise OptionError(f"expected a kind among {listing(kinds)}, received {kind!r}")
        if other is None and kind != "spectrum":
            raise OptionError(f"expected the other resolution, received none; call .plot(fine, {kind!r})")
        pair = (self._obj,) if other is None else coarse_and_fine(self._obj, other)
        if kind == "spectrum":
            return plot.spectrum(dict(zip(("coarse", "fine"), pair, strict=False)), **options)
        return getattr(plot, kind)(*pair, **options)

    def blur(self, psf: Any, **options: Any) -> Any:
        """Return the fields blurred by a point-spread function; see :func:`downscale.blur`."""
        from downscale.steps.deconvolution import blur

        return blur(self._obj, psf, **options)

    def deconvolve(self, psf: Any, method: str = "richardson_lucy", **options: Any) -> Any:
        """Undo the blur of an instrument; see :func:`downscale.deconvolve`."""
        from downscale.steps.deconvolution import deconvolve

        return deconvolve(self._obj, psf, method, **options)

    def encode(self, model: Any, device: str = "auto") -> xr.Dataset:
        """Compress fine fields to coarse means and a code; see :func:`downscale.encode`."""
        from downscale.runs.compression import encode

        return encode(self._obj, model, device)

    def weights(self, factor: Any = None, method: str = "sobolev", **options: Any) -> xr.Dataset:
        """Return the weights of a method as ``row, col, S``; see :func:`downscale.weights`."""
        from downscale.methods.operators import weights

        return weights(self._obj, factor, method, **options)

    def coarsen(self, factor: Any, *, na_thres: float = 1.0) -> Any:
        """Return area-weighted means over blocks of cells; see :func:`downscale.coarsen`."""
        from downscale.steps.coarsen import coarsen

        return coarsen(self._obj, factor, na_thres=na_thres)


@xr.register_dataset_accessor("downscale")
class DatasetAccessor(_Accessor):
    """``Dataset.downscale``: downscale a Dataset, plan, check or plot it, with the methods listed below."""


@xr.register_dataarray_accessor("downscale")
class DataArrayAccessor(_Accessor):
    """``DataArray.downscale``: downscale a DataArray, with the same methods as for a Dataset."""
