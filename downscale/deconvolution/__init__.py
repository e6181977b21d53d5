"""Undo the blur of an instrument: point-spread functions, the blur they make, and its regularised inverses."""
