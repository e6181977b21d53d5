"""The artefact laboratory: diagnose a kernel, a model or a written file (knows all of them, makes no field)."""

from __future__ import annotations

from downscale.laboratory.diagnosis import Diagnosis
from downscale.laboratory.subject import diagnose

__all__ = ["Diagnosis", "diagnose"]
