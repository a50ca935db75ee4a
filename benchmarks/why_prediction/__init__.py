"""Why predicted objects change: experiments on the toy world, one file each, figures in docs/why-prediction.md.

latents: where colour, shape and place live in an autoencoder's latents, and at which noise they can still be told.
times: how often training sees the noise at which these have to be known from what is given.
drift: what a model loses, frame by frame and step by step, and whether it listens to what is given.
alone: the smallest thing that can be learned exactly, and what breaks it.
continued: the shipped `world` trained on, with one change at a time.
attention: where a predicted frame looks, block by block.
guided: whether guidance on what is given mends a prediction.
boxes: where the shape of a box that turns is lost.
"""
