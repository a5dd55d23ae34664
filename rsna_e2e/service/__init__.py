"""The service: takes studies over HTTP, predicts them one after the other, and shows the results in a browser."""
