"""The accessor ``.downscale`` of Datasets and DataArrays: validate, format, call (no torch until it is called)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

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

    def __call__(self, factor: Any = None, method: Any = "sobolev", **options: Any) -> Any:
        """Return the fine object; same as ``downscale.downscale(obj, factor, method, ...)``."""
        from downscale.api import downscale

        return downscale(self._obj, factor, method, **options)

    def plan(self, factor: Any = None, method: Any = "sobolev", **options: Any) -> Plan:
        """Return what a call with these arguments would do; touches no data."""
        from downscale.api import plan

        return plan(self._obj, factor, method, **options)

    def check(self, other: Any, **options: Any) -> ConservationReport:
        """Check conservation between this object and ``other``, whichever of the two is the coarse one."""
        from downscale.check.conservation import check_conservation, coarse_and_fine

        return check_conservation(*coarse_and_fine(self._obj, other), **options)

    def plot(self, other: Any = None, kind: str = "compare", **options: Any) -> Figure:
        """Draw this object and another one, whichever of the two is the coarse one.

        Parameters
        ----------
        other : Dataset or DataArray, optional
            The other resolution; only a spectrum can do without.
        kind : {"compare", "zoom", "conservation", "spectrum"}
            A figure of :mod:`downscale.plot`.
        **options
            Of that function, such as ``path="map.png"`` or ``select={"time": -1}``.

        Raises
        ------
        OptionError
            If there is no such kind, or the other object is missing.
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
        """Return what an instrument would see of the fields; see :func:`downscale.blur`."""
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
        """Average over blocks of cells with exact areas and masks; see :func:`downscale.coarsen`."""
        from downscale.steps.coarsen import coarsen

        return coarsen(self._obj, factor, na_thres=na_thres)


@xr.register_dataset_accessor("downscale")
class DatasetAccessor(_Accessor):
    """``Dataset.downscale``: call it, or ask it for a plan, a check, a plot and so on, as listed below."""


@xr.register_dataarray_accessor("downscale")
class DataArrayAccessor(_Accessor):
    """``DataArray.downscale``: call it, or what a Dataset has."""
