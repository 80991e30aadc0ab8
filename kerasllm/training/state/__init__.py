"""The training state: what is saved for a resume, and how it is restored."""
