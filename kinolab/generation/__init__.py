"""From requests to files: clips through an autoencoder, videos for VBench, the toy world that matches a model."""
