"""Signals about a clip, one file each: a number, and what is worth saying of it. `kinolab data check` shows them."""
