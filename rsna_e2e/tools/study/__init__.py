"""The study: does training end to end beat two stages, at the same number of slices seen?"""
