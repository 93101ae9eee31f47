"""Has anything become worse? A baseline of results, and the check of new results against it.

records → :mod:`gather` → :mod:`baseline` → :mod:`judge` (by :mod:`significance`) → :mod:`report`, shown by
:mod:`show` and :mod:`explain`, remembered by :mod:`history`.
"""
