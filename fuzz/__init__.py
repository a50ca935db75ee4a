"""A fuzzer of Kinolab's readers: broken and hostile files of every kind that it reads, and what must never come of one.

    python -m fuzz --minutes 5                  every kind in turn; what fails is kept in out/fuzz
    python -m fuzz --kind weights --count 2000  one kind
    python -m fuzz --replay out/fuzz/X.json     what was kept, again

An input is refused by an InputError or OSError of one line, or read. Whatever else happens is a finding: another error,
a crash, more than 20 seconds or 2 GB, anything written or removed outside its folder, anything that runs.

    seeds.py made.py      valid files of every kind: from the archive of the tests, and made
    targets.py readers.py what is read, and by which functions
    values.py bytes.py formats.py cases.py   inputs: by value, by byte, by container; one by its number
    guard.py worker.py run.py report.py      what is watched, in processes that may die, over all numbers
"""
