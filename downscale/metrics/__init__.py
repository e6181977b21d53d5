"""Scores, spectra and artefact measures as running sums over chunks."""
