"""What has to be measured on a card, in one script that needs nothing but torch and numpy where it runs.

`python -m benchmarks.gpu prepare --out build/gpu` makes a folder to carry along, on a machine with the clips and a
network; `python -m benchmarks.gpu run --carry build/gpu --out OUT` runs on the machine with the card, as often as it
takes. docs/gpu.md says what each part tells.
"""
