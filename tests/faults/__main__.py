"""``python -m tests.faults > docs/failure-modes.md``"""

from tests.faults.test_page import loaded_page

print(loaded_page(), end="")
