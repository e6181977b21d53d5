"""Registration of the xarray accessors, at once or when xarray is imported.

Importing xarray takes most of a second, too long for a command that only prints its help. If xarray is already
imported, the accessors are registered at once, otherwise right after its import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_accessors() -> None:
    """Register ``.downscale`` with xarray, now or when xarray is imported."""
    if "xarray" in sys.modules:
        import downscale.accessor  # noqa: F401 - the import registers
    elif not any(isinstance(finder, _AfterXarray) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterXarray())


class _AfterXarray(MetaPathFinder):
    """Delegate to the usual finders and register the accessors after the import; looking up the spec has no effect."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "xarray":
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, self)
        return spec


class _Registering(Loader):
    """The loader of xarray, followed by registration of the accessors."""

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> object:
        # Other attributes, such as source and resources, belong to the original loader.
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Restore the original loader, which provides resources and source later.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        import downscale.accessor  # noqa: F401 - the import registers
