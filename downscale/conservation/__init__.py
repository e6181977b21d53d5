"""Conservation errors as reductions over chunks, and the check report."""
