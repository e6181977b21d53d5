"""What can be done to a field: aggregate, conserve, differentiate."""
