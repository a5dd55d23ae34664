"""Trained runs applied: from a run and a study store to predictions, submissions, embeddings and averages of them."""
