"""What a run will cost, before it starts: memory and time of a training, the settings a model samples fastest with."""
