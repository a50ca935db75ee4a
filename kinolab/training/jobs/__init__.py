"""What is trained, one file a job: batches, losses of named parts, held-out numbers, samples, the model folder."""
