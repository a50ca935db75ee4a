"""`python -m kinolab`, which torchrun needs."""

from kinolab.cli import main

if __name__ == "__main__":
    main()
