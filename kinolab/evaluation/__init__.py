"""What a model, or a part of one, does: measured, and shown on pages."""
