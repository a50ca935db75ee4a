"""The answers of the studio, one file for each panel of the page; `routes.py` has the list of them."""
