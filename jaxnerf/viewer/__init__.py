"""A run in a browser: as one HTML file that renders a fast field itself, and live, rendered here."""
