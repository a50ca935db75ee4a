"""The ground floor: what every room needs of the machine it runs on, each thing in one place.

devices: which device a run takes and how that is said.
text: the encoding of text files, where a line ends, and the first line of an error.
system, failures, leftovers, paths, files, logs, sets, stores, locks: writing, whole or not at all (SECURITY.md).
hashes, reading, records, yaml_files, weights, lines: reading, within limits and checked.
unpickling (pickle_parts, pickle_machine), torch_files (torch_parts): pickles in which nothing runs.
sharded (shard_storage, old_checkpoints): training states on disk.
"""
