"""What data looks like: near duplicates across splits, masks that look wrong, exposure that shifts.

files → :mod:`looks` → :mod:`duplicates`, :mod:`masks`, :mod:`shifts` → :mod:`audit` → :mod:`page`.
"""
