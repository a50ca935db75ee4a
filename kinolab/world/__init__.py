"""The words of the toy world and what they promise, for its generator (data) and the reader of pixels (metrics)."""
