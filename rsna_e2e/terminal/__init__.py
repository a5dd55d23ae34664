"""The console: patients, predictions and curves in a terminal."""
