"""The ground floor: what every room needs of the machine it runs on, each thing in one place.

devices: which device a run takes and how that is said.
text: the encoding of text files, where a line ends, and the first line of an error.
"""
