"""Speed and memory, side by side with what a user would pick instead: `python -m benchmarks`, or `make bench`.

Every comparison runs its entrants in turns (A B A B) in one process, so that a busy machine slows them alike: quote
the ratios, not the times. It also says how far the outputs lie apart.
"""
