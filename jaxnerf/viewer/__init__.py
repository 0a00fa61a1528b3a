"""Runs in a browser: as one HTML file that renders the fast field itself, or live, rendered by Python."""
