"""The page one can send: a trained fast field in one HTML file that renders itself in a browser."""
