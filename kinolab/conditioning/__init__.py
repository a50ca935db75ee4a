"""What a denoiser is told of a clip. `text/` holds the text encoders."""
