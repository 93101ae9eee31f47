"""Records → rankings: which numbers may be compared, their means, intervals, ranks and tests."""
