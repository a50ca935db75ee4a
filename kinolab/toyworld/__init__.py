"""A benchmark world that agrees with itself: words, motions, scenes, clips of them, and a reader of pixels.

`words` and what they promise (`motion`), `scenes` under gravity, `clips` that show them, their `source` for training,
and the `reader`, which finds the objects again in pixels alone.
"""
