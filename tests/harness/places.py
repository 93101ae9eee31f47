"""The card of a dataset of one's own, as several tests make one; what they add follows its ``[layout]``."""

CARD = """
schema = 1
title = "Own"
licence = "CC0"
homepage = "https://example.org"
folders = ["own"]
[layout]
train = ["{category}/train/good/*"]
test = ["{category}/test/*/*"]
"""
MASKS = 'masks = ["{category}/ground_truth/{defect}/{stem}.png"]\n'
