"""The words of the toy world and what they promise: shared by its generator (data) and the reader of pixels (metrics)."""
