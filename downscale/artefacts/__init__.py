"""Diagnosis of artefacts of kernels, models and written files."""

from __future__ import annotations

from downscale.artefacts.diagnosis import Diagnosis
from downscale.artefacts.subject import diagnose

__all__ = ["Diagnosis", "diagnose"]
