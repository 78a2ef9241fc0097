"""The machine and its files: what Python, the disk and XLA need around the mathematics."""
