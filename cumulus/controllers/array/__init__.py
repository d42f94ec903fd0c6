"""The array controller: makes the jobs of GPUJobArrays, so many at once."""
