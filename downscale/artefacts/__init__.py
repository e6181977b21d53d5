"""The artefact laboratory: diagnose a kernel, a model or a written file (knows all of them, makes no field)."""

from __future__ import annotations

from downscale.artefacts.diagnosis import Diagnosis
from downscale.artefacts.subject import diagnose

__all__ = ["Diagnosis", "diagnose"]
